"""What stands on the page of a run: warnings first, then sentences, figures, tables, the plan and how to repeat it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html import escape

from testbed.errors import TestbedError
from testbed.figures import contraction, delivered, links, paces, recovery, training, whereabouts
from testbed.figures.story import Story
from testbed.figures.style import COLUMN_IN, PAGE_IN, Drawn
from testbed.page.parts import Page, Section, figure, figures, folded, paragraphs, preformatted, table
from testbed.plan import Plan
from testbed.results import FaultWindow, PairDelivery, Records, Summary, in_sentences, summarise
from testbed.results.recovery import Recovery
from testbed.results.sentences import duration, grouped
from testbed.results.summary import RankSummary, percent
from testbed.runfolder import Launch, RunFolder, read_json

LISTED = 600  # rows of a table; of more, those that are farthest off, or the first
MANY_WARNINGS = 8
HOST = ("testbed", "python", "kernel", "machine", "cores")  # of what is noted of how a run was made


class NoRunError(TestbedError):
    """There is no run where one was looked for."""

    exit_code = 2


def page_of(folder: RunFolder) -> Page:
    """Raises NoRunError. Of a run that was killed, what its journals hold."""
    story = read_story(folder)
    return Page(story.plan.name, story.headline, tuple(sections(story, folder)))


def read_story(folder: RunFolder) -> Story:
    """With a summary: the one that the run left, or one made now from its journals."""
    if not folder.plan.exists():
        raise NoRunError(
            f"{folder.path} is no folder of a run: it has no plan.json",
            remedy="name a run's folder, such as runs/quickstart/latest, or a sweep's",
        )
    try:
        story = Story.read(folder)
        if story.summary is not None:
            return story
        summary = summarise(folder, story.plan, arm=arm_of(folder), outcome=_outcome(story.records))
    except (KeyError, TypeError) as error:
        raise NoRunError(
            f"{folder.path} was written by another version of testbed, which this one cannot read ({error!r})",
            remedy="repeat the run: its plan.yaml lies in the folder",
        ) from error
    return replace(story, summary=summary)


def sections(story: Story, folder: RunFolder) -> Iterator[Section]:
    """In the order in which they stand."""
    summary = story.summary
    assert summary is not None, "read_story made one"
    yield Section("warnings", "", _warnings(summary.warnings))
    yield Section("summary", "Summary", paragraphs(in_sentences(summary)))
    if training_figures := _training(story):
        yield Section("training", "Training", training_figures)
    if timeline := _pair(whereabouts.draw(story, width_in=PAGE_IN), whereabouts.draw(story, width_in=COLUMN_IN)):
        yield Section("timeline", "Timeline", timeline + _fault_table(summary.faults))
    if recovered := figures([recovery.draw(story)]):
        yield Section("recovery", "Recovery", recovered + _recovery_table(story.recoveries))
    if network := _network(story, summary):
        yield Section("network", "Network", network)
    if steps := figures([paces.draw(story), contraction.draw(story)]):
        yield Section("steps", "Steps", steps)
    yield Section("ranks", "Ranks", _rank_table(summary.ranks))
    yield Section("plan", "Plan", _plan(folder))
    yield Section("repeat", "How to repeat it", _repeat(story.plan, summary, folder))


def all_figures(story: Story) -> Iterator[Drawn]:
    """Every figure that there is to draw of it, as wide as a column of a paper; the heat map is as wide as a page."""
    drawn = (
        training.draw(story, width_in=COLUMN_IN, titled=False),
        training.draw(story, "time", width_in=COLUMN_IN, titled=False),
        whereabouts.draw(story),
        delivered.draw(story),
        links.draw(story),
        recovery.draw(story),
        paces.draw(story),
        contraction.draw(story),
    )
    yield from (each for each in drawn if each is not None)


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return (
            '<p class="good">No warnings: the network was as asked as far as it was measured, nothing overflowed.</p>'
        )
    shown = paragraphs(warnings[:MANY_WARNINGS])
    if len(warnings) > MANY_WARNINGS:
        rest = paragraphs(warnings[MANY_WARNINGS:])
        shown += folded(f"{len(warnings) - MANY_WARNINGS} more warnings", rest, name="more-warnings")
    return f'<div class="warnings" role="alert">{shown}</div>'


def _training(story: Story) -> str:
    """Steps first. Times beside them only where they are those of the plan, else behind a click."""
    steps = training.draw(story, width_in=COLUMN_IN, titled=False)
    times = training.draw(story, "time", width_in=COLUMN_IN, titled=False)
    if not story.marks_time:
        return figures([steps, times])
    if steps is None or times is None:
        return ""
    beside = folded("The same against time, which on this machine says little", figure(times), name="against-time")
    return figures([steps]) + beside


def _pair(wide: Drawn | None, narrow: Drawn | None) -> str:
    return figure(wide, narrow=narrow, width="page") if wide and narrow else ""


# ---- network and faults


def _network(story: Story, summary: Summary) -> str:
    found = figures([delivered.draw(story)]) + _pair(links.draw(story), links.draw(story, upright=True))
    pairs = summary.network.pairs
    if not pairs:
        return found
    title = f"All {len(pairs)} pairs in numbers"
    if len(pairs) > LISTED:
        pairs = tuple(sorted(pairs, key=_distance, reverse=True)[:LISTED])
        title = f"The {LISTED} pairs that are farthest off, in numbers (all of them are in summary.json)"
    heads = ("from", "to", "asked", "achieved", "99 % interval", "sent", "received", "overflow", "kernel", "as asked")
    return found + folded(title, table(heads, map(_pair_row, pairs), words=(9,)), name="pairs")


def _distance(pair: PairDelivery) -> float:
    return abs((pair.achieved_loss if pair.achieved_loss is not None else pair.requested_loss) - pair.requested_loss)


def _pair_row(pair: PairDelivery) -> tuple[str, ...]:
    interval = f"{100 * pair.interval.low:.2f} … {100 * pair.interval.high:.2f} %" if pair.interval else "-"
    return (
        str(pair.sender),
        str(pair.receiver),
        f"{percent(pair.requested_loss)}{' (mean)' if pair.requested_changed else ''}",
        "-" if pair.achieved_loss is None else f"{100 * pair.achieved_loss:.2f} %",
        interval,
        grouped(pair.counted),
        grouped(pair.received),
        grouped(pair.overflow),
        "-" if pair.seen is None else f"{grouped(pair.dropped or 0)} of {grouped(pair.seen)}",
        {True: "yes", False: "NO", None: "not measured"}[pair.as_asked],
    )


def _fault_table(faults: Sequence[FaultWindow]) -> str:
    if not faults:
        return ""
    heads = ("fault", "by", "planned", "began", "ended", "held for", "in force after")
    return folded(
        f"{len(faults)} fault{'s' * (len(faults) > 1)} in numbers",
        table(heads, map(_fault_row, faults[:LISTED]), words=(0, 1)),
        name="faults",
    )


def _fault_row(fault: FaultWindow) -> tuple[str, ...]:
    return (
        fault.label,
        fault.by,
        "-" if fault.planned_s is None else f"{fault.planned_s:.3f} s",
        f"{fault.begin_s:.3f} s",
        f"{fault.end_s:.3f} s" if fault.ended else "with the run",
        duration(fault.end_s - fault.begin_s),
        duration(fault.took_s),
    )


def _recovery_table(found: Sequence[Recovery]) -> str:
    """The moments of each, since it was wanted back, and what the others' steps took meanwhile."""
    names = list(dict.fromkeys(moment.name for each in found for moment in each.moments))
    heads = ("who", "fault", *(name.replace("_", " ") for name in names), "skipped", "others' steps")
    return folded(
        "Every moment in numbers, since it was wanted back",
        table(heads, (_recovery_row(each, names) for each in found[:LISTED]), words=(0, 1)),
        name="recoveries",
    )


