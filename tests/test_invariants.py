"""Invariants: a sound run keeps all of them, and each way to break one in its journals is found where it was broken."""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from results_world import World as Written
from results_world import plan_of as written_plan
from schedules import World, plan_of, ran

from testbed.core.faults import Crash, Cut, Fault, Moment, Pause
from testbed.core.links import Link, LinkState
from testbed.core.partitions import split
from testbed.journal import Record
from testbed.plan import AlgorithmChoice, Plan
from testbed.results import summarise
from testbed.results.invariants import CLAIMS, Line, Models, Verdict, Violation, check, check_run
from testbed.results.records import Records

STEPS = 40
PARAMETERS = {"lr": 0.2, "rounds": 1, "cluster_rounds": 2}
CUT_S, CUT_FOR_S = 0.3, 25.0
# A majority of six ranks are four. A node is killed and comes back; later nobody hears another node for 25 s.
WORLD = (
    World((2, 2, 2), LinkState.uniform(3, Link(delay_s=0.002)), ())
    .with_fault(Crash(nodes=frozenset({0})), at_s=0.1, for_s=0.1)
    .with_fault(Cut(split([[0], [1], [2]])), at_s=CUT_S, for_s=CUT_FOR_S)
)
PLAN = plan_of(WORLD, "mdaa", PARAMETERS, steps=STEPS)


@functools.cache
def _simulated() -> Records:
    outcome = ran(WORLD, "mdaa", PARAMETERS, steps=STEPS)
    return Records(tuple(outcome.journals), outcome.supervisor, [])


def sound() -> Records:
    """A copy, to be broken."""
    return copy.deepcopy(_simulated())


def verdict_on(records: Records, plan: Plan = PLAN, models: Models | None = None) -> Verdict:
    return check(plan, records, models, lag_s=0.0)


def found(records: Records, claim: str, plan: Plan = PLAN) -> list[Violation]:
    return [each for each in verdict_on(records, plan).violated if each.claim == claim]


def line_of(records: Records, rank: int, record: Record) -> Line:
    return Line(f"ranks/{rank}/journal.jsonl", 1 + next(n for n, r in enumerate(records.ranks[rank]) if r is record))


def put(records: Records, rank: int, record: Record) -> Record:
    """Into a rank's journal, at its time."""
    journal = records.ranks[rank]
    journal.insert(sum(each["at_s"] <= record["at_s"] for each in journal), record)
    return record


def told(at_s: float, place: tuple[int, int], cluster_round: int, digest: str, *, again: bool) -> Record:
    values = {"round": place, "cluster_round": cluster_round, "digest": digest, "again": again}
    return {"at_s": at_s, "event": "told", **values}


def test_a_sound_run_keeps_every_promise_and_says_which_were_looked_at() -> None:
    verdict = verdict_on(sound())
    assert verdict.violated == ()
    assert set(verdict.checked) == set(CLAIMS) - {"suspicions pair up", "models are finite", "replicas are equal"}
    assert any(len(list(sound().lives(rank))) == 2 for rank in (0, 1)), "with a crash in it"


RANKS = st.integers(0, 5)


@settings(max_examples=40, deadline=None)
@given(rank=RANKS, data=st.data())
def test_a_step_that_decreases_is_found(rank: int, data: st.DataObject) -> None:
    records = sound()
    steps = records.of(rank, "step")
    number = data.draw(st.integers(1, len(steps) - 1))
    steps[number]["step"] = data.draw(st.integers(0, steps[number - 1]["step"]))
    violations = found(records, "steps ascend")
    assert any(line_of(records, rank, steps[number]) in each.lines and each.ranks == (rank,) for each in violations)


