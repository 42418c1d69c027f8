"""A summary as a person wants to read it at the end of `testbed up`: sentences first, then the pairs.

Plain text: it must read the same in a terminal, a log and a bug report.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import fill

import numpy as np

from testbed.results import job
from testbed.results.delivery import PairDelivery
from testbed.results.faults import FaultWindow
from testbed.results.recovery import Recovery
from testbed.results.summary import MessageSummary, Summary, percent

WHOLE_TABLE_NODES = 6  # up to 30 pairs
WORST_PAIRS = 8
WIDTH = 100
LISTED_FAULTS = 4
LISTED_RECOVERIES = 12
ON_TIME_S = 0.0005  # what the journals' clocks can tell, and a person would care for
_NO_BREAK = "\N{NO-BREAK SPACE}"


def render(summary: Summary) -> str:
    """A short text, no trailing newline."""
    blocks = [_filled(text) for text in in_sentences(summary)]
    blocks += [table] if (table := _recovery_table(summary)) else []
    blocks += [_pairs(summary)] if summary.network.pairs else []
    blocks += [_filled(f"warning: {warning}") for warning in summary.warnings]
    return "\n".join(blocks)


def in_sentences(summary: Summary) -> list[str]:
    """What `render` says before its table, a paragraph each."""
    said = [
        _what(summary),
        _model(summary),
        _target(summary),
        _network(summary),
        _messages(summary),
        _faults(summary),
        job.sentences(summary.job),
        _away(summary),
        *_recoveries(summary),
    ]
    return [" ".join(text.split()) for text in said if text]


def unbroken(text: str) -> str:
    """With no-break spaces between numbers and their units, and within numbers."""
    return re.sub(r"(?<=\d) (?=%|ms\b|s\b|min\b|\d{3}\b)", _NO_BREAK, text)


def _filled(text: str) -> str:
    """Wrapped, but never between a number and its unit."""
    return fill(unbroken(text), WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False).replace(
        _NO_BREAK, " "
    )


def _what(summary: Summary) -> str:
    ranks = len(summary.ranks)
    nodes = "" if summary.nodes == ranks else f" on {summary.nodes} nodes"
    ended = "" if summary.outcome == "finished" else f" (ended: {summary.outcome})"
    if summary.outcome.startswith("the job "):  # a whole sentence
        ended = f": {summary.outcome}"
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
        if any(rank.messages for rank in summary.ranks):
            return "The loss of the network was not measured: lost packets make messages late, and none were counted."
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


def _messages(summary: Summary) -> str:
    """What became of messages; and who skipped steps, but for those of whom `_away` tells it."""
    told = [rank.messages for rank in summary.ranks if rank.messages]
    if not told:
        return ""
    number = {name: sum(getattr(each, name) for each in told) for name in MessageSummary.__dataclass_fields__}
    text = f"Of {grouped(number['told'])} messages {grouped(number['received'])} were received"
    more = [f"{grouped(number['again'])} were sent again"] if number["again"] else []
    more += [f"full queues dropped {grouped(number['dropped'])}"] if number["dropped"] else []
    more += [f"{grouped(number['anew'])} connections were made anew"] if number["anew"] else []
    more += [f"{grouped(number['foreign'])} frames were not of this run"] if number["foreign"] else []
    text = f"{'; '.join([text, *more])}."
    skipped = [rank.skipped_steps for rank in summary.ranks if rank.skipped_steps and rank.starts == 1]
    if not skipped:
        return text
    most, least = max(skipped), min(skipped)
    who = f"{len(skipped)} of {len(summary.ranks)} ranks skipped {'' if least == most else f'{least} to '}{most}"
    return f"{text} {who} step{'s' * (most != 1)} to be where the others were."


def _faults(summary: Summary) -> str:
    faults = summary.faults
    if not faults:
        return ""
    late_s = [late_s for fault in faults for late_s in fault.lateness_s]
    if len(faults) <= LISTED_FAULTS:
        return f"Faults: {'; '.join(_fault(fault) for fault in faults)}."
    text = f"{len(faults)} faults"
    if by_hand := sum(fault.by == "hand" for fault in faults):
        text += f", {by_hand} of them by hand"
    if late_s and max(late_s) < ON_TIME_S:
        return f"{text}; all that were planned for a time came on time."
    if late_s:
        half_s, most_s = (max(0.0, float(value)) for value in np.quantile(late_s, (0.5, 0.99)))
        text += (
            f"; of {len(late_s)} planned instants half were met within {duration(half_s)} and 99 % within "
            f"{duration(most_s)}"
        )
    took_s = float(np.quantile([fault.took_s for fault in faults], 0.99))
    return text + (f"; a change took {duration(took_s)} (99th percentile)." if took_s else ".")


def _fault(fault: FaultWindow) -> str:
    """partition 0 | 1-3 at 5 s for 5 s (0.8 ms late)."""
    planned_s = fault.planned_s
    text = f"{fault.label} at {duration(fault.begin_s if planned_s is None else planned_s)}"
    if not fault.ended:
        text += " to the end"
    elif fault.end_s > fault.begin_s:
        text += f" for {duration(fault.end_s - fault.begin_s)}"
    if fault.by == "hand":
        return f"{text} (by hand)"
    if planned_s is None:
        return text
    late_s = max(fault.lateness_s)
    return f"{text} ({'on time' if late_s < ON_TIME_S else duration(late_s) + ' late'})"


def _away(summary: Summary) -> str:
    """Who crashed, was paused or slow, how often and for how long in all; and what it cost those who came back."""
    said = []
    for effect, was in (("crash", "crashed"), ("pause", "was paused"), ("slow", "was slow")):
        found = [fault for fault in summary.faults if fault.effect == effect]
        times_s: dict[str, list[float]] = {}
        for fault in found:
            for who in [*(f"node {node}" for node in fault.nodes), *(f"rank {rank}" for rank in fault.ranks)]:
                times_s.setdefault(who, []).append(fault.end_s - fault.begin_s)
        if len(times_s) > LISTED_FAULTS:
            total = sum(len(each) for each in times_s.values())
            said.append(f"{len(times_s)} nodes or ranks {was.replace('was', 'were')}, {total} times in all.")
            continue
        for who, each_s in sorted(times_s.items()):
            often = "" if len(each_s) == 1 else f" {len(each_s)} times"
            said.append(f"{who.capitalize()} {was}{often}, for {duration(sum(each_s))}.")
    return " ".join(said)


def _recoveries(summary: Summary) -> list[str]:
    """How each outage was got over; of many the crashes together, and the rest in a table."""
    if len(summary.recoveries) <= LISTED_FAULTS:
        return [_recovery(each) for each in summary.recoveries]
    crashes = [each for each in summary.recoveries if each.effect == "crash"]
    if not crashes:
        return []
    took_s = [at_s for each in crashes if (at_s := each.moment("caught_up").since_start_s) is not None]
    text = f"Of {len(crashes)} crashes {len(took_s)} were got over"
    if took_s:
        half_s = float(np.median(took_s))
        text += f", half of them within {duration(half_s)} of the start, all within {duration(max(took_s))}"
    return [f"{text}."]


def _recovery(recovery: Recovery) -> str:
    """Node 2 was killed at 5 s and started again at 9.01 s: container 0.35 s, ..."""
    killed, asked = recovery.moment("killed").at_s, recovery.moment("asked").at_s
    was, again = ("killed", "started again") if recovery.effect == "crash" else ("frozen", "let go on")
    text = f"{recovery.who.capitalize()} was {was} at {duration(killed or 0.0)}"
    if asked is None:
        return f"{text}, for good."
    text += f" and {again} at {duration(asked)}"
    caught_up = recovery.moment("caught_up")
    if caught_up.since_start_s is None:
        return f"{text}; it never caught up: {caught_up.why}."
    parts = _parts(recovery) if recovery.effect == "crash" else []
    parts.append(f"caught up {duration(caught_up.since_start_s)} after that")
    if recovery.skipped_steps:
        parts.append(f"{grouped(recovery.skipped_steps)} step{'s' * (recovery.skipped_steps != 1)} skipped")
    text += f": {', '.join(parts)}."
    pace = recovery.pace
    if pace.before_s is not None and pace.outage_s is not None:
        text += f" The others' steps took {duration(pace.before_s)} before and {duration(pace.outage_s)} until then."
    return text


def _parts(recovery: Recovery) -> list[str]:
    """How long what took, one after the other; what is not known is left out."""
    parts = []
    for begin, end, said in (("asked", "container", "container"), ("launched", "ready", "ranks")):
        begin_s, end_s = recovery.moment(begin).at_s, recovery.moment(end).at_s
        if begin_s is not None and end_s is not None:
            parts.append(f"{said} {duration(end_s - begin_s)}")
    if recovery.load_s is not None:
        parts.append(f"store {duration(recovery.load_s)}")
    for name, said in (("spoke", "first message"), ("accepted", "first used by a peer")):
        since_s = recovery.moment(name).since_start_s
        if since_s is not None:
            parts.append(f"{said} after {duration(since_s)}")
    return parts


def _recovery_table(summary: Summary) -> str:
    """Empty where sentences have said it all. The slowest, in seconds since the start, if there are very many."""
    if len(summary.recoveries) <= LISTED_FAULTS:
        return ""
    shown = sorted(summary.recoveries, key=_slowness, reverse=True)[:LISTED_RECOVERIES]
    columns = ("container", "ready", "spoke", "accepted", "caught_up")
    rows: list[tuple[str, ...]] = [
        ("outage", "at", "noticed", "started at", *(name.replace("_", " ") for name in columns), "skipped", "pace")
    ]
    for each in sorted(shown, key=lambda each: each.moment("killed").at_s or 0.0):
        asked_s = each.moment("asked").at_s
        known = {moment.name: moment.since_start_s for moment in each.moments}
        rows.append(
            (
                f"{each.effect} {each.who}",
                duration(each.moment("killed").at_s or 0.0),
                _or_dash(each.moment("noticed").since_kill_s),
                _or_dash(asked_s),
                *(_or_dash(known.get(name)) for name in columns),
                grouped(each.skipped_steps),
                "-" if each.pace.ratio is None else f"{each.pace.ratio:.2f}",
            )
        )
    more = len(summary.recoveries) - len(shown)
    return _table(rows) + (f"\n  ... and {more} more that were quicker (summary.json has all)" if more else "")


def _slowness(recovery: Recovery) -> float:
    since_s = recovery.moment("caught_up").since_start_s
    return float("inf") if since_s is None else since_s


def _or_dash(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(f"  {line}".rstrip() for line in lines)


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
    if not any(pair.sent for pair in pairs):  # there were no datagrams
        rows = [row[:4] + row[7:] for row in rows]
    notes = (
        ["  * it changed during the run: the mean over the packets"] if any(p.requested_changed for p in pairs) else []
    )
    return "\n".join([_table(rows), *notes])


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
