"""A summary as a person wants to read it at the end of `testbed up`: sentences first, then the pairs.

Plain text: it must read the same in a terminal, a log and a bug report.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import fill

from testbed.results.delivery import PairDelivery
from testbed.results.summary import Summary, percent

WHOLE_TABLE_NODES = 6  # up to 30 pairs
WORST_PAIRS = 8
WIDTH = 100
_NO_BREAK = "\N{NO-BREAK SPACE}"


def render(summary: Summary) -> str:
    """A short text, no trailing newline."""
    sentences = [_what(summary), _model(summary), _target(summary), _network(summary)]
    blocks = [_filled(" ".join(text.split())) for text in sentences if text]
    blocks += [_pairs(summary)] if summary.network.pairs else []
    blocks += [_filled(f"warning: {warning}") for warning in summary.warnings]
    return "\n".join(blocks)


def _filled(text: str) -> str:
    """Wrapped, but never between a number and its unit."""
    held = re.sub(r"(?<=\d) (?=%|ms\b|s\b|min\b|\d{3}\b)", _NO_BREAK, text)
    return fill(held, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False).replace(
        _NO_BREAK, " "
    )


def _what(summary: Summary) -> str:
    ranks = len(summary.ranks)
    nodes = "" if summary.nodes == ranks else f" on {summary.nodes} nodes"
    ended = "" if summary.outcome == "finished" else f" (ended: {summary.outcome})"
    pace = ""
    if summary.step_median_s is not None and summary.step_p95_s is not None:
        pace = f", {duration(summary.step_median_s)} a step (median; 95 % under {duration(summary.step_p95_s)})"
    virtual = " of virtual time" if summary.arm == "simulated" else ""
    return (
        f"{summary.name}: {summary.algorithm}, {ranks} ranks{nodes}, {summary.arm}: "
        f"{summary.steps_done} of {summary.steps_asked} steps in {duration(summary.duration_s)}{virtual}{pace}{ended}."
    )


def _model(summary: Summary) -> str:
    model = summary.model
    if model is None:
        return "No model was evaluated."
    values = []
    if model.accuracy is not None:
        own = [accuracy for accuracy in model.accuracies if accuracy is not None]
        spread = f" (the ranks' own: {min(own):.4f} to {max(own):.4f})" if own else ""
        values.append(f"accuracy {model.accuracy:.4f}{spread}")
    values.append("a loss that is not finite" if model.loss is None else f"loss {model.loss:.4g}")
    if model.distance is not None:
        values.append(f"distance to the optimum {model.distance:.3g}")
    values.append("a drift that is not finite" if model.drift is None else f"drift {model.drift:.3g}")
    return f"The mean model: {', '.join(values)}."


def _target(summary: Summary) -> str:
    target = summary.target
    if target is None:
        return ""
    wanted = [f"{name} {value:g}" for name, value in (("accuracy", target.accuracy), ("loss", target.loss)) if value]
    if target.step is None or target.at_s is None:
        return f"The target, {' and '.join(wanted)}, was not reached."
    return f"The target, {' and '.join(wanted)}, was reached by step {target.step}, after {duration(target.at_s)}."


def _network(summary: Summary) -> str:
    network, pooled = summary.network, summary.network.pooled
    if pooled is None or pooled.achieved_loss is None or pooled.interval is None:
        return "The loss of the network was not measured: nothing that could be lost was counted."
    unit, number = ("datagrams", pooled.counted) if pooled.achieved_by == "datagrams" else ("packets", pooled.seen or 0)
    text = (
        f"The network lost {percent(pooled.achieved_loss)} of {grouped(number)} {unit}; "
        f"{percent(pooled.requested_loss)} was asked for"
        f" (99 % interval {percent(pooled.interval.low)} to {percent(pooled.interval.high)})"
    )
    if pooled.overflow_high:
        text += f"; {grouped(pooled.overflow)} more were lost to full socket buffers"
    judged = sum(pair.as_asked is not None for pair in network.pairs)
    if network.as_asked and judged:
        return f"{text}. As asked on {'all' if judged == len(network.pairs) else judged} of {len(network.pairs)} pairs."
    if network.as_asked:
        return f"{text}. As asked."
    return f"{text}. Not as asked: see the warnings."


def _pairs(summary: Summary) -> str:
    pairs: Sequence[PairDelivery] = summary.network.pairs
    title = "node pair"
    if summary.nodes > WHOLE_TABLE_NODES:
        pairs = sorted(pairs, key=_strangeness, reverse=True)[:WORST_PAIRS]
        title = "farthest off"
    rows: list[tuple[str, ...]] = [
        (title, "asked", "achieved", "99 % interval", "sent", "received", "overflow", "kernel", "as asked")
    ]
    rows += [_row(pair) for pair in pairs]
    notes = (
        ["  * it changed during the run: the mean over the packets"] if any(p.requested_changed for p in pairs) else []
    )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*(f"  {line}".rstrip() for line in lines), *notes])


def _strangeness(pair: PairDelivery) -> tuple[bool, float]:
    off = abs((pair.achieved_loss if pair.achieved_loss is not None else pair.requested_loss) - pair.requested_loss)
    width = (pair.interval.high - pair.interval.low) if pair.interval else 1.0
    return pair.as_asked is False, off / max(width, 1e-12)


def _row(pair: PairDelivery) -> tuple[str, ...]:
    interval = "-"
    if pair.interval:
        interval = f"{100 * pair.interval.low:.2f} … {100 * pair.interval.high:.2f} %"
    return (
        f"{pair.sender} → {pair.receiver}",
        f"{percent(pair.requested_loss)}{'*' if pair.requested_changed else ''}",
        "-" if pair.achieved_loss is None else f"{100 * pair.achieved_loss:.2f} %",
        interval,
        grouped(pair.counted),
        grouped(pair.received),
        grouped(pair.overflow),
        "-" if pair.seen is None else f"{grouped(pair.dropped or 0)} of {grouped(pair.seen)}",
        {True: "yes", False: "NO", None: "not measured"}[pair.as_asked],
    )


def grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def duration(seconds: float) -> str:
    """63 ms, 8.1 s, 4 min 20 s."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{int(seconds // 60)} min {round(seconds % 60)} s"
