"""The receiving side, fed by hand: three ranks, this one is rank 0, two phases, chunks of two elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from testbed.channels.reception import MISSES_TO_SUSPECT, Progress, Reception
from testbed.channels.wire import HEADER_BYTES, Agreement, Kind, pack
from testbed.core.deadlines import FEWEST, FLOOR_S

AGREED = Agreement(token=1, size=3, phases=2, elements=2, max_width=100)
TIMEOUT_S = 2.0


class Peer:
    """A peer's end: numbers its datagrams and hands them over at once."""

    def __init__(self, reception: Reception, rank: int, life: int = 1) -> None:
        self.reception, self.rank, self.life, self.sequence = reception, rank, life, 0

    def data(self, order: int, row: list[float], *chunks: int, now_s: float = 0.0, **changes: Any) -> None:
        for chunk in chunks:
            piece = np.array([row[2 * chunk : 2 * chunk + 2] + [7.0] * 2])[:, :2].astype(np.float32)  # 7: rubbish
            self._put(Kind.DATA, order, piece, now_s, **({"chunk": chunk, "width": len(row)} | changes))

    def mark(self, order: int, width: int = 0, now_s: float = 0.0) -> None:
        self._put(Kind.MARK, order, np.zeros((1, 2), np.float32), now_s, width=width)

    def leave(self) -> None:
        self._put(Kind.LEAVE, 0, np.zeros((1, 2), np.float32), 0.0)

    def _put(self, kind: Kind, order: int, piece: np.ndarray, now_s: float, **fields: Any) -> None:
        self.sequence += 1
        step, phase = divmod(order, 2)
        fields = {"sequence": self.sequence, "step": step, "phase": phase} | fields
        header = pack(AGREED, 1, kind=kind, sender=self.rank, receiver=0, life=self.life, **fields)
        self.reception.file(header, (HEADER_BYTES + header["payload"]).astype(np.uint32), piece, now_s)


def world() -> tuple[Reception, Peer, Peer]:
    reception = Reception(AGREED, 0, TIMEOUT_S)
    return reception, Peer(reception, 1), Peer(reception, 2)


def test_a_phase_is_complete_when_every_expected_chunk_is_in_without_any_mark() -> None:
    reception, one, two = world()
    reception.begin(0, 0.0)
    one.data(0, [1, 2, 3], 0, 1)
    two.data(0, [4, 5, 6], 1)
    assert reception.progress() is Progress.OPEN
    two.data(0, [4, 5, 6], 0)
    assert reception.progress() is Progress.COMPLETE
    arrivals = reception.finish(0.0, late=False)
    assert arrivals.senders.tolist() == [1, 2]
    assert arrivals.values.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert arrivals.mask.all()
    assert not arrivals.late


def test_the_mask_tells_chunk_by_chunk_what_is_in_and_the_rest_is_zero() -> None:
    reception, one, two = world()
    for order in (0, 1):  # the second phase uses the memory of the first
        reception.begin(order, 0.0)
        one.data(order, [1, 2, 3, 4, 5], 2 * order, 1)  # chunks 0 and 1, then 2 and 1
        one.mark(order, width=5)
        two.mark(order)
        assert reception.progress() is Progress.MARKED
        arrivals = reception.finish(0.0, late=False)
        assert arrivals.senders.tolist() == [1]
        mask = [[True, True, True, True, False], [False, False, True, True, True]][order]
        assert arrivals.mask.tolist() == [mask]
        assert arrivals.values.tolist() == [
            [value if there else 0 for value, there in zip([1, 2, 3, 4, 5], mask, strict=True)]
        ]


def test_a_mark_of_width_zero_says_that_nothing_comes() -> None:
    reception, one, two = world()
    reception.begin(0, 0.0)
    one.mark(0)
    two.mark(0)
    assert reception.progress() is Progress.COMPLETE
    assert reception.finish(0.0, late=False).values.shape == (0, 0)


