"""Which back end carries a network on this kernel, and the sentence that a plan earns which none can carry.

`nft`: nftables loses, cuts and counts; HTB limits rates. On every kernel that Docker runs on.
`netem`: nftables cuts and counts; netem below HTB does all else. Where the kernel has sch_netem.
`userspace`: as nft, and a process that holds packets back does what is left. At moderate packet rates, on every kernel
that hands packets over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from testbed.core.links import Link, LinkState, gilbert
from testbed.errors import MachineError
from testbed.network.nft import LOSS_STEPS

Backend = Literal["netem", "nft", "userspace"]
Feature = Literal[
    "loss", "burst", "delay", "jitter", "duplicate", "reorder", "corrupt", "rate", "limit", "downlink"
]  # fmt: skip

CARRIES: Mapping[Backend, frozenset[Feature]] = {  # in the order in which `auto` tries them
    "netem": frozenset(
        ("loss", "burst", "delay", "jitter", "duplicate", "reorder", "corrupt", "rate", "limit", "downlink")
    ),
    "nft": frozenset(("loss", "rate", "limit", "downlink")),
    "userspace": frozenset(
        ("loss", "burst", "delay", "jitter", "duplicate", "reorder", "corrupt", "rate", "limit", "downlink")
    ),
}

SHAPED: tuple[Feature, ...] = ("rate", "downlink", "limit")  # what takes an HTB class
MIN_RATE_BPS = 1000.0  # slower, one frame takes longer than HTB's clock can count
MIN_CHANCE = 1e-6  # that a burst begins, per packet: smaller, it would be rounded by more than a thousandth
MAX_JITTER_S = (2**31 - 1) / 1e9  # netem's random part is 32 bits of nanoseconds


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the running kernel has."""

    kernel: str  # its release, as `uname -r` says it
    nft: bool  # nftables in the bridge family, with counters in maps
    numgen: bool  # nftables' random numbers
    htb: bool
    netem: bool
    duplicates: bool = False  # a netem that duplicates may stand beside others; not so from Linux 6.16 on
    nfqueue: bool = False  # packets can be handed to a process and taken back
    injection: bool = False  # that process may send packets of its own making

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Capabilities:
        return cls(**{name: data[name] for name in cls.__dataclass_fields__})


def choose(asked: str, can: Capabilities, states: Iterable[LinkState]) -> Backend:
    """`asked` is auto, netem, nft or userspace; `states` are all those that the network may come to be in.

    Raises MachineError, with the remedy, where this kernel cannot carry them.
    """
    if not can.nft:
        raise MachineError(
            f"kernel {can.kernel} has no nftables in the bridge family, which cuts links and counts packets",
            remedy="load it with `modprobe nf_tables && modprobe nft_meta_bridge`, or boot a distribution's own kernel",
        )
    wanted: dict[Feature, str] = {}
    nodes = 0
    for state in states:
        _check_values(state)
        nodes = state.size
        for feature, words in _features(state).items():
            wanted.setdefault(feature, words)
    refusals: list[tuple[Backend, MachineError]] = []
    for backend in CARRIES if asked == "auto" else [each for each in CARRIES if each == asked]:
        refusal = _refusal(backend, asked, can, wanted, nodes)
        if refusal is None:
            return backend
        refusals.append((backend, refusal))
    if not refusals:
        raise MachineError(f"there is no back end {asked!r}", remedy=f"write auto, {', '.join(CARRIES)}")
    raise _best(refusals, can, wanted)


def _best(
    refusals: list[tuple[Backend, MachineError]], can: Capabilities, wanted: Mapping[Feature, str]
) -> MachineError:
    """Of several refusals, the one whose remedy helps: what nft alone could carry is told about nft."""
    by_backend = dict(refusals)
    if "nft" in by_backend and set(wanted) <= CARRIES["nft"]:
        return by_backend["nft"]
    return refusals[0][1]


def _features(state: LinkState) -> dict[Feature, str]:
    """What the state asks for, each with the first place that does, in words."""
    found: dict[Feature, str] = {}
    for (a, b), link in sorted(state.links.items()):
        for feature, words in _of_link(link).items():
            found.setdefault(feature, f"link {a} -> {b}: {words}")
    for node, rate_bps in sorted(state.downlinks.items()):
        found.setdefault("downlink", f"node {node}: a downlink of {rate_bps:g} bit/s")
    return found


def _of_link(link: Link) -> dict[Feature, str]:
    asked: dict[Feature, str | float | None] = {
        "loss": link.loss and f"loss {link.loss:g}",
        "burst": link.loss and link.burst and f"loss in bursts of {link.burst:g} packets",
        "delay": link.delay_s and f"delay {link.delay_s:g} s",
        "jitter": link.jitter_s and f"jitter {link.jitter_s:g} s",
        "duplicate": link.duplicate and f"duplicate {link.duplicate:g}",
        "reorder": link.reorder and f"reorder {link.reorder:g}",
        "corrupt": link.corrupt and f"corrupt {link.corrupt:g}",
        "rate": link.rate_bps and f"a rate of {link.rate_bps:g} bit/s",
        "limit": link.limit_packets and f"a queue of {link.limit_packets} packets",
    }
    return {feature: words for feature, words in asked.items() if isinstance(words, str)}


