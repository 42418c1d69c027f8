"""What stands on the page of a sweep: what came of it, its figures, and a row for every point, with its outcome."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median

from testbed.figures.style import COLUMN_IN
from testbed.page.parts import Page, Section, figure, figures, paragraphs, preformatted, table
from testbed.results import Summary, read_summary
from testbed.results.sentences import duration
from testbed.results.summary import percent
from testbed.runfolder import read_json
from testbed.sweep.grid import Point
from testbed.sweep.pictures import drawings
from testbed.sweep.state import Described, SweepFolder


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a point. `summary` is None where it failed, or is still to come."""

    id: str
    point: Point
    summary: Summary | None
    failure: str | None

    @property
    def said(self) -> str:
        if self.summary is None:
            return f"failed: {self.failure}" if self.failure else "still to come"
        return self.summary.outcome


def is_sweep(folder: Path) -> bool:
    return SweepFolder(folder).description.exists()


def page_of(folder: Path) -> Page:
    sweep = SweepFolder(folder)
    described = sweep.described()
    outcomes = [_outcome(sweep, id_, point) for id_, point in described.points]
    return Page(
        described.name,
        f"a sweep of {len(outcomes)} runs · {described.arm} · over {', '.join(described.paths) or 'seeds'}",
        tuple(_sections(sweep, described, outcomes)),
    )


def _outcome(sweep: SweepFolder, id_: str, point: Point) -> Outcome:
    failure = sweep.failure(id_)
    return Outcome(id_, point, read_summary(sweep.point(id_)), failure.message if failure else None)


def _sections(sweep: SweepFolder, described: Described, outcomes: Sequence[Outcome]) -> Iterator[Section]:
    yield Section("warnings", "", _warnings(outcomes))
    yield Section("summary", "Summary", _highlights(described, outcomes))
    drawn = drawings(sweep)
    broad = [each for each in drawn if each.figure.get_figwidth() > 1.3 * COLUMN_IN]
    pictures = "".join(figure(each, width="page") for each in broad) + figures(
        each for each in drawn if each not in broad
    )
    if pictures:
        yield Section("figures", "Figures", pictures)
    yield Section("points", "Points", _points(sweep, described, outcomes))
    yield Section("plan", "Plan", _plan(sweep))


def _warnings(outcomes: Sequence[Outcome]) -> str:
    """Of all runs together: how many of them say so, and how many failed."""
    failed = sum(outcome.summary is None and outcome.failure is not None for outcome in outcomes)
    missing = sum(outcome.summary is None and outcome.failure is None for outcome in outcomes)
    denied = sum(outcome.summary is not None and outcome.summary.network.as_asked is False for outcome in outcomes)
    overflowed = sum(any(rank.overflow for rank in each.summary.ranks) for each in outcomes if each.summary)
    busy = sum(
        each.summary.machine is not None and not each.summary.machine.time_is_honest
        for each in outcomes
        if each.summary
    )
    said = [
        f"{count} of {len(outcomes)} runs {what}."
        for count, what in (
            (failed, "failed: see the points"),
            (missing, "are still to come"),
            (denied, "had a network that was not as asked"),
            (overflowed, "lost datagrams to full socket buffers, which nobody asked for"),
            (busy, "had to share or to wait for cores: their times are not those of a real cluster, their steps are"),
        )
        if count
    ]
    if not said:
        return '<p class="good">No warnings: all runs finished, and their networks were as asked.</p>'
    return f'<div class="warnings" role="alert">{paragraphs(said)}</div>'


def _highlights(described: Described, outcomes: Sequence[Outcome]) -> str:
    """A row for each setting: the median over its seeds."""
    groups: dict[tuple[str, ...], list[Summary]] = {}
    for outcome in outcomes:
        if outcome.summary is not None:
            groups.setdefault(_settings(described, outcome.point), []).append(outcome.summary)
    heads = [*described.paths, "runs", "accuracy", "loss", "drift", "steps to target", "a step takes", "lost"]
    rows = [
        [
            *settings,
            str(len(found)),
            _median([each.model.accuracy for each in found if each.model], "{:.4f}".format),
            _median([each.model.loss for each in found if each.model], "{:.4g}".format),
            _median([each.model.drift for each in found if each.model], "{:.3g}".format),
            _to_target(found),
            _median([each.step_median_s for each in found], duration),
            _median([each.network.pooled.achieved_loss for each in found if each.network.pooled], percent),
        ]
        for settings, found in groups.items()
    ]
    note = paragraphs(["The median over the seeds, of the mean model at the end."])
    return note + table(heads, rows, words=range(len(described.paths)))


def _settings(described: Described, point: Point) -> tuple[str, ...]:
    known = {setting.path: setting.text for setting in point.settings}
    return tuple(known.get(path, "") for path in described.paths)


def _median(values: Sequence[float | None], show: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    return show(median(known)) if known else "-"


def _to_target(found: Sequence[Summary]) -> str:
    targets = [each.target for each in found if each.target]
    steps = [target.step for target in targets if target.step is not None]
    if not steps:
        return "not reached" if targets else "-"
    return f"{median(steps):g}" + (f" ({len(steps)} of {len(targets)} runs)" if len(steps) < len(targets) else "")


def _points(sweep: SweepFolder, described: Described, outcomes: Sequence[Outcome]) -> str:
    """With a link to the page of a point, where it has one."""
    rows = []
    for outcome in outcomes:
        found = outcome.summary
        page = sweep.point(outcome.id).path / "report.html"
        name = escape(outcome.id)
        cells = [
            f'<td><a href="points/{name}/report.html">{name}</a></td>' if page.exists() else f"<td>{name}</td>",
            *(f"<td>{escape(value)}</td>" for value in _settings(described, outcome.point)),
            f'<td class="number">{outcome.point.seed}</td>',
            f"<td>{escape(outcome.said)}</td>",
            f'<td class="number">{found.steps_done if found else "-"}</td>',
            f'<td class="number">{len(found.warnings) if found else "-"}</td>',
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heads = ("point", *described.paths, "seed", "outcome", "steps", "warnings")
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    note = "<p>The page of a point is made by <code>testbed report points/…</code>, and then linked here.</p>"
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f"</div>{note}"
    )


def _plan(sweep: SweepFolder) -> str:
    data = read_json(sweep.description) or {"set": []}
    fixed = [word for override in data["set"] for word in ("--set", override)]
    again = f"<p>Settings beside it:</p>{preformatted(shlex.join(fixed))}" if fixed else ""
    return preformatted((sweep.path / "plan.yaml").read_text(encoding="utf-8", errors="replace")) + again