def test_any_later_phase_stands_for_a_lost_mark() -> None:
    reception, one, two = world()
    reception.begin(2, 0.0)
    one.data(3, [1, 2], 0)  # is in phase 3: has left 2 behind
    two.mark(6)
    assert reception.progress() is Progress.MARKED


def test_what_came_early_is_there_when_its_phase_begins() -> None:
    reception, one, two = world()
    one.data(3, [1, 2], 0)
    two.data(3, [3, 4], 0)
    reception.begin(2, 0.0)
    reception.finish(0.0, late=True)
    reception.begin(3, 0.0)
    assert reception.progress() is Progress.COMPLETE
    assert reception.finish(0.0, late=False).values.tolist() == [[1, 2], [3, 4]]


def test_only_the_present_the_next_and_the_newest_two_steps_are_kept() -> None:
    reception, one, _ = world()
    reception.begin(0, 0.0)
    for step in range(6):
        one.data(2 * step, [step, step], 0)
    # of steps 0..5: the present one, the next, and the newest two; each was kept when it came, 2 and 3 gave way
    assert sorted(reception._inboxes) == [0, 2, 8, 10]
    one.data(6, [3, 3, 3], 0)  # of step 3, which this rank will skip
    assert reception.counts["late"] == 1
    assert reception.newest_step == 5
    reception.begin(10, 0.0)  # skips there
    assert reception.finish(0.0, late=True).values.tolist() == [[5, 5]]


def test_data_for_a_phase_that_is_over_are_late_but_did_arrive() -> None:
    reception, one, _ = world()
    reception.begin(4, 0.0)
    one.data(3, [1, 2], 0)
    one.mark(3)  # tells nothing new; only data can come late
    assert reception.counts["late"] == 1
    assert reception.received.tolist() == [0, 2, 0]


def test_duplicates_are_counted_and_change_nothing() -> None:
    reception, one, _ = world()
    reception.begin(0, 0.0)
    one.data(0, [1, 2], 0)
    one.sequence -= 1
    one.data(0, [8, 9], 0)
    assert reception.counts["duplicate"] == 1
    assert reception.received.tolist() == [0, 1, 0]
    assert reception.finish(0.0, late=True).values.tolist() == [[1, 2]]


def test_a_row_of_another_width_than_its_phase_is_malformed() -> None:
    reception, one, two = world()
    reception.begin(0, 0.0)
    one.data(0, [1, 2, 3], 0)
    two.data(0, [1, 2, 3, 4, 5], 0)
    assert reception.counts["malformed"] == 1
    assert reception.finish(0.0, late=True).senders.tolist() == [1]


def test_a_peer_that_missed_three_phases_in_a_row_is_suspected_and_nobody_waits_for_it() -> None:
    reception, one, two = world()
    for order in range(MISSES_TO_SUSPECT):
        assert not reception.suspected.any()
        reception.begin(order, 0.0)
        one.mark(order)
        assert reception.progress() is Progress.OPEN
        reception.finish(TIMEOUT_S, late=True)
    assert [(news.event, news.peer, news.at_s) for news in reception.news] == [("suspected", 2, TIMEOUT_S)]
    reception.begin(3, 0.0)
    one.mark(3)
    assert reception.progress() is Progress.COMPLETE
    two.data(3, [1, 2], 0)  # still counts
    assert reception.finish(0.0, late=False).senders.tolist() == [2]


def test_phases_that_are_missed_now_and_then_do_not_make_a_suspect() -> None:
    reception, one, two = world()
    for order in range(30):
        reception.begin(order, 0.0)
        one.mark(order)
        if order % 3 == 2:
            two.mark(order)
        reception.finish(0.0, late=order % 3 != 2)
    assert not reception.news


def test_when_all_peers_are_suspected_a_phase_ends_at_once() -> None:
    reception, _, _ = world()
    for order in range(3):
        reception.begin(order, 0.0)
        reception.finish(TIMEOUT_S, late=True)
    reception.begin(3, 0.0)
    assert reception.progress() is Progress.COMPLETE