def _refusal(
    backend: Backend, asked: str, can: Capabilities, wanted: Mapping[Feature, str], nodes: int
) -> MachineError | None:
    """Why `backend` cannot carry what is wanted; None if it can."""
    if backend == "netem":
        missing = [name for name, there in (("sch_netem", can.netem), ("sch_htb", can.htb)) if not there]
        if missing:
            what = next((wanted[each] for each in wanted if each not in CARRIES["nft"]), None)
            head = f"{what} is asked for" if asked == "auto" and what else "the plan asks for netem"
            nfqueue = (
                "" if asked != "auto" or can.nfqueue else ", and cannot hand packets to a process (nfnetlink_queue)"
            )
            return MachineError(
                f"{head}, but kernel {can.kernel} has no {' and '.join(missing)}{nfqueue}", remedy=_remedy(can)
            )
        if "duplicate" in wanted and not can.duplicates and nodes > 2:  # of two, each hears one
            return MachineError(
                f"{wanted['duplicate']} is asked for, but netem of kernel {can.kernel} no longer duplicates packets "
                "where more than one stands on an interface (Linux from 6.16 on, and maintained older ones)",
                remedy="leave `duplicate` out of the plan, or write `backend: userspace`",
            )
        return None
    for feature, words in wanted.items():
        if feature not in CARRIES[backend]:
            return MachineError(
                f"{words} is asked for, but back end {backend} cannot do that",
                remedy="write `backend: auto`, which takes one that can where there is one",
            )
    if "loss" in wanted and not can.numgen:
        return MachineError(
            f"{wanted['loss']} is asked for, but kernel {can.kernel} has no random numbers in nftables",
            remedy="load them with `modprobe nft_numgen`, or boot a distribution's own kernel",
        )
    shaped = next((wanted[each] for each in SHAPED if each in wanted), None)
    if shaped and not can.htb:
        return MachineError(f"{shaped} is asked for, but kernel {can.kernel} has no sch_htb", remedy=_remedy(can))
    if backend == "userspace" and "duplicate" in wanted and not can.injection:
        return MachineError(
            f"{wanted['duplicate']} is asked for, but the agent may not send packets of its own making",
            remedy="give its container the capability NET_RAW, or leave `duplicate` out of the plan",
        )
    if backend == "userspace" and not can.nfqueue:
        return MachineError(
            f"the plan asks for userspace, but kernel {can.kernel} cannot hand packets to a process (nfnetlink_queue)",
            remedy="load it with `modprobe nfnetlink_queue`, or boot a distribution's own kernel",
        )
    return None


def _check_values(state: LinkState) -> None:
    """What no back end can hold is refused, not rounded."""
    for (a, b), link in sorted(state.links.items()):
        name = f"link {a} -> {b}"
        if link.rate_bps is not None and link.rate_bps < MIN_RATE_BPS:
            raise MachineError(
                f"{name}: rate {link.rate_bps:g} bit/s is below what the kernel can keep",
                remedy=f"ask for at least {MIN_RATE_BPS:g} bit/s, or cut the pair",
            )
        for what in ("loss", "duplicate", "reorder", "corrupt"):
            share = getattr(link, what)
            if share and round(share * LOSS_STEPS) < 1:
                raise MachineError(
                    f"{name}: {what} {share:g} is finer than one packet in {LOSS_STEPS}", remedy="leave it out"
                )
        if link.loss and link.burst and gilbert(link.loss, link.burst)[0] < MIN_CHANCE:
            raise MachineError(
                f"{name}: loss {link.loss:g} in bursts of {link.burst:g} packets is too seldom for the kernel to keep",
                remedy="ask for more loss, or for shorter bursts",
            )
        if link.jitter_s > MAX_JITTER_S:
            raise MachineError(
                f"{name}: jitter {link.jitter_s:g} s is more than the kernel can hold",
                remedy=f"ask for at most {MAX_JITTER_S:.3f} s",
            )
    least_bps = MIN_RATE_BPS * max(1, state.size - 1)
    for node, rate_bps in sorted(state.downlinks.items()):
        if rate_bps < least_bps:
            raise MachineError(
                f"node {node}: a downlink of {rate_bps:g} bit/s is less than its {state.size - 1} senders can share",
                remedy=f"ask for at least {least_bps:g} bit/s",
            )


def _remedy(can: Capabilities) -> str:
    return (
        f"install linux-modules-extra-{can.kernel} (Ubuntu) or kernel-modules-extra (Fedora), or boot a stock Debian "
        "kernel, which has it; or leave out of the plan what needs it"
    )