def _recovery_row(found: Recovery, names: Sequence[str]) -> tuple[str, ...]:
    since = {moment.name: moment.since_start_s for moment in found.moments}
    moments = ("-" if since.get(name) is None else f"{since[name]:+.3f} s" for name in names)
    ratio = found.pace.ratio
    return (
        found.who,
        found.label,
        *moments,
        str(found.skipped_steps),
        "-" if ratio is None else f"{ratio:.2f} times as long",
    )


# ---- ranks


def _rank_table(ranks: Sequence[RankSummary]) -> str:
    columns = [
        column
        for column in _RANK_COLUMNS
        if column[0] not in _ONLY_WHERE_ANY or any(column[1](rank) not in ("0", "-") for rank in ranks)
    ]
    title = "All ranks in numbers" if len(ranks) <= LISTED else f"The first {LISTED} of {len(ranks)} ranks in numbers"
    rows = (tuple(show(rank) for _, show in columns) for rank in ranks[:LISTED])
    return folded(title, table([head for head, _ in columns], rows), name="rank-table", opened=len(ranks) <= 16)


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)


_RANK_COLUMNS: Sequence[tuple[str, Callable[[RankSummary], str]]] = (
    ("rank", lambda rank: str(rank.rank)),
    ("node", lambda rank: str(rank.node)),
    ("steps", lambda rank: str(rank.steps)),
    ("ended", lambda rank: rank.ended or "never said"),
    ("starts", lambda rank: str(rank.starts)),
    ("step (median)", lambda rank: _time(rank.step_median_s)),
    ("95 % under", lambda rank: _time(rank.step_p95_s)),
    ("gradient", lambda rank: _time(rank.gradient_median_s)),
    ("wait", lambda rank: _time(rank.wait_median_s)),
    ("late phases", lambda rank: str(rank.late_phases)),
    ("skipped", lambda rank: str(rank.skipped_steps)),
    ("suspected", lambda rank: str(rank.suspected)),
    ("overflow", lambda rank: grouped(rank.overflow)),
    ("told", lambda rank: grouped(rank.messages.told) if rank.messages else "-"),
    ("dropped", lambda rank: grouped(rank.messages.dropped) if rank.messages else "-"),
    ("loss", lambda rank: "-" if rank.loss is None else f"{rank.loss:.4g}"),
    ("accuracy", lambda rank: "-" if rank.accuracy is None else f"{rank.accuracy:.4f}"),
)
_ONLY_WHERE_ANY = {"late phases", "skipped", "suspected", "overflow", "told", "dropped", "accuracy"}


