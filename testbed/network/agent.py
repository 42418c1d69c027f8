"""The agent: sets the link state of one run, from a container in the host's network namespace.

It needs NET_ADMIN; the userspace back end besides NET_RAW, to send duplicates, and SYS_NICE, to be on time.

    python -m testbed.network.agent                     serve requests until standard input ends
    python -m testbed.network.agent --list              the runs that have left a table in this kernel
    python -m testbed.network.agent --remove RUN ...    take their tables away

One JSON object a line on standard input, {"id": 1, "do": "apply", ...}, and one a line on standard output, {"id": 1,
"ok": true, ...} or {"id": 1, "ok": false, "error": {"kind": "machine" | "bug", "message": ..., "remedy": ...}}. When
standard input ends, the supervisor is gone: the agent takes away everything of its run, and ends.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, BinaryIO

from testbed.core.links import LinkState
from testbed.errors import MachineError
from testbed.network.kernel import Kernel
from testbed.network.nft import remove, runs, show_tables, table_name
from testbed.network.session import Session
from testbed.network.userspace import steering

Json = dict[str, Any]


class Agent:
    """Answers requests; holds one session at most."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._session: Session | None = None
        self._verbs: dict[str, Callable[[Json], Json]] = {
            "probe": self._probe,
            "open": self._open,
            "attach": self._attach,
            "apply": self._apply,
            "counters": self._counters,
            "load": self._load,
            "readback": self._readback,
            "close": self._close,
        }

    def answer(self, request: Json) -> Json:
        """Never raises: what went wrong is part of the answer."""
        try:
            if request["do"] not in self._verbs:
                raise ValueError(f"no request is called {request['do']!r}; there are {', '.join(self._verbs)}")
            return {"id": request["id"], "ok": True, **self._verbs[request["do"]](request)}
        except MachineError as exc:
            error = {"kind": "machine", "message": str(exc), "remedy": exc.remedy}
        except Exception:
            error = {"kind": "bug", "message": traceback.format_exc(), "remedy": None}
        return {"id": request.get("id"), "ok": False, "error": error}

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _probe(self, request: Json) -> Json:
        return {"capabilities": self._kernel.capabilities().to_json()}

    def _open(self, request: Json) -> Json:
        if self._session is not None:
            raise ValueError(f"{self._session.table} is open already")
        self._session = Session(
            self._kernel,
            self._kernel.capabilities(),
            run=request["run"],
            backend=request["backend"],
            addresses=request["addresses"],
            state=LinkState.from_json(request["state"]),
        )
        return {"backend": self._session.backend, "table": self._session.table}

    def _attach(self, request: Json) -> Json:
        interface = self._opened().attach(request["node"], request["interface"])
        return {"name": interface.name, "ifindex": interface.index}

    def _apply(self, request: Json) -> Json:
        done = self._opened().apply(LinkState.from_json(request["state"]))
        return {"took_s": done.took_s, "wrong": done.wrong}

    def _counters(self, request: Json) -> Json:
        return {"pairs": [count.to_json() for count in self._opened().counters()]}

    def _load(self, request: Json) -> Json:
        load = self._opened().load()
        return {"load": load and load.to_json()}

    def _readback(self, request: Json) -> Json:
        return {"state": self._opened().readback().to_json()}

    def _close(self, request: Json) -> Json:
        self.close()
        return {}

    def _opened(self) -> Session:
        if self._session is None:
            raise ValueError("nothing is open")
        return self._session


def serve(kernel: Kernel, requests: Iterable[bytes], answers: BinaryIO) -> None:
    """Until `requests` end. However it ends, nothing of the run is left."""
    with closing(Agent(kernel)) as agent:
        for line in requests:
            with _undisturbed():
                answer = agent.answer(json.loads(line))
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m testbed.network.agent", description=__doc__.partition("\n")[0])
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--list", action="store_true", help="print the runs that have a table, one a line")
    choice.add_argument("--remove", nargs="+", metavar="RUN", default=[], help="delete the tables of these runs")
    arguments = parser.parse_args()
    try:
        with Kernel() as kernel:
            if arguments.list:
                print(*runs(kernel.nft(show_tables())), sep="\n")
            elif arguments.remove:
                _remove(kernel, [table_name(run) for run in arguments.remove])
            else:
                # Ctrl-C reaches everything in the terminal; the supervisor decides what it means, and ends our input.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, _leave)
                serve(kernel, iter(sys.stdin.buffer.readline, b""), sys.stdout.buffer)
    except MachineError as exc:
        print(exc, exc.remedy or "", sep="\n", file=sys.stderr)
        return exc.exit_code
    return 0


def _remove(kernel: Kernel, tables: Iterable[str]) -> None:
    """What `--list` shows comes last, so that a removal that was cut short is seen, and done again."""
    tables = list(tables)
    with suppress(MachineError):  # a kernel without nftables in the ip family has no such table
        kernel.nft([command for table in tables for command in steering.remove(table)])
    kernel.nft([command for table in tables for command in remove(table)])


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A request is carried out whole: what is half made would not be known to those who put it away."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave(number: int, frame: object) -> None:
    """`docker stop`: unwind, so that everything is put away; once."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
