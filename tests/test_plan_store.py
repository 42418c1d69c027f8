"""What a plan says of stores: the defaults that follow from the rest of it, and what it may not say."""

from __future__ import annotations

import pytest

from testbed.errors import PlanError
from testbed.plan import Plan, timeline
from testbed.plan.model import StoreChoice
from testbed.plan.reader import read_plan

PLAN = """
name: keeps
nodes: {{count: 4}}
algorithm: {algorithm}
task: {{model: mlp}}
run: {{steps: 300, evaluate_every: 25}}
faults: {faults}
"""
RPS, ALLREDUCE, MDAA = "{name: rps, lr: 0.1}", "{name: allreduce, lr: 0.1}", "{name: mdaa, lr: 0.1}"
RESTART = "{name: allreduce, lr: 0.1, on_crash: restart}"
CRASH = "[{at: 5s, crash: {node: 2}, for: 3s}]"


def plan(algorithm: str = RPS, faults: str = "[]", **store: str) -> Plan:
    text = PLAN.format(algorithm=algorithm, faults=faults)
    if store:
        text += f"store: {{{', '.join(f'{key}: {value}' for key, value in store.items())}}}\n"
    return read_plan(text, file="plan.yaml")


@pytest.mark.parametrize(
    ("algorithm", "faults", "every"),
    [
        (RPS, "[]", 25),  # nobody comes back but after a crash by hand: as often as models are evaluated
        (RPS, CRASH, 1),
        (ALLREDUCE, "[]", 25),
        (ALLREDUCE, CRASH, 25),  # on_crash: stop
        (RESTART, "[]", 1),
        (MDAA, "[]", 1),  # what it tells is kept anyway
    ],
)
def test_models_are_kept_every_step_where_somebody_comes_back(algorithm: str, faults: str, every: int) -> None:
    assert plan(algorithm, faults).store == StoreChoice("fsync", every=every, wait=True)


def test_what_is_written_is_what_is_done() -> None:
    assert plan(backend="msync", every="7", wait="false").store == StoreChoice("msync", every=7, wait=False)
    assert Plan.from_json(plan(every="7").to_json()).store.every == 7


def test_who_must_not_forget_what_it_told_cannot_keep_it_later() -> None:
    with pytest.raises(PlanError, match=r"store\.wait: `wait: false`: mdaa is told by messages.*its proof excludes"):
        plan(MDAA, wait="false")
    with pytest.raises(PlanError, match=r"allreduce begins again, after a crash, at a step that all ranks have kept"):
        plan(RESTART, wait="false")
    assert not plan(ALLREDUCE, wait="false").store.wait


def test_the_control_says_what_it_takes_away() -> None:
    (warning,) = [each for each in timeline.check_plan(plan(MDAA, backend="memory"))["warnings"] if "memory`" in each]
    assert "what mdaa promises about crashes does not hold" in warning
    rps = " ".join(timeline.check_plan(plan(RPS, CRASH, backend="memory"))["warnings"])
    assert "who comes back begins with the common start" in rps


def test_check_says_what_is_kept() -> None:
    assert "keeps     the model after every 25 steps, written and synced before the next" in timeline.describe(plan())
    later = timeline.describe(plan(backend="msync", wait="false", every="1"))
    assert "the model after every step, mapped and synced while the next ones go on" in later
    assert "messages and registers before they leave" in timeline.describe(plan(MDAA))
    assert timeline.check_plan(plan())["store"] == {"backend": "fsync", "every": 25, "wait": True}
