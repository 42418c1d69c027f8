"""Pictures of a plan's network: nodes and switches, joined by lines that say what the links do.

sketch.py decides what is drawn, layout.py where, picture.py draws it (SVG, PNG), text.py writes it (mermaid, dot).
"""

from __future__ import annotations

from pathlib import Path

from testbed.core.faults import Moment
from testbed.errors import MachineError, PlanError
from testbed.graph import picture, text
from testbed.graph.sketch import Sketch, sketch
from testbed.plan.complaints import Complaints, Wrong
from testbed.plan.document import item_of
from testbed.plan.fault_keys import MomentKind
from testbed.plan.model import Plan

MOST_LINES = 20_000  # half a minute of matplotlib

FORMS = {".svg": "svg", ".png": "png", ".mmd": "mermaid", ".mermaid": "mermaid", ".dot": "dot", ".gv": "dot"}


def of(plan: Plan, at: str | None) -> Sketch:
    """The network of `plan` as it starts, or with the faults that hold `at` a moment. Raises PlanError for text that
    is no moment.

    Nobody knows when a step comes: at a time, no fault has come that waits for a step, and the other way round.
    """
    if at is None:
        return sketch(plan, plan.network.links)
    moment = _moment(at)
    schedule = plan.schedule()
    schedule.advance(now_s=moment.at_s or 0.0, step=moment.step or 0)
    return sketch(plan, schedule.link_state())


def _moment(at: str) -> Moment:
    complaints = Complaints()
    try:
        return MomentKind().read(item_of(at, "--at"), complaints)
    except Wrong as wrong:
        complaints.add_wrong(wrong)
        raise PlanError(complaints.found) from wrong


def form_of(output: Path | None) -> str:
    """svg, png, mermaid or dot, by the name of the file."""
    return FORMS.get(output.suffix.lower(), "svg") if output is not None else "svg"


def draw(drawn: Sketch, form: str) -> bytes:
    """The sketch in that form. Raises MachineError where it would be no picture."""
    if form not in ("mermaid", "dot") and len(drawn.strokes) > MOST_LINES:
        raise MachineError(
            f"{len(drawn.strokes)} lines between {drawn.size} nodes are no picture, and take minutes to draw",
            remedy="draw a smaller one of the same kind (`--set nodes.count=32`), or text (`--format dot`)",
        )
    if form in ("mermaid", "dot"):
        return (text.mermaid(drawn) if form == "mermaid" else text.dot(drawn)).encode()
    return picture.draw(drawn, "png" if form == "png" else "svg")


def write(data: bytes, output: Path) -> None:
    """Raises MachineError where the file cannot be written."""
    try:
        output.write_bytes(data)
    except OSError as error:
        raise MachineError(
            f"{output} cannot be written: {error.strerror}", remedy="name another file with `-o`"
        ) from error
