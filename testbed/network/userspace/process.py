"""The agent's side of the process that holds packets back: started, told of the links, asked for its counts, ended.

Opened by making it. A change sends what differs; those pairs that need nothing never come near the queue.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from testbed.core.links import Link, LinkState, Pair, all_pairs, link_from_json, link_to_json
from testbed.errors import MachineError
from testbed.network.nft import Command
from testbed.network.userspace.line import share
from testbed.network.userspace.load import Load
from testbed.network.userspace.program import packet_socket
from testbed.network.userspace.queue import Queue
from testbed.network.userspace.steering import Steering, add_queue_rule, late_pairs, probe_queue_rule

END_S = 5.0  # for the process to let go what it holds

Nft = Callable[[Sequence[Command]], list[Command]]


class Userspace:
    """One run's. Whatever happens, `close` takes everything away again, and twice does no harm."""

    def __init__(self, nft: Nft, run: str, addresses: Sequence[str]) -> None:
        """`nft` carries out commands in one transaction."""
        self._nft = nft
        self._steering = Steering(run, addresses)
        self._told: dict[Pair, Link] = dict.fromkeys(all_pairs(len(addresses)), Link())
        self._process = subprocess.Popen(
            [sys.executable, "-m", "testbed.network.userspace.program"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            queue = self._ask({"addresses": list(addresses)})["queue"]
            nft(self._steering.create())
            _add_rule(self._steering.table, queue)
        except BaseException:
            self.close()
            raise

    def apply(self, old: LinkState, new: LinkState) -> list[Command]:
        """Make `new` hold for the packets that come from now on; those that are on their way keep their time.

        Returns the commands that steer the pairs which need it to the queue, and no longer those that do not: for the
        caller to carry out, together with what else changes from `old` to `new`.
        """
        links = {pair: share(link) for pair, link in new.links.items()}
        changed = {pair: link for pair, link in links.items() if link != self._told[pair]}
        if changed:
            self._ask({"set": [[*pair, link_to_json(link)] for pair, link in changed.items()]})
            self._told |= changed
        return self._steering.change(late_pairs(old), late_pairs(new))

    def links(self, answer: Sequence[Command]) -> dict[Pair, Link]:
        """What happens to the packets of the pairs that are steered to the process, by its own word; the others are not
        there. `answer`: what nft said to `show`."""
        steered = self._steering.read(answer)
        held = {(a, b): link_from_json(link) for a, b, link in self._ask({"links": True})["links"]}
        return {pair: link for pair, link in held.items() if pair in steered}

    def show(self) -> list[Command]:
        return self._steering.show()

    def counters(self) -> tuple[Counter[Pair], Counter[Pair], Load]:
        """Packets lost because a link loses, packets for which a link had no room, and the load."""
        answer = self._ask({"counters": True})
        lost, overflow = (Counter({(a, b): packets for a, b, packets in answer[what]}) for what in ("lost", "overflow"))
        return lost, overflow, Load.from_json(answer["load"])

    def close(self) -> None:
        """New packets pass, and those that wait go on at once. The table goes last: the kernel drops what waits in any
        queue when a hook goes away."""
        with suppress(MachineError):  # no table
            self._nft(self._steering.release())
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        with suppress(MachineError):  # no nftables
            self._nft(self._steering.remove())

    def __enter__(self) -> Userspace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except (BrokenPipeError, ValueError):
            line = b""
        if not line:
            raise MachineError(
                f"the process that delays packets has ended (exit status {self._process.poll()}); what it held is lost",
                remedy="run it again; what the process said stands among the agent's words",
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise MachineError(answer["error"], remedy=answer["remedy"])
        return answer


def probe() -> str | None:
    """Why packets cannot be handed to a process here; None if they can. Leaves nothing."""
    if not os.path.exists("/proc/sys/net/bridge/bridge-nf-call-iptables"):
        return "it does not show bridged packets to iptables' hooks (br_netfilter)"
    try:
        with Queue():
            pass
    except (MachineError, OSError) as error:
        return str(error)
    try:
        probe_queue_rule()
    except OSError as error:
        return f"nftables takes no rule that hands packets to a process ({error.strerror}; xt_NFQUEUE, nft_compat)"
    return None


def can_duplicate() -> bool:
    """Whether a second copy of a packet can be sent: that takes NET_RAW."""
    try:
        packet_socket().close()
    except PermissionError:
        return False
    return True


def _add_rule(table: str, queue: int) -> None:
    try:
        add_queue_rule(table, queue)
    except OSError as error:
        raise MachineError(
            f"the kernel takes no rule that hands packets to a process: {error.strerror}",
            remedy="load xt_NFQUEUE and nft_compat with modprobe, or boot a distribution's own kernel",
        ) from error
