"""One run's link state in the kernel, from opening to closing: what is there now, and how it becomes what is wanted.

Holds what it has put into the kernel, so that a change sends differences only. Not here: how the agent is spoken to
(agent.py), what a state means (core/links.py).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Literal

from testbed.core.links import Link, LinkState, Pair, all_pairs
from testbed.errors import MachineError
from testbed.network.backend import Backend, Capabilities, choose
from testbed.network.count import PairCount
from testbed.network.htb import class_rate_bps
from testbed.network.kernel import Interface, InterfaceGone, Kernel, Standing
from testbed.network.netem import netem_link
from testbed.network.nft import LOSS_STEPS, Drops, Rules
from testbed.network.receiver import MAX_NODES, ROOT, changes, class_id, leaf_handle, root, share


@dataclass
class Receiver:
    """The host-side veth of one node, and what each sender's class on it does (no class: nothing)."""

    interface: Interface
    held: dict[int, Link] = field(default_factory=dict)


class Session:
    """Opened by making it; whatever happens, `close` takes everything away again, and twice does no harm."""

    def __init__(
        self, kernel: Kernel, can: Capabilities, *, run: str, backend: str, addresses: Sequence[str], state: LinkState
    ) -> None:
        """Raises MachineError if `backend` (auto, netem or nft) cannot carry `state` on this kernel."""
        if len(set(addresses)) != state.size:
            raise ValueError(f"{state.size} nodes need as many different addresses, not {list(addresses)}")
        if state.size > MAX_NODES:
            raise MachineError(f"{state.size} nodes on one machine; the kernel numbers {MAX_NODES}")
        self.backend: Backend = choose(backend, can, [state])
        self._asked = backend
        self._kernel = kernel
        self._can = can
        self._rules = Rules(run, addresses)
        self._state = state
        self._drops = Drops.of(state, netem=self.backend == "netem")
        self._receivers: dict[int, Receiver] = {}
        self._gone: Counter[Pair] = Counter()  # drops counted on veths that died with their container
        self._last: Counter[Pair] = Counter()  # ... and on those that live, when last looked at
        kernel.nft([*self._rules.create(all_pairs(state.size)), *self._rules.change(Drops(), self._drops)])

    @property
    def table(self) -> str:
        return self._rules.table

    def attach(self, node: int, which: int | str) -> Interface:
        """Link state for what `node` receives, on its host-side veth; again after each start of its container."""
        if not 0 <= node < self._state.size:
            raise ValueError(f"node {node} is none of the {self._state.size}")
        interface = self._kernel.interface(which)
        if interface.kind != "veth" or interface.bridge is None:
            raise MachineError(
                f"{interface.name} (for node {node}) is not the host's end of a container's veth on a bridge",
                remedy="name the interface whose index the node reads in /sys/class/net/eth1/iflink",
            )
        kind, handle = self._kernel.root(interface)
        if handle not in (0, ROOT):
            raise MachineError(
                f"{interface.name} (of node {node}) carries a {kind} qdisc that is not ours",
                remedy=f"remove it with `tc qdisc del dev {interface.name} root`, or stop what set it",
            )
        self._forget(node)
        if self._can.htb:
            if handle == ROOT:  # of an earlier agent: its classes are not known to us
                self._kernel.remove_root(interface)
            self._kernel.replace(interface, [root()])
        self._receivers[node] = Receiver(interface)
        self._shape(node)
        return interface

    def apply(self, state: LinkState) -> float:
        """Make `state` the kernel's; the seconds it took. Cuts and nftables' losses change all at once, and first.

        A node whose container has died is skipped: it gets what holds by then when it is attached again.
        """
        choose(self._asked, self._can, [state])
        if state.size != self._state.size:
            raise ValueError(f"a state of {state.size} nodes for a run of {self._state.size}")
        begin_s = time.monotonic()
        drops = Drops.of(state, netem=self.backend == "netem")
        self._kernel.nft(self._rules.change(self._drops, drops))
        self._state, self._drops = state, drops
        for node in list(self._receivers):
            try:
                self._shape(node)
            except InterfaceGone:
                self._forget(node)
        return time.monotonic() - begin_s

    def counters(self) -> list[PairCount]:
        """Since opening, across every change and every restart of a container.

        What a veth dropped after the last look and before it died with its container is not known to anyone.
        """
        packets = self._rules.read_counters(self._kernel.nft(self._rules.show_counters()))
        for node in self._receivers:
            self._look(node)
        queued = self._gone + self._last
        if self.backend == "netem":
            dropped = Counter(packets["dropped"]) + queued
            return [PairCount(pair, seen, dropped[pair]) for pair, seen in sorted(packets["seen"].items())]
        return [
            PairCount(pair, seen, packets["dropped"][pair], queued[pair])
            for pair, seen in sorted(packets["seen"].items())
        ]

    def readback(self) -> LinkState:
        """What the kernel holds now, read from the kernel. A receiver that is not attached has open, clean links."""
        drops = self._rules.read(self._kernel.nft(self._rules.show()))
        links = dict(LinkState.uniform(self._state.size).links)
        for node, receiver in self._receivers.items():
            standing = {(each.what, each.handle): each for each in self._kernel.standing(receiver.interface)}
            for sender in range(self._state.size):
                if sender != node:
                    links[sender, node] = _read_link(standing, sender)
        for pair, step in drops.losses.items():
            links[pair] = replace(links[pair], loss=step / LOSS_STEPS)
        return LinkState(self._state.size, links, drops.cut)

    def close(self) -> None:
        """Everything of the run away, in the kernel and here."""
        for receiver in self._receivers.values():
            self._kernel.remove_root(receiver.interface)
        self._receivers.clear()
        self._kernel.nft(self._rules.remove())

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _shape(self, node: int) -> None:
        """Bring the classes on one veth to the state."""
        receiver = self._receivers[node]
        wanted = {sender: link for (sender, to), link in self._state.links.items() if to == node}
        for sender, requests in changes(self.backend, receiver.held, wanted, self._rules.addresses).items():
            self._kernel.replace(receiver.interface, requests)
            receiver.held[sender] = share(self.backend, wanted[sender])

    def _look(self, node: int) -> None:
        """Note what the classes on one veth have dropped so far."""
        handles = {leaf_handle(sender): (sender, node) for sender in range(self._state.size)}
        for each in self._kernel.standing(self._receivers[node].interface):
            if each.what == "qdisc" and each.handle in handles:
                self._last[handles[each.handle]] = each.drops

    def _forget(self, node: int) -> None:
        """The veth that `node` had, if any, is history; its drops are not."""
        if node in self._receivers:
            self._look(node)
            del self._receivers[node]
        for sender in range(self._state.size):
            self._gone[sender, node] += self._last.pop((sender, node), 0)


def _read_link(standing: Mapping[tuple[Literal["qdisc", "class"], int], Standing], sender: int) -> Link:
    """What one class does; a clean link where there is none."""
    shaper, leaf = standing.get(("class", class_id(sender))), standing.get(("qdisc", leaf_handle(sender)))
    if shaper is None or leaf is None:
        return Link()
    link = netem_link(leaf.options) if leaf.kind == "netem" else Link()
    return replace(link, rate_bps=class_rate_bps(shaper.options))