@settings(max_examples=40, deadline=None)
@given(rank=RANKS, data=st.data(), again=st.booleans())
def test_a_second_value_for_a_round_is_found(rank: int, data: st.DataObject, again: bool) -> None:
    records = sound()
    first = data.draw(st.sampled_from(records.of(rank, "told")))
    second = put(records, rank, {**first, "digest": "0badf00d", "again": again})
    (violation,) = found(records, "one value a round")
    assert violation.ranks == (rank,)
    assert violation.step == first["round"][0]
    assert set(violation.lines) <= {line_of(records, rank, each) for each in records.of(rank, "told")}
    assert line_of(records, rank, second) in violation.lines


@settings(max_examples=40, deadline=None)
@given(rank=RANKS, data=st.data())
def test_a_round_told_after_a_later_one_is_found(rank: int, data: st.DataObject) -> None:
    records = sound()
    lines = records.of(rank, "told")
    number = data.draw(st.integers(0, len(lines) - 2))
    late = put(records, rank, {**lines[number], "at_s": lines[-1]["at_s"] + 1e-6, "again": False})
    (violation,) = found(records, "rounds ascend")
    assert line_of(records, rank, late) in violation.lines


@settings(max_examples=40, deadline=None)
@given(rank=RANKS, data=st.data())
def test_to_tell_again_what_was_never_told_is_found_but_for_the_last_word(rank: int, data: st.DataObject) -> None:
    records = sound()
    lines = records.of(rank, "told")
    number = data.draw(st.integers(0, len(lines) - 2))
    (t, r), at_s = lines[number]["round"], lines[-1]["at_s"]
    put(records, rank, told(at_s, (t, r), 77, "00000000", again=True))  # cluster rounds go up to 2
    assert len(found(records, "told again as before")) == 1
    records = sound()
    put(
        records, rank, told(at_s + 1e-6, (10**6, 0), 0, "00000000", again=True)
    )  # stored, and killed before it was told
    assert found(records, "told again as before") == []


@settings(max_examples=40, deadline=None)
@given(rank=RANKS, to=st.integers(-3, 60))
def test_a_skip_backward_or_to_where_nobody_is_is_found(rank: int, to: int) -> None:
    records = sound()
    at_s = 0.05
    most = max(r["step"] for o in range(6) if o != rank for r in records.of(o, "step") if r["at_s"] <= at_s)
    skip = put(records, rank, {"at_s": at_s, "event": "skip", "from": 0, "to": to})
    violations = [each for each in found(records, "skips are founded") if line_of(records, rank, skip) in each.lines]
    assert bool(violations) == (to <= 0 or to > most)


@settings(max_examples=20, deadline=None)
@given(rank=RANKS)
def test_who_does_not_arrive_is_found(rank: int) -> None:
    records = sound()
    records.ranks[rank].remove(records.of(rank, "end")[0])
    (violation,) = verdict_on(records).violated
    assert (violation.claim, violation.ranks) == ("everybody arrives", (rank,))
    last = records.ranks[rank][-1]
    records.ranks[rank].append({"at_s": last["at_s"], "event": "failed", "message": "OSError: no more"})
    (violation,) = verdict_on(records).violated
    assert "fell over (OSError: no more)" in violation.sentence


def test_who_is_dead_or_frozen_when_the_others_are_done_is_excused_and_nobody_else() -> None:
    """Two of three nodes go on without the third, and are done long before its fault is over."""
    for effect in (Crash(nodes=frozenset({2})), Crash(ranks=frozenset({4, 5}))):
        world = replace(WORLD, faults=()).with_fault(effect, at_s=0.1, for_s=50.0)
        outcome = ran(world, "mdaa", PARAMETERS, steps=STEPS)
        records = Records(tuple(outcome.journals), outcome.supervisor, [])
        assert not records.of(4, "end")
        assert verdict_on(records, plan_of(world, "mdaa", PARAMETERS, steps=STEPS)).violated == ()
        without = replace(PLAN, faults=())
        quiet = Records(records.ranks, [line for line in records.supervisor if line["event"] != "fault"], [])
        claims = {each.ranks for each in found(quiet, "everybody arrives", without)}
        assert claims == {(4,), (5,)}
    paused = Fault(Moment(at_s=0.1), Pause(frozenset({2})), "pause 2")
    records = sound()
    line = {"label": "pause 2", "effect": "pause", "begins": True, "planned_s": 0.1, "took_s": 0.0, "at_s": 0.1}
    records.supervisor.append({**line, "event": "fault"})
    records.ranks[4].remove(records.of(4, "end")[0])
    assert found(records, "everybody arrives", replace(PLAN, faults=(*PLAN.faults, paused))) == []