# ---- the plan


def _plan(folder: RunFolder) -> str:
    written = folder.path / "plan.yaml"
    understood = folded(
        "As understood, overrides included",
        preformatted(json.dumps(read_json(folder.plan), indent=1)),
        name="understood",
    )
    if not written.exists():
        return understood
    return f"{preformatted(written.read_text(encoding='utf-8', errors='replace'))}{understood}"


def _repeat(plan: Plan, summary: Summary, folder: RunFolder) -> str:
    command = {"docker": "up", "local": "local"}.get(summary.arm, "simulate")
    overrides = read_json(folder.overrides) or []
    words = ["testbed", command, "plan.yaml", *(word for override in overrides for word in ("--set", override))]
    fixed = (
        "The seed fixes every packet and every time, so that it gives the same journals."
        if summary.arm == "simulated"
        else "The seed fixes data order, initial model and fault schedule, not which packets the kernel drops."
    )
    facts = [("seed", str(plan.seed)), ("outcome", summary.outcome), ("folder", str(folder.path.resolve()))]
    facts += [(name, str(summary.made[name])) for name in HOST if name in summary.made]
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    again = "<p>In the run's folder, <code>testbed report .</code> makes this page again.</p>"
    return (
        f"<p>With the plan above saved as plan.yaml:</p>{preformatted(shlex.join(words))}"
        f"<p>{escape(fixed)}</p><dl>{rows}</dl>{again}"
    )


# ---- what a run that left no summary was


def arm_of(folder: RunFolder) -> str:
    if not folder.launch.exists():
        return "simulated"
    return "local" if Launch.read(folder.launch).inject_loss else "docker"


def _outcome(records: Records) -> str:
    ends = records.supervised("end")
    if not ends:
        return "it is still going on, or was killed"
    outcome, message = str(ends[-1]["outcome"]), str(ends[-1].get("message", ""))
    return "finished" if outcome == "ok" else f"{outcome}{': ' if message else ''}{message}"
