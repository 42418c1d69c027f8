"""The supervisor's side of the agent: a method per request, a deadline for each. Standard library only.

Works over any pair of byte streams (a container's attached standard streams, pipes of a process). Errors that the agent
reports as the machine's come out as MachineError. An agent that is silent or gone is a BringUpError while links are
being set up, and a NetworkError once they are in use, because then nobody knows what the network does.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

from testbed.core.links import LinkState
from testbed.errors import BringUpError, MachineError, NetworkError, TestbedError
from testbed.network.backend import Backend, Capabilities
from testbed.network.count import PairCount
from testbed.network.readback import Applied
from testbed.network.userspace.load import Load


class Lines(Protocol):
    """Where answers come from; an empty line of zero bytes is the end."""

    def readline(self) -> bytes: ...


class Sink(Protocol):
    """Where requests go."""

    def write(self, data: bytes, /) -> object: ...
    def flush(self) -> object: ...


class AgentClient:
    """Speaks to one agent; one request at a time, from any thread. The streams are the caller's to close."""

    def __init__(self, answers: Lines, requests: Sink, *, deadline_s: float = 30.0) -> None:
        self._answers = answers
        self._requests = requests
        self.deadline_s = deadline_s
        self._turn = threading.Lock()
        self._number = 0
        self._inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._set_up = False  # some state has been applied or counted: from now on, training may be under way
        threading.Thread(target=self._listen, name="agent answers", daemon=True).start()

    def probe(self) -> Capabilities:
        return Capabilities.from_json(self._ask("probe")["capabilities"])

    def open(self, run: str, *, backend: str, addresses: Sequence[str], state: LinkState) -> Backend:
        """`run` names the nftables table, `addresses` are the nodes' on the data network, in order.

        Returns the back end that `backend` (auto, netem, nft or userspace) came to. In force at once for cuts and, in
        the nft back end, losses; the rest with `attach`.
        """
        answer = self._ask("open", run=run, backend=backend, addresses=list(addresses), state=state.to_json())
        chosen: Backend = answer["backend"]
        return chosen

    def attach(self, node: int, interface: int | str) -> str:
        """`interface`: the host's end of the data veth of `node`, by index (its `iflink`) or name; its name.

        Again whenever the node's container was started: its veth is a new one.
        """
        return str(self._ask("attach", node=node, interface=interface)["name"])

    def apply(self, state: LinkState) -> Applied:
        """Make `state` the network's; how long it took in the agent, and what the kernel does not hold as meant."""
        self._set_up = True
        answer = self._ask("apply", state=state.to_json())
        return Applied(float(answer["took_s"]), tuple(answer["wrong"]))

    def counters(self) -> list[PairCount]:
        """Of every ordered pair, since `open`."""
        self._set_up = True
        return [PairCount.from_json(row) for row in self._ask("counters")["pairs"]]

    def load(self) -> Load | None:
        """What the process that holds packets back had to do since `open`; None where the back end has none."""
        load = self._ask("load")["load"]
        return load and Load.from_json(load)

    def readback(self) -> LinkState:
        """What the kernel holds; readback.differences compares it with what was meant."""
        return LinkState.from_json(self._ask("readback")["state"])

    def close(self) -> None:
        """Everything of the run away. (The end of the agent's input does the same.)"""
        self._ask("close")

    def _ask(self, do: str, **values: Any) -> dict[str, Any]:
        with self._turn:
            self._number += 1
            try:
                self._requests.write(json.dumps({"id": self._number, "do": do, **values}).encode() + b"\n")
                self._requests.flush()
            except (OSError, ValueError) as exc:  # (ValueError: the stream is closed)
                raise self._lost(f"the network agent is gone: `{do}` could not be sent ({exc})") from exc
            answer = self._await(do)
        if answer["ok"]:
            return answer
        error = answer["error"]
        if error["kind"] == "machine":
            raise MachineError(error["message"], remedy=error["remedy"])
        raise RuntimeError(f"the network agent failed at `{do}`:\n{error['message']}")

    def _await(self, do: str) -> dict[str, Any]:
        end_s = time.monotonic() + self.deadline_s
        while True:
            try:
                line = self._inbox.get(timeout=max(0.0, end_s - time.monotonic()))
            except queue.Empty:
                raise self._lost(f"the network agent did not answer `{do}` within {self.deadline_s:g} s") from None
            if not line:
                self._inbox.put(line)  # for whoever asks next
                raise self._lost(f"the network agent ended before it answered `{do}`")
            answer: dict[str, Any] = json.loads(line)
            if answer["id"] == self._number:  # an older number: the late answer to a request given up
                return answer

    def _lost(self, message: str) -> TestbedError:
        remedy = "see the agent container's log"
        return NetworkError(message, remedy=remedy) if self._set_up else BringUpError(message, remedy=remedy)

    def _listen(self) -> None:
        """Reads ahead, since a deadline cannot be put on `readline`."""
        try:
            while line := self._answers.readline():
                self._inbox.put(line)
        except (OSError, ValueError):
            pass  # closed under our hands: the same as its end
        self._inbox.put(b"")
