"""What was meant beside what the kernel holds, and where the two differ by more than rounding."""

from __future__ import annotations

import math

from testbed.core.links import ATTRIBUTES, LinkState

# The coarsest units that values pass through on their way into the kernel; what is not here must be equal.
_ROUNDING = {
    "loss": 1e-6,  # nftables' dice have a million sides
    "delay_s": 1e-9,
    "jitter_s": 1e-9,
    "rate_bps": 8.0,  # HTB counts bytes
}


def differences(meant: LinkState, held: LinkState) -> tuple[str, ...]:
    """One sentence for each attribute of each pair that is not as meant; empty if all is."""
    sentences = []
    for pair, link in sorted(meant.links.items()):
        name = f"link {pair[0]} -> {pair[1]}"
        if (pair in meant.cut) != (pair in held.cut):
            sentences.append(f"{name}: {'cut' if pair in meant.cut else 'open'} was meant, the opposite is in force")
        for attribute in ATTRIBUTES:
            asked, found = getattr(link, attribute), getattr(held.links[pair], attribute)
            if not _agree(asked, found, _ROUNDING.get(attribute, 0.0)):
                sentences.append(f"{name}: {attribute} {asked} was meant, {found} is in force")
    return tuple(sentences)


def _agree(asked: float | str | None, found: float | str | None, rounding: float) -> bool:
    if not isinstance(asked, (int, float)) or not isinstance(found, (int, float)):
        return asked == found
    return math.isclose(asked, found, rel_tol=1e-9, abs_tol=rounding)
