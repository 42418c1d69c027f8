"""Every row of docs/refusals.md is tried: the plan is refused, with exactly that sentence and no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from testbed.errors import PlanError
from testbed.plan.reader import read_plan

DOCUMENT = (Path(__file__).parent.parent / "docs" / "refusals.md").read_text()
PLAN = DOCUMENT.split("```")[1].removeprefix("yaml\n").splitlines()
ROWS = [line.strip("| ").split(" | ", 1) for line in DOCUMENT.splitlines() if line.startswith("| `")]


def test_document_is_not_empty() -> None:
    assert len(ROWS) > 40


def test_plan_of_the_document_is_right_without_the_mistakes() -> None:
    assert len(read_plan("\n".join(PLAN), file="plan.yaml").nodes) == 4


@pytest.mark.parametrize(("written", "answer"), ROWS, ids=[row[0] for row in ROWS])
def test_refused_plan_earns_the_sentence_of_the_document(written: str, answer: str) -> None:
    wrong = written.strip("`")
    key = wrong.partition(":")[0]
    lines = [line for line in PLAN if not line.startswith(f"{key}:")] + [wrong]
    with pytest.raises(PlanError) as refused:
        read_plan("\n".join(lines), file="plan.yaml")
    (complaint,) = refused.value.complaints
    assert str(replace(complaint, file=None, line=None)) == answer
    if "needs" not in answer or "split" in answer:  # (what is missing has the line of what it is missing from)
        assert complaint.line == len(lines)
