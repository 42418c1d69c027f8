"""One run's link state in the kernel, from opening to closing: what is there now, and how it becomes what is wanted.

Holds what it has put into the kernel, so that a change sends differences only. Not here: how the agent is spoken to
(agent.py), what a state means (core/links.py).
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import TracebackType

from testbed.core.links import QUEUE_PACKETS, Link, LinkState, Pair, all_pairs
from testbed.errors import MachineError
from testbed.network.backend import Backend, Capabilities, choose
from testbed.network.count import PairCount
from testbed.network.htb import class_rates_bps
from testbed.network.kernel import Interface, Kernel
from testbed.network.netem import netem_link
from testbed.network.netlink import Standing
from testbed.network.nft import LOSS_STEPS, Command, Drops, Rules
from testbed.network.readback import Applied, differences
from testbed.network.receiver import (
    DOWNLINK,
    MAX_NODES,
    ROOT,
    Request,
    Shape,
    changes,
    class_id,
    foundation,
    leaf_handle,
    wanted,
)
from testbed.network.userspace.line import share as late_share
from testbed.network.userspace.load import Load
from testbed.network.userspace.process import Userspace


@dataclass
class Receiver:
    """The host-side veth of one node, and what stands on it."""

    interface: Interface
    held: Shape | None = field(default_factory=Shape)  # None: not known, because the kernel refused a part


class Session:
    """Opened by making it; whatever happens, `close` takes everything away again, and twice does no harm."""

    def __init__(
        self, kernel: Kernel, can: Capabilities, *, run: str, backend: str, addresses: Sequence[str], state: LinkState
    ) -> None:
        """Raises MachineError if `backend` (auto, netem, nft or userspace) cannot carry `state` on this kernel."""
        if len(set(addresses)) != state.size:
            raise ValueError(f"{state.size} nodes need as many different addresses, not {list(addresses)}")
        if state.size > MAX_NODES:
            raise MachineError(f"{state.size} nodes on one machine; the kernel numbers {MAX_NODES}")
        self.backend: Backend = choose(backend, can, [state])
        self._kernel = kernel
        self._can = can
        self._rules = Rules(run, addresses)
        self._state = state
        self._drops = self._nft_part(state)
        self._userspace = Userspace(kernel.nft, run, addresses) if self.backend == "userspace" else None
        self._shown = ExitStack()  # the bridge, to iptables' hooks
        self._receivers: dict[int, Receiver] = {}
        self._gone: Counter[Pair] = Counter()  # drops counted on veths that died with their container
        self._last: Counter[Pair] = Counter()  # ... and on those that live, when last looked at
        try:
            first = [*self._rules.create(all_pairs(state.size)), *self._rules.change(Drops(), self._drops)]
            kernel.nft([*first, *self._held_back(LinkState.uniform(state.size), state)])
        except BaseException:
            self.close()
            raise

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
        self._refuse_foreign(node, interface, allowed=(0, ROOT))
        self._forget(node)
        self._receivers[node] = Receiver(interface)
        if self._can.htb:
            if self._kernel.root(interface)[1] == ROOT:  # of an earlier agent: its classes are not known to us
                self._kernel.remove_root(interface)
            self._shape([node], first=foundation())
        if self._userspace is not None:
            self._shown.enter_context(self._kernel.shown_to_iptables(interface.bridge))
        return interface

    def apply(self, state: LinkState) -> Applied:
        """Make `state` the kernel's. Cuts and nftables' losses change at once, and first; then the rest, at once too.

        A node whose container has died is skipped: it gets what holds by then when it is attached again.
        """
        choose(self.backend, self._can, [state])
        if state.size != self._state.size:
            raise ValueError(f"a state of {state.size} nodes for a run of {self._state.size}")
        begin_s = time.monotonic()
        before, drops = self._drops, self._nft_part(state)
        self._kernel.nft([*self._rules.change(before, drops), *self._held_back(self._state, state)])
        self._state, self._drops = state, drops
        self._shape(list(self._receivers))
        took_s = time.monotonic() - begin_s
        return Applied(took_s, self._check(self._rules.show_change(before, drops)))

    def counters(self) -> list[PairCount]:
        """Since opening, across every change and every restart of a container.

        What a veth dropped after the last look and before it died with its container is not known to anyone.
        """
        packets = self._rules.read_counters(self._kernel.nft(self._rules.show_counters()))
        self._look()
        queued = self._gone + self._last
        if self.backend == "netem":
            dropped = Counter(packets["dropped"]) + queued
            return [PairCount(pair, seen, dropped[pair]) for pair, seen in sorted(packets["seen"].items())]
        lost: Counter[Pair] = Counter()
        if self._userspace is not None:
            lost, overflow, _ = self._userspace.counters()
            queued += overflow
        return [
            PairCount(pair, seen, packets["dropped"][pair] + lost[pair], queued[pair])
            for pair, seen in sorted(packets["seen"].items())
        ]

    def load(self) -> Load | None:
        """What the process that holds packets back had to do; None where there is none."""
        return None if self._userspace is None else self._userspace.counters()[2]

    def readback(self) -> LinkState:
        """What the kernel holds now, read from the kernel; only the distribution of jitter, which it does not show, is
        what was meant. A receiver that is not attached has open, clean links."""
        return self._read([self._rules.show()], self._leaves())

    def close(self) -> None:
        """Everything of the run away, in the kernel and here."""
        for receiver in self._receivers.values():
            self._kernel.remove_root(receiver.interface)
        self._receivers.clear()
        if self._userspace is not None:
            self._userspace.close()
        self._shown.close()
        self._kernel.nft(self._rules.remove())

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _nft_part(self, state: LinkState) -> Drops:
        drops = Drops.of(state, netem=self.backend == "netem")
        if self.backend != "userspace":
            return drops
        losses = {pair: step for pair, step in drops.losses.items() if not late_share(state.links[pair]).loss}
        return replace(drops, losses=losses)

    def _held_back(self, old: LinkState, new: LinkState) -> list[Command]:
        return [] if self._userspace is None else self._userspace.apply(old, new)

    def _shape(self, nodes: Iterable[int], *, first: Sequence[Request] = ()) -> None:
        """Bring the veths of `nodes` to the state, in one system call. `first`: what comes before, on each."""
        requests: list[tuple[Interface, Request]] = []
        shapes: dict[int, Shape] = {}
        for node in nodes:
            receiver = self._receivers[node]
            new, shapes[node] = changes(
                self.backend, receiver.held, wanted(self.backend, self._state, node), self._rules.addresses
            )
            requests += [(receiver.interface, request) for request in (*first, *new)]
        if not requests:
            return
        try:
            gone = self._kernel.replace(requests)
        except MachineError:
            for receiver in (self._receivers[node] for node in shapes):
                receiver.held = None
            for node in shapes:
                if self._kernel.is_there(self._receivers[node].interface):
                    self._refuse_foreign(node, self._receivers[node].interface, allowed=(ROOT,))
            raise
        for node, shape in shapes.items():
            if self._receivers[node].interface.index in gone:
                self._forget(node)
            else:
                self._receivers[node].held = shape

    def _refuse_foreign(self, node: int, interface: Interface, *, allowed: Sequence[int]) -> None:
        kind, handle = self._kernel.root(interface)
        if handle not in allowed:
            raise MachineError(
                f"{interface.name} (of node {node}) carries a {kind} qdisc that is not ours",
                remedy=f"remove it with `tc qdisc del dev {interface.name} root`, or stop what set it",
            )

    def _check(self, shows: Sequence[Sequence[Command]]) -> tuple[str, ...]:
        """Where the kernel does not hold what was meant, in sentences."""
        leaves = self._leaves()
        lost = self._can.htb and [
            node for node, each in self._receivers.items() if (each.interface.index, ROOT) not in leaves
        ]
        sentences = []
        for node in lost or ():
            interface = self._receivers[node].interface
            if self._kernel.is_there(interface):
                kind, _ = self._kernel.root(interface)
                sentences.append(f"{interface.name} (of node {node}) carries a {kind} qdisc that is not ours")
            else:
                self._forget(node)  # its container has just ended
        wrong = differences(self._state, self._read(shows, leaves), receivers=self._receivers.keys())
        return (*sentences, *wrong)

    def _read(self, shows: Sequence[Sequence[Command]], leaves: Mapping[tuple[int, int], Standing]) -> LinkState:
        drops = self._rules.read([item for show in shows for item in self._kernel.nft(show)])
        links = dict.fromkeys(all_pairs(self._state.size), Link())
        downlinks = {}
        for node, receiver in self._receivers.items():
            index = receiver.interface.index
            classes = {each.handle: each for each in self._kernel.standing("class", receiver.interface)}
            if DOWNLINK in classes and (rate_bps := class_rates_bps(classes[DOWNLINK].options)[0]) is not None:
                downlinks[node] = rate_bps
            for sender in range(self._state.size):
                shaper, leaf = classes.get(class_id(sender)), leaves.get((index, leaf_handle(sender)))
                if shaper is not None and leaf is not None:
                    links[sender, node] = self._read_link((sender, node), shaper, leaf)
        for pair, step in drops.losses.items():
            links[pair] = replace(links[pair], loss=step / LOSS_STEPS)
        if self._userspace is not None:
            late = self._userspace.links(self._kernel.nft(self._userspace.show()))
            for pair, link in late.items():
                loss = link.loss or links[pair].loss
                links[pair] = replace(link, loss=loss, rate_bps=links[pair].rate_bps)
        return LinkState(self._state.size, links, drops.cut, downlinks)

    def _read_link(self, pair: Pair, shaper: Standing, leaf: Standing) -> Link:
        """What one class does."""
        rate_bps, _ = class_rates_bps(shaper.options)
        if leaf.kind == "netem":
            distribution = self._state.links[pair].distribution
            return replace(netem_link(leaf.options), rate_bps=rate_bps, distribution=distribution)
        (limit,) = struct.unpack_from("=I", leaf.options)
        # A queue that no rate fills holds nothing: its length is none of the link.
        return Link(rate_bps=rate_bps, limit_packets=None if rate_bps is None and limit == QUEUE_PACKETS else limit)

    def _leaves(self) -> dict[tuple[int, int], Standing]:
        """Every qdisc, by interface and handle."""
        return {(each.interface, each.handle): each for each in self._kernel.standing("qdisc")}

    def _look(self) -> None:
        """Note what the classes have dropped so far."""
        node_of = {receiver.interface.index: node for node, receiver in self._receivers.items()}
        for each in self._kernel.standing("qdisc"):
            sender = (each.handle >> 16) - 1
            if each.interface in node_of and leaf_handle(sender) == each.handle and sender < self._state.size:
                self._last[sender, node_of[each.interface]] = each.drops

    def _forget(self, node: int) -> None:
        """The veth that `node` had, if any, is history; its drops are not."""
        if node in self._receivers:
            self._look()
            del self._receivers[node]
        for sender in range(self._state.size):
            self._gone[sender, node] += self._last.pop((sender, node), 0)
