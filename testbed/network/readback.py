"""What was meant beside what the kernel holds, and where the two differ by more than rounding."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from testbed.core.links import ATTRIBUTES, Link, LinkState, queue_packets


@dataclass(frozen=True, slots=True)
class Applied:
    """A change that was carried out."""

    took_s: float  # until it was in force
    wrong: tuple[str, ...]  # one sentence for each thing that the kernel, read back after that, does not hold as meant


# The coarsest units that values pass through on their way into the kernel; what is not here must be equal.
_ROUNDING = {
    "loss": 1e-6,  # nftables' dice have a million sides
    "delay_s": 1e-9,
    "jitter_s": 1e-9,
    "duplicate": 1e-9,
    "reorder": 1e-9,
    "corrupt": 1e-9,
    "rate_bps": 8.0,  # HTB counts bytes
}

EXACT = 1e-9
IN_BURSTS = 1e-3  # the chance that a burst begins is a fraction of 2^32, and may be some millionths only


def differences(meant: LinkState, held: LinkState, *, receivers: Collection[int] | None = None) -> tuple[str, ...]:
    """One sentence for each attribute of each pair, and each downlink, that is not as meant; empty if all is.

    `receivers`: the nodes whose links are compared; None: all. Cuts are compared everywhere.
    """
    sentences = []
    for pair, link in sorted(meant.links.items()):
        name = f"link {pair[0]} -> {pair[1]}"
        if (pair in meant.cut) != (pair in held.cut):
            sentences.append(f"{name}: {'cut' if pair in meant.cut else 'open'} was meant, the opposite is in force")
        if (receivers is not None and pair[1] not in receivers) or link == held.links[pair]:
            continue
        asked, found = _in_full(link), _in_full(held.links[pair])
        for attribute in ATTRIBUTES:
            relative = IN_BURSTS if link.burst and attribute in ("loss", "burst") else EXACT
            if not _agree(asked[attribute], found[attribute], _ROUNDING.get(attribute, 0.0), relative):
                sentences.append(f"{name}: {attribute} {asked[attribute]} was meant, {found[attribute]} is in force")
    for node in range(meant.size):
        if receivers is None or node in receivers:
            wanted_bps, held_bps = meant.downlinks.get(node), held.downlinks.get(node)
            if not _agree(wanted_bps, held_bps, _ROUNDING["rate_bps"], EXACT):
                sentences.append(f"node {node}: a downlink of {wanted_bps} bit/s was meant, {held_bps} is in force")
    return tuple(sentences)


def _in_full(link: Link) -> dict[str, float | str | None]:
    """Every attribute as the kernel sees it: without loss there are no bursts, without jitter it has no distribution,
    and a queue always has a length."""
    return {attribute: getattr(link, attribute) for attribute in ATTRIBUTES} | {
        "burst": link.burst if link.loss else None,
        "distribution": link.distribution if link.jitter_s else None,
        "limit_packets": queue_packets(link),
    }


def _agree(asked: float | str | None, found: float | str | None, rounding: float, relative: float) -> bool:
    if not isinstance(asked, (int, float)) or not isinstance(found, (int, float)):
        return asked == found
    return math.isclose(asked, found, rel_tol=relative, abs_tol=rounding)
