"""Which packets a link sends on, and which it sends on twice. Not here: when they arrive.

What netem does to one packet, in its order: it may be duplicated; it may be lost, and of a packet that is both, one
goes on; a duplicate then meets the losses of the link once more, as a packet of its own. A cut pair sends nothing on.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from testbed.simulate.matrices import Matrices

Packets = NDArray[np.bool_]  # [k, c]: those of c packets to each of k receivers for which something holds
Nodes = NDArray[np.intp]


class Losses:
    """Keeps, for every ordered pair of nodes, whether the link is within a burst of losses (Gilbert's chain)."""

    def __init__(self, nodes: int, dice: np.random.Generator) -> None:
        self._dice = dice  # for how the chains begin
        self._bad = np.zeros((nodes, nodes), bool)  # [from, to]
        self._bursty = np.zeros((nodes, nodes), bool)  # those whose chain has begun

    def set(self, links: Matrices) -> None:
        """A chain begins as it would be found at any time, and goes on through every change of its link."""
        self._links = links
        if links.leave is None:
            return
        new = (links.leave > 0) & ~self._bursty
        self._bad[new] = self._dice.random(np.count_nonzero(new)) < links.loss[new]
        self._bursty |= new

    def lost(self, a: int, b: Nodes, exists: Packets, dice: np.random.Generator) -> Packets:
        """Of the packets that `exists` [k, c], sent from node `a` to the nodes `b` [k] of one link each, where no link
        duplicates any."""
        links = self._links
        lost: Packets = np.asfortranarray(dice.random(exists.shape) < links.loss[a][b][:, None])
        if links.leave is not None and (bursts := links.leave[a, b] > 0).any():
            lost[bursts], _ = self._in_bursts(a, b[bursts], exists[bursts], None, dice)
        if links.cut is not None:
            lost |= links.cut[a, b][:, None]
        lost &= exists
        return lost

    def sent_on(
        self, a: int, b: Nodes, exists: Packets, dice: np.random.Generator
    ) -> tuple[Packets, Packets, NDArray[np.int64]]:
        """Where links duplicate: the packets that go on, those of which a second copy does, and [k] how many packets
        the link dropped, copies included."""
        links = self._links
        assert links.duplicate is not None
        open_ = exists if links.cut is None else exists & ~links.cut[a, b][:, None]
        twice = (dice.random(exists.shape) < links.duplicate[a, b][:, None]) & open_
        lost = dice.random(exists.shape) < links.loss[a][b][:, None]
        copy_lost = dice.random(exists.shape) < links.loss[a][b][:, None]
        if links.leave is not None and (bursts := links.leave[a, b] > 0).any():
            lost[bursts], copy_lost[bursts] = self._in_bursts(a, b[bursts], open_[bursts], twice[bursts], dice)
        copied = twice & ~lost
        dropped = (exists & ~open_) | (open_ & lost & ~twice)
        count = dropped.sum(axis=1) + (copied & copy_lost).sum(axis=1)
        return open_ & (~lost | twice), copied & ~copy_lost, count

    def _in_bursts(
        self, a: int, b: Nodes, exists: Packets, twice: Packets | None, dice: np.random.Generator
    ) -> tuple[Packets, Packets]:
        """Packets lost, and second copies that would be. Every packet takes the chain of its pair one step on, and a
        second copy one more."""
        links = self._links
        assert links.enter is not None
        assert links.leave is not None
        enter, stay = links.enter[a, b][:, None], 1 - links.leave[a, b][:, None]
        u = dice.random(exists.shape)
        from_good, from_bad = u < enter, u < stay  # whether it is lost, by where the chain stood before it
        after_good, after_bad = from_good, from_bad
        v = np.zeros(exists.shape)
        if twice is not None:  # a copy is made of what was not lost: the chain stood well before it
            v = dice.random(exists.shape)
            after_good = np.where(twice & ~from_good, v < enter, from_good)
            after_bad = np.where(twice & ~from_bad, v < enter, from_bad)
        after = _follow(self._bad[a, b], np.where(exists, after_good, False), np.where(exists, after_bad, True))
        before = np.concatenate([self._bad[a, b][:, None], after[:, :-1]], axis=1)
        self._bad[a, b] = after[:, -1]
        return np.where(before, from_bad, from_good), v < enter


def _follow(bad: NDArray[np.bool_], after_good: Packets, after_bad: Packets) -> Packets:
    """[k, c]: where chains that stand at `bad` [k] are after each packet, which takes them to `after_good` or
    `after_bad` by where they stood. A packet that takes both to one place makes all that came before forgotten; the
    others leave the chain where it is, or turn it round."""
    forgets, turns = after_good == after_bad, after_good & ~after_bad
    columns = np.arange(after_good.shape[1])
    last = np.maximum.accumulate(np.where(forgets, columns, -1), axis=1)
    begun = np.take_along_axis(after_good, np.maximum(last, 0), axis=1)
    turned = np.cumsum(turns, axis=1)
    since: NDArray[np.int64] = turned - np.where(last >= 0, np.take_along_axis(turned, np.maximum(last, 0), axis=1), 0)
    after: Packets = np.where(last >= 0, begun, bad[:, None]) ^ (since % 2 == 1)
    return after


def one_of_each(nodes: Nodes, slots: Nodes) -> Iterator[NDArray[np.intp]]:
    """The places of `nodes` [k] in groups in which every node occurs once: ranks of a node share its links, and what
    one of them sends or gets comes after what the other does. `slots` [k]: the number of each rank on its node."""
    for slot in np.unique(slots):
        yield np.flatnonzero(slots == slot)