def test_a_suspected_peer_is_heard_again_by_a_mark_of_now_or_one_step_ago_but_not_of_long_ago() -> None:
    reception, _, two = world()
    for order in range(10):
        reception.begin(order, 0.0)
        reception.finish(0.0, late=True)
    two.mark(6)  # 9 is the present phase; 7 is the same phase a step before
    assert reception.suspected.tolist() == [False, True, True]
    two.mark(7)
    assert reception.suspected.tolist() == [False, True, False]
    assert (reception.news[-1].event, reception.news[-1].peer) == ("heard", 2)


def test_a_peer_that_left_is_not_waited_for_and_moves_no_step() -> None:
    reception, one, two = world()
    one.mark(0)
    two.leave()
    reception.begin(0, 0.0)
    assert reception.progress() is Progress.COMPLETE
    assert reception.newest_step == 0
    for order in range(1, 10):
        reception.begin(order, 0.0)
        one.mark(order)
        assert reception.progress() is Progress.COMPLETE
        reception.finish(0.0, late=False)
    assert not reception.news


def test_a_restarted_peer_counts_from_one_again_and_its_former_life_is_late() -> None:
    reception, one, _ = world()
    reception.begin(0, 0.0)
    one.data(0, [1, 2, 3], 0)
    again = Peer(reception, 1, life=2)
    again.data(0, [1, 2, 3], 1)
    one.data(0, [8, 8, 8], 0)  # under way when it died
    assert reception.counts == {"late": 1, "duplicate": 0, "foreign": 0, "malformed": 0}
    assert reception.finish(0.0, late=True).values.tolist() == [[1, 2, 3]]


def test_the_newest_step_is_known_from_data_too() -> None:
    reception, one, _ = world()
    one.mark(3)  # the last phase of step 1
    one.data(4, [1, 2], 0)
    assert reception.newest_step == 2


def test_the_deadline_learns_from_phases_in_time_and_from_marks_that_came_after_it() -> None:
    reception, one, two = world()
    for step in range(FEWEST):
        assert reception.begin(2 * step, now_s=0.0) == TIMEOUT_S
        one.mark(2 * step)
        two.mark(2 * step)
        reception.finish(0.01, late=False)
    assert reception.begin(2 * FEWEST, now_s=100.0) == FLOOR_S
    # the phase of the other kind has learnt nothing
    assert reception.begin(2 * FEWEST + 1, now_s=100.0) == TIMEOUT_S
    for step in range(FEWEST + 1, FEWEST + 17):  # sixteen phases whose marks came half a second after their beginning
        reception.begin(2 * step, now_s=200.0)
        reception.finish(FLOOR_S, late=True)
        one.mark(2 * step, now_s=200.4)
        two.mark(2 * step, now_s=200.5)
    assert not reception.news
    assert reception.begin(2 * FEWEST + 40, now_s=300.0) == 0.5


def test_the_grace_grows_when_marks_overtake_data() -> None:
    reception, one, _ = world()
    before_s = reception.grace_s
    reception.begin(0, 0.0)
    one.mark(0, width=4, now_s=1.0)
    one.data(0, [1, 2, 3, 4], 0, now_s=1.01)
    assert before_s < 0.019 < reception.grace_s  # twice the lag of 10 ms


def test_lost_on_arrival_is_as_if_it_had_never_come() -> None:
    reception = Reception(AGREED, 0, TIMEOUT_S, lose=lambda senders: senders == 1)
    one, two = Peer(reception, 1), Peer(reception, 2)
    reception.begin(0, 0.0)
    one.data(0, [1, 2], 0)
    two.data(0, [3, 4], 0)
    assert reception.received.tolist() == [0, 0, 1]
    assert reception.finish(0.0, late=True).senders.tolist() == [2]


def test_phases_cannot_be_collected_twice_or_backwards() -> None:
    reception, _, _ = world()
    reception.begin(5, 0.0)
    reception.finish(0.0, late=True)
    for order in (5, 4):
        with pytest.raises(ValueError, match="once, in order"):
            reception.begin(order, 0.0)