@settings(max_examples=40, deadline=None)
@given(rank=RANKS, ahead=st.integers(0, 4), at_s=st.floats(CUT_S + 0.1, CUT_S + CUT_FOR_S - 0.1), step=st.booleans())
def test_a_step_without_a_quorum_is_found(rank: int, ahead: int, at_s: float, step: bool) -> None:
    """T is the newest step of which anything was told before the cut: a rank may end it and begin the next one."""
    records = sound()
    T = max(line["round"][0] for r in range(6) for line in records.of(r, "told") if line["at_s"] <= CUT_S)
    if step:
        line = {"at_s": at_s, "event": "step", "step": T + ahead + 1}
        put(records, rank, line)
        allowed = 0
    else:
        line = put(records, rank, told(at_s, (T + ahead, 9), 0, "00000000", again=False))
        allowed = 1
    violations = found(records, "no step without a quorum")
    assert bool(violations) == (ahead > allowed)
    assert all(line_of(records, rank, line) in each.lines for each in violations)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.21, 0.29), st.floats(0.0, 60.0))
def test_a_quorum_that_stands_still_for_longer_than_the_bound_is_found(since_s: float, for_s: float) -> None:
    """Without the cut, and with nothing done for a while; a step takes milliseconds, so that the bound is 20 s."""
    records, plan = sound(), replace(PLAN, faults=PLAN.faults[:1])
    cuts = [line for line in records.supervisor if line["event"] in ("fault", "links") and line["at_s"] >= CUT_S]
    for line in cuts:
        records.supervisor.remove(line)
    for journal in records.ranks:  # the 25 s of the cut go, and as much as was drawn comes
        for record in journal:
            if record["at_s"] > since_s:
                record["at_s"] += for_s - (CUT_FOR_S if record["at_s"] > CUT_S + CUT_FOR_S else 0.0)
    violations = found(records, "a quorum goes on", plan)
    assert bool(violations) == (for_s > 20.2) or 19.0 < for_s < 20.3, "what is near the bound depends on the steps"
    for violation in violations:
        assert len(violation.ranks) >= 4


def test_a_cut_that_leaves_no_quorum_excuses_everybody() -> None:
    """The world itself stands still for 25 s, and is no violation."""
    assert found(sound(), "a quorum goes on") == []


def test_steps_of_an_algorithm_without_a_store_begin_anew_with_each_life(tmp_path: Path) -> None:
    world = Written(tmp_path, written_plan())
    for rank in (0, 1):
        world.start(rank)
        for step in (1, 2, 3):
            world.step(rank, 0.1 * step, step)
    world.start(1, 0.5)
    world.step(1, 0.6, 1)
    world.step(1, 0.7, 1)
    records = Records.read(world.folder, world.plan)
    (violation,) = found(records, "steps ascend", world.plan)
    assert violation.lines == (Line("ranks/1/journal.jsonl", 6), Line("ranks/1/journal.jsonl", 7))


@pytest.mark.parametrize(
    ("events", "is_sound"),
    [
        (["suspected", "heard", "suspected"], True),
        (["heard"], False),
        (["suspected", "suspected"], False),
        (["suspected", "start", "suspected"], True),  # a new life suspects nobody yet
    ],
)
def test_who_is_heard_again_was_suspected_before(tmp_path: Path, events: list[str], is_sound: bool) -> None:
    world = Written(tmp_path, written_plan())
    world.start(0)
    for event in events:
        if event == "start":
            world.start(0, 1.0)
        else:
            world.rank(0, event, 1.0, peer=1)
    assert bool(found(Records.read(world.folder, world.plan), "suspicions pair up", world.plan)) != is_sound


