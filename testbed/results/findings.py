"""A verification as a person wants to read it: requested, achieved, interval and verdict, then one sentence.

Plain text, as all that `results` says; where there are many links the ones that are farthest off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from testbed.results.summary import percent
from testbed.results.verification import Check, Property, Verification

WHOLE = 30  # rows of one property; of more, the worst
WORST = 8


def render_verification(found: Verification) -> str:
    """A table per property and the verdict; no trailing newline."""
    rows: list[tuple[str, ...]] = [("link", "property", "asked", "achieved", "interval", "as asked", "from")]
    left_out = []
    for what in dict.fromkeys(check.what for check in found.checks):
        checks = sorted(_told(found, what), key=lambda check: (check.sender, check.receiver))
        if len(checks) > WHOLE:
            left_out.append(f"{len(checks) - WORST} more of {what}")
            checks = sorted(checks, key=_strangeness, reverse=True)[:WORST]
        rows += [_row(check) for check in checks]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    aligned = (str.rjust, str.ljust, str.rjust, str.rjust, str.rjust, str.ljust, str.ljust)
    lines = [
        "  " + "  ".join(align(cell, width) for align, cell, width in zip(aligned, row, widths, strict=True)).rstrip()
        for row in rows
    ]
    if left_out:
        lines.append(f"  ({', '.join(left_out)}, closer to what was asked: all of them are in verification.json)")
    return "\n".join([*lines, verdict(found)])


def _told(found: Verification, what: Property) -> list[Check]:
    """The kernel's count of a loss stands beside that of the datagrams, and has a row of its own only where it denies
    what was asked."""
    checks = found.of(what)
    if what == "loss (kernel)":
        return [check for check in checks if check.as_asked is False]
    if what == "loss":
        kernel = {(check.sender, check.receiver): check for check in found.of("loss (kernel)")}
        return [_beside(check, kernel.get((check.sender, check.receiver))) for check in checks]
    return list(checks)


def _beside(check: Check, kernel: Check | None) -> Check:
    return check if kernel is None else replace(check, detail=f"{check.detail}; kernel: {kernel.detail}")


def verdict(found: Verification) -> str:
    """One sentence."""
    judged = sum(check.as_asked is not None for check in found.checks)
    sampled = "" if len(found.measured) == found.links else f", {len(found.measured)} of {found.links} links measured"
    if found.as_asked is None:
        return f"Nothing was measured that could tell whether the network is as asked{sampled}."
    if found.as_asked:
        return f"The network is as asked: all of {judged} verdicts{sampled}."
    denied = found.denied
    some = ", ".join(f"{check.what} on {_link(check)}" for check in denied[:4])
    more = f" and {len(denied) - 4} more" if len(denied) > 4 else ""
    return f"The network is NOT as asked: {len(denied)} of {judged} verdicts ({some}{more}){sampled}."


def _row(check: Check) -> tuple[str, ...]:
    show = _SHOWN.get(check.what, percent)
    interval = "-"
    if check.interval is not None:
        interval = f"{show(check.interval.low)} … {show(check.interval.high)}"
    return (
        _link(check),
        check.what,
        "-" if check.requested is None else show(check.requested),
        "-" if check.achieved is None else show(check.achieved),
        interval,
        {True: "yes", False: "NO", None: "-"}[check.as_asked],
        check.detail,
    )


def _link(check: Check) -> str:
    return f"{check.sender} {'↔' if check.what == 'rtt' else '→'} {check.receiver}"


def _strangeness(check: Check) -> tuple[bool, float]:
    if check.achieved is None or check.requested is None:
        return check.as_asked is False, 0.0
    width = 1.0 if check.interval is None else check.interval.high - check.interval.low
    return check.as_asked is False, abs(check.achieved - check.requested) / max(width, 1e-12)


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def _rate(bps: float) -> str:
    value, unit = next(
        ((bps / scale, unit) for scale, unit in ((1e9, "gbit"), (1e6, "mbit")) if bps >= scale), (bps / 1e3, "kbit")
    )
    return f"{value:.4g} {unit}"


def _packets(number: float) -> str:
    return f"{number:.3g}"


_SHOWN: dict[str, Callable[[float], str]] = {"rtt": _time, "jitter": _time, "rate": _rate, "burst": _packets}
