"""Which back end carries a network on this kernel, and the sentence that a plan earns which none can carry.

`nft`: nftables loses, cuts and counts; HTB limits rates. On every kernel that Docker runs on.
`netem`: nftables cuts and counts; netem below HTB loses, delays and limits. Where the kernel has sch_netem.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from testbed.core.links import LinkState, Pair
from testbed.errors import MachineError
from testbed.network.nft import LOSS_STEPS

Backend = Literal["netem", "nft"]

MIN_RATE_BPS = 1000.0  # slower, one frame takes longer than HTB's clock can count


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the running kernel has."""

    kernel: str  # its release, as `uname -r` says it
    nft: bool  # nftables in the bridge family, with counters in maps
    numgen: bool  # nftables' random numbers
    htb: bool
    netem: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Capabilities:
        return cls(**{name: data[name] for name in cls.__dataclass_fields__})


def choose(asked: str, can: Capabilities, states: Iterable[LinkState]) -> Backend:
    """`asked` is auto, netem or nft; `states` are all those that the network may come to be in.

    Raises MachineError, with the remedy, where this kernel cannot carry them.
    """
    if not can.nft:
        raise MachineError(
            f"kernel {can.kernel} has no nftables in the bridge family, which cuts links and counts packets",
            remedy="load it with `modprobe nf_tables && modprobe nft_meta_bridge`, or boot a distribution's own kernel",
        )
    if asked == "netem" and not (can.netem and can.htb):
        missing = " and ".join(name for name, there in (("sch_netem", can.netem), ("sch_htb", can.htb)) if not there)
        raise MachineError(f"the plan asks for netem, but kernel {can.kernel} has no {missing}", remedy=_remedy(can))
    backend: Backend = "netem" if asked == "netem" or (asked == "auto" and can.netem and can.htb) else "nft"
    for state in states:
        _check(backend, asked, can, state)
    return backend


def _check(backend: Backend, asked: str, can: Capabilities, state: LinkState) -> None:
    for pair, link in sorted(state.links.items()):
        if backend == "nft" and (link.delay_s or link.jitter_s):
            reason = f"kernel {can.kernel} has no sch_netem" if asked == "auto" else "back end nft cannot delay packets"
            remedy = _remedy(can) if asked == "auto" else "write `backend: auto`, which takes netem where there is one"
            raise MachineError(f"{_name(pair)}: delay {link.delay_s:g} s is asked for, but {reason}", remedy=remedy)
        if backend == "nft" and link.loss and not can.numgen:
            raise MachineError(
                f"{_name(pair)}: loss is asked for, but kernel {can.kernel} has no random numbers in nftables",
                remedy="load them with `modprobe nft_numgen`, or boot a distribution's own kernel",
            )
        if link.rate_bps is not None and not can.htb:
            raise MachineError(
                f"{_name(pair)}: a rate is asked for, but kernel {can.kernel} has no sch_htb", remedy=_remedy(can)
            )
        if link.rate_bps is not None and link.rate_bps < MIN_RATE_BPS:
            raise MachineError(
                f"{_name(pair)}: rate {link.rate_bps:g} bit/s is below what the kernel can keep",
                remedy=f"ask for at least {MIN_RATE_BPS:g} bit/s, or cut the pair",
            )
        if link.loss and not round(link.loss * LOSS_STEPS) >= 1:
            raise MachineError(
                f"{_name(pair)}: loss {link.loss:g} is finer than one packet in {LOSS_STEPS}", remedy="leave it out"
            )


def _name(pair: Pair) -> str:
    return f"link {pair[0]} -> {pair[1]}"


def _remedy(can: Capabilities) -> str:
    return (
        f"install linux-modules-extra-{can.kernel} (Ubuntu) or kernel-modules-extra (Fedora), or boot a stock Debian "
        "kernel, which has it; or leave delay and jitter out of the plan"
    )
