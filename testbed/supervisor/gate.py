"""The links as they are asked for, but that nobody hears a node that is away, nor is heard by it.

A node is away from the moment at which it is to crash until its new veth carries its link state. The cut is made of
addresses and needs no veth: so a crash is in force at once, however long the engine takes to kill; what is still sent
to the dead is counted as lost; and no datagram passes a new veth before its links are there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection

from testbed.core.links import LinkState, all_pairs
from testbed.journal import Journal
from testbed.network.client import AgentClient
from testbed.network.readback import Applied


def without(links: LinkState, away: Collection[int]) -> LinkState:
    """`links` with every pair cut of which a node is away."""
    if not away:
        return links
    return links.with_cut(links.cut | {pair for pair in all_pairs(links.size) if not set(pair).isdisjoint(away)})


class Gate:
    """Used from any thread. Each state that came into force is a `links` line of the journal, in order."""

    def __init__(self, agent: AgentClient, journal: Journal, links: LinkState) -> None:
        """`links` are in force already."""
        self._agent = agent
        self._journal = journal
        self._lock = threading.Lock()  # of what follows, and of the order of changes
        self._asked = links
        self._in_force = links
        self._away: frozenset[int] = frozenset()

    def ask(self, links: LinkState, *, shut: Collection[int] = ()) -> Applied:
        """From now on `links`, and the nodes of `shut` are away; one change."""
        with self._lock:
            self._asked = links
            self._away |= set(shut)
            return self._apply()

    def shut(self, node: int) -> None:
        with self._lock:
            self._away |= {node}
            self._apply()

    def open(self, node: int, host_index: int) -> Applied:
        """`node` is back, behind the veth with this index on the host: first its links, then its traffic."""
        with self._lock:
            self._agent.attach(node, host_index)
            self._away -= {node}
            return self._apply()

    def _apply(self) -> Applied:
        state = without(self._asked, self._away)
        if state == self._in_force:
            return Applied(0.0, ())
        begun_s = time.monotonic()
        applied = self._agent.apply(state)
        self._in_force = state
        at_s = begun_s + applied.took_s - self._journal.zero_s
        wrong = {"wrong": applied.wrong} if applied.wrong else {}
        self._journal.write("links", at_s=at_s, state=state.to_json(), **wrong)
        return applied
