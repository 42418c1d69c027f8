"""What is known beforehand of when faults hold: the same as the schedule says when it is played."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.core.faults import Change, Crash, Cut, Fault, Heal, Moment, Pause, Recover, Resume, Schedule, Slow
from testbed.core.links import LinkState
from testbed.plan.spans import Span, ends_what, spans

BASE = LinkState.uniform(4)
NODES = st.frozensets(st.integers(0, 3), min_size=1, max_size=3)
EFFECTS = st.one_of(
    st.sampled_from([Cut(frozenset({(0, 1)})), Change(frozenset({(1, 2)}), (("loss", 0.5),)), Heal()]),
    st.builds(Crash, NODES),
    st.builds(Recover, NODES),
    st.builds(Pause, NODES),
    st.builds(Resume, NODES),
    st.builds(Slow, NODES, st.just(0.5)),
)
ENDS = st.one_of(
    st.just((None, None)),
    st.tuples(st.integers(1, 10), st.none()),
    st.tuples(st.none(), st.builds(Moment, at_s=st.integers(11, 20))),
    st.tuples(st.none(), st.just(Moment(step=9))),  # which never comes here
)
FAULTS = st.lists(
    st.builds(
        lambda at_s, effect, end: Fault(Moment(at_s=at_s), effect, "fault", *end), st.integers(0, 10), EFFECTS, ENDS
    ),
    max_size=8,
)


@settings(max_examples=300)
@given(faults=FAULTS, now_s=st.integers(0, 25))
def test_spans_and_schedule_agree_at_any_time(faults: list[Fault], now_s: int) -> None:
    schedule = Schedule(BASE, faults)
    schedule.advance(now_s=now_s, step=0)
    condition = schedule.condition()
    holding = [s for s in spans(faults) if s.begin_s <= now_s and (s.end_s is None or s.end_s > now_s)]

    def whose(kind: type) -> set[int]:
        return {span.whose[1] for span in holding if isinstance(faults[span.index].effect, kind)}

    assert condition.crashed == whose(Crash)
    assert condition.paused == whose(Pause)
    assert set(condition.shares) == whose(Slow)
    assert bool(condition.links.cut) == bool(whose(Cut))
    assert (condition.links.links != BASE.links) == bool(whose(Change))


def test_span_says_what_ended_it() -> None:
    faults = [
        Fault(Moment(at_s=1), Crash(frozenset({0, 1})), "crash", for_s=9),
        Fault(Moment(at_s=4), Recover(frozenset({1})), "recover"),
    ]
    assert spans(faults) == [Span(0, ("node", 0), 1, 10), Span(0, ("node", 1), 1, 4, ended_by=1)]


def test_what_ends_what() -> None:
    assert ends_what(Heal(), Cut(frozenset({(0, 1)})))
    assert not ends_what(Heal(), Crash(frozenset({0})))
    assert ends_what(Recover(frozenset({0})), Crash(frozenset({0, 1})))
    assert not ends_what(Recover(frozenset({2})), Crash(frozenset({0, 1})))
    assert not ends_what(Resume(frozenset({0})), Slow(frozenset({0}), 0.5))
