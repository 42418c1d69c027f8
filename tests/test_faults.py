"""The schedule of faults: what holds when, whoever looks how seldom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.faults import (
    Change,
    Condition,
    Crash,
    Cut,
    Fault,
    Heal,
    Moment,
    Pause,
    Recover,
    Resume,
    Schedule,
    Slow,
)
from testbed.core.links import Link, LinkState

BASE = LinkState.uniform(3, Link(loss=0.1))
PAIR = (0, 1)


def cut(at_s: float, for_s: float | None = None, label: str = "cut") -> Fault:
    return Fault(Moment(at_s=at_s), Cut(frozenset({PAIR})), label, for_s)


def lossy(at_s: float, loss: float, for_s: float | None = None) -> Fault:
    return Fault(Moment(at_s=at_s), Change(frozenset({PAIR}), (("loss", loss),)), f"loss {loss}", for_s)


def told(schedule: Schedule, now_s: float, step: int = 0) -> list[tuple[str, bool, float | None]]:
    return [(o.label, o.begins, o.planned_s) for o in schedule.advance(now_s=now_s, step=step)]


@pytest.mark.parametrize("wrong", [{}, {"at_s": 1.0, "step": 1}])
def test_moment_is_either_a_time_or_a_step(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="either"):
        Moment(**wrong)  # type: ignore[arg-type]


def test_fault_holds_from_its_time_for_its_duration() -> None:
    schedule = Schedule(BASE, [cut(5, for_s=2)])
    assert told(schedule, 4.9) == []
    assert told(schedule, 5.0) == [("cut", True, 5)]
    assert schedule.link_state().cut == {PAIR}
    assert schedule.next_s() == 7
    assert told(schedule, 7.0) == [("cut", False, 7)]
    assert schedule.link_state() == BASE
    assert schedule.next_s() is None


def test_fault_that_nobody_saw_still_begins_and_ends_once() -> None:
    schedule = Schedule(BASE, [cut(5, for_s=2)])
    assert told(schedule, 100) == [("cut", True, 5), ("cut", False, 7)]
    assert told(schedule, 200) == []


def test_back_to_back_faults_do_not_overlap() -> None:
    schedule = Schedule(BASE, [cut(2, for_s=2, label="b"), cut(0, for_s=2, label="a")])
    assert told(schedule, 2) == [("a", True, 0), ("a", False, 2), ("b", True, 2)]


def test_overlapping_changes_come_off_in_any_order() -> None:
    # 0.3 from 1 to 10, 0.5 from 2 to 4: the later one wins while both hold
    schedule = Schedule(BASE, [lossy(1, 0.3, for_s=9), lossy(2, 0.5, for_s=2)])
    seen = []
    for now_s in (0, 1, 2, 4, 10):
        schedule.advance(now_s=now_s, step=0)
        seen.append(schedule.link_state().loss(PAIR))
    assert seen == [0.1, 0.3, 0.5, 0.3, 0.1]


def test_fault_at_a_step_waits_for_it_and_lasts_in_seconds() -> None:
    schedule = Schedule(BASE, [Fault(Moment(step=200), Cut(frozenset({PAIR})), "cut", for_s=3)])
    assert told(schedule, 50, step=199) == []
    assert told(schedule, 51, step=203) == [("cut", True, None)]  # nobody knew when it would come
    assert told(schedule, 54, step=203) == [("cut", False, 54)]


def test_heal_ends_what_holds_and_says_so() -> None:
    heal = Fault(Moment(at_s=6), Heal(), "heal")
    schedule = Schedule(BASE, [cut(5), lossy(5, 0.9, for_s=100), heal, cut(8)])
    assert told(schedule, 5) == [("cut", True, 5), ("loss 0.9", True, 5)]
    assert told(schedule, 6) == [("heal", True, 6), ("cut", False, 6), ("loss 0.9", False, 6)]
    assert schedule.link_state() == BASE
    assert told(schedule, 200) == [("cut", True, 8)]  # what comes after a heal is not healed by it


def test_steps_passed_between_two_looks_come_in_their_order() -> None:
    # written the other way round; a heal that overtook the cut would leave it standing
    heal = Fault(Moment(step=200), Heal(), "heal")
    schedule = Schedule(BASE, [heal, Fault(Moment(step=100), Cut(frozenset({PAIR})), "cut")])
    assert told(schedule, 9, step=250) == [("cut", True, None), ("heal", True, None), ("cut", False, None)]
    assert schedule.link_state() == BASE


FAULTS = st.lists(
    st.builds(
        Fault,
        st.builds(Moment, at_s=st.integers(0, 20)) | st.builds(Moment, step=st.integers(0, 20)),
        st.just(Heal()) | st.sampled_from([Cut(frozenset({PAIR})), Change(frozenset({(1, 2)}), (("loss", 0.5),))]),
        st.just("fault"),
        st.none() | st.integers(1, 10),
    ),
    max_size=6,
)


@given(faults=FAULTS, looks=st.lists(st.integers(0, 40), max_size=6))
def test_every_fault_begins_once_and_ends_at_most_once(faults: list[Fault], looks: list[int]) -> None:
    schedule = Schedule(BASE, faults)
    told = [o for now_s in [*sorted(looks), 100] for o in schedule.advance(now_s=now_s, step=now_s)]
    assert sorted(o.index for o in told if o.begins) == list(range(len(faults)))
    ended = [o.index for o in told if not o.begins]
    assert len(ended) == len(set(ended))


@given(faults=FAULTS)
def test_every_schedule_ends_healed(faults: list[Fault]) -> None:
    schedule = Schedule(BASE, faults)
    schedule.advance(now_s=10, step=10)
    schedule.heal()
    assert schedule.link_state() == BASE


@given(faults=FAULTS, looks=st.lists(st.integers(0, 40), max_size=6))
def test_timed_faults_do_not_depend_on_who_looks_when(faults: list[Fault], looks: list[int]) -> None:
    timed = [fault for fault in faults if fault.moment.step is None]
    often, once = Schedule(BASE, timed), Schedule(BASE, timed)
    told = [o for now_s in [*sorted(looks), 50] for o in often.advance(now_s=now_s, step=0)]
    assert told == list(once.advance(now_s=50, step=0))
    assert often.link_state() == once.link_state()


def crash(at_s: float, *nodes: int, for_s: float | None = None) -> Fault:
    return Fault(Moment(at_s=at_s), Crash(frozenset(nodes)), f"crash {nodes}", for_s)


def test_what_is_left_of_a_crash_is_what_nobody_recovered() -> None:
    recover = Fault(Moment(at_s=2), Recover(frozenset({0})), "recover 0")
    schedule = Schedule(BASE, [crash(1, 0, 1, for_s=9), recover, crash(3, 2)])
    schedule.advance(now_s=1, step=0)
    assert schedule.condition() == Condition(BASE, crashed=frozenset({0, 1}))
    assert told(schedule, 2) == [("recover 0", True, 2)]  # the crash goes on, for node 1
    assert schedule.condition().crashed == {1}
    assert told(schedule, 10)[-1] == ("crash (0, 1)", False, 10)
    assert schedule.condition().crashed == {2}
    schedule.heal()
    assert schedule.condition() == Condition(BASE)


def test_heal_is_for_links_and_resume_for_nodes() -> None:
    moments = [Moment(at_s=float(at_s)) for at_s in range(6)]
    schedule = Schedule(
        BASE,
        [
            cut(0),
            Fault(moments[1], Pause(frozenset({0, 2})), "pause"),
            Fault(moments[2], Slow(frozenset({1}), 0.2), "slow"),
            Fault(moments[3], Heal(), "heal"),
            Fault(moments[4], Resume(frozenset({0})), "resume 0"),
            Fault(moments[5], Resume(frozenset({0, 2})), "resume all"),
        ],
    )
    schedule.advance(now_s=2, step=0)
    assert schedule.condition() == Condition(BASE.with_cut([PAIR]), paused=frozenset({0, 2}), shares={1: 0.2})
    schedule.advance(now_s=4, step=0)
    assert schedule.condition() == Condition(BASE, paused=frozenset({2}), shares={1: 0.2})
    assert told(schedule, 5) == [("resume all", True, 5), ("pause", False, 5)]


def test_a_later_share_of_the_whole_cpu_is_no_slowness() -> None:
    schedule = Schedule(
        BASE,
        [
            Fault(Moment(at_s=0), Slow(frozenset({1, 2}), 0.2), "slow"),
            Fault(Moment(at_s=1), Slow(frozenset({1}), 1.0), "as fast as ever"),
        ],
    )
    schedule.advance(now_s=1, step=0)
    assert schedule.condition().shares == {2: 0.2}


def test_a_fault_may_end_at_a_step() -> None:
    fault = Fault(Moment(at_s=1), Cut(frozenset({PAIR})), "cut", until=Moment(step=50))
    schedule = Schedule(BASE, [fault])
    assert told(schedule, 7, step=49) == [("cut", True, 1)]
    assert schedule.next_s() is None
    assert told(schedule, 8, step=50) == [("cut", False, None)]


def test_a_fault_that_is_added_by_hand_is_one_like_the_others() -> None:
    schedule = Schedule(BASE, [cut(5)])
    assert schedule.add(cut(2, label="by hand")) == 1
    assert told(schedule, 5) == [("by hand", True, 2), ("cut", True, 5)]