def test_a_model_that_has_left_the_numbers_is_found(tmp_path: Path) -> None:
    world = Written(tmp_path, written_plan(3, loss=0.0))
    for rank in range(3):
        world.start(rank)
        world.end(rank, 1.0, 1)
        world.model(rank, None, [1.0, float("nan") if rank == 2 else 1.0])
    (violation,) = check_run(world.folder, world.plan).violated
    assert (violation.claim, violation.ranks) == ("models are finite", (2,))


@pytest.mark.parametrize("where", ["snapshot", "final"])
def test_a_replica_that_differs_by_one_bit_is_found(tmp_path: Path, where: str) -> None:
    plan = replace(written_plan(3, loss=0.0), algorithm=AlgorithmChoice("allreduce", {"lr": 0.1}))
    world = Written(tmp_path, plan)
    off = float(np.nextafter(np.float32(0.5), np.float32(1)))
    for rank in range(3):
        world.start(rank)
        world.end(rank, 1.0, 10)
        world.model(rank, 10, [off if rank == 1 and where == "snapshot" else 0.5, 0.0])
        world.model(rank, None, [off if rank == 1 and where == "final" else 0.5, 0.0])
    (violation,) = check_run(world.folder, world.plan).violated
    assert (violation.claim, violation.ranks, violation.step) == ("replicas are equal", (1,), 10)


def test_a_line_is_named_by_its_number_in_the_file_though_another_is_torn(tmp_path: Path) -> None:
    world = Written(tmp_path, written_plan())
    world.start(0)
    with world.folder.journal(0).open("a") as file:
        file.write('{"at_s":0.1,"eve\n')
    world.rank(0, "skip", 0.2, **{"from": 4, "to": 2})
    violation = next(each for each in check_run(world.folder, world.plan).violated if each.claim == "skips are founded")
    assert violation.lines == (Line("ranks/0/journal.jsonl", 3),)
    assert str(violation) == ("Rank 0 skipped from step 4 to 2, and that is no way forward. (ranks/0/journal.jsonl:3)")


def test_a_summary_says_what_was_broken_before_all_else(tmp_path: Path) -> None:
    world = Written(tmp_path, written_plan(loss=0.1))
    world.whole_run([[0, 1000], [1000, 0]], [[0, 900], [200, 0]])  # a network that is not as asked
    world.rank(0, "skip", 9.9, **{"from": 4, "to": 2})
    summary = summarise(world.folder, world.plan, arm="docker")
    assert summary.invariants
    assert [each.claim for each in summary.invariants.violated] == ["skips are founded"]
    assert summary.warnings[0].startswith("A promise of the algorithm was broken: Rank 0 skipped from step 4 to 2")
    assert "The network was not as asked" in summary.warnings[1]
    read = type(summary).from_json(json.loads(json.dumps(summary.to_json())))
    assert read.invariants == summary.invariants


def test_what_an_own_algorithm_promises_nobody_knows(tmp_path: Path) -> None:
    own = tmp_path / "mine.py"
    own.write_text("async def mine(node, *, lr):\n    pass\n")
    plan = replace(written_plan(), algorithm=AlgorithmChoice("mine", {"lr": 0.1}, str(own)))
    assert set(verdict_on(Records(([], []), [], []), plan).checked) == {
        "steps ascend",
        "everybody arrives",
        "suspicions pair up",
    }


def test_every_claim_is_in_the_documentation(repository: Path) -> None:
    text = (repository / "docs" / "soak.md").read_text()
    missing = [claim for claim in CLAIMS if f"| {claim} |" not in text]
    assert missing == []
