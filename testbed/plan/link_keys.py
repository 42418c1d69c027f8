"""The keys that say what a link does to packets, wherever a plan may write them: defaults, exceptions, edges, faults.

A part of the vocabulary (vocabulary.py) with a file of its own, because the keys of a topology need them too.
"""

from __future__ import annotations

from typing import Any, get_args

from testbed.core.links import Distribution, Link, most_loss
from testbed.plan.complaints import Complaints, Wrong
from testbed.plan.document import Item
from testbed.plan.kinds import Choice, Field, Integer, NodeGroup, Number, Quantity, Schema, Section, Switch
from testbed.plan.quantities import FRACTION, RATE, TIME

NO_CORRELATION = {
    "correlation": (
        "correlated loss is refused: it is no rate at all (netem asked for 20% with a correlation of 75% loses 0.11%)",
        "write `loss: {loss: 5%, burst: 8}` for losses that come in a row, 8 on average",
    )
}


class LossKind:
    """`5%`, each packet on its own; or `{loss: 5%, burst: 8}`, so many in a row on average. Its value is (loss, burst),
    the burst None where each is lost on its own."""

    SHARE = Quantity(FRACTION)
    BURSTS = Section(
        "a loss in bursts",
        (
            Field("loss", SHARE, "share of packets that get lost: `5%`", required=True),
            Field("burst", Number(minimum=1, maximum=1e6), "packets lost in a row, on average: `8`", required=True),
        ),
    )

    def read(self, item: Item, complaints: Complaints) -> tuple[float, float | None]:
        if not isinstance(item.value, dict):
            return self.SHARE.read(item, complaints), None
        if "correlation" in item.value:  # not also that it lacks a burst
            raise Wrong(item.value["correlation"], *NO_CORRELATION["correlation"])
        values = self.BURSTS.read(item, complaints)
        if "loss" not in values or "burst" not in values:
            return 0.0, None  # complained about already
        loss, burst = values.get("loss"), values.get("burst")
        if loss > most_loss(burst):
            most = FRACTION.show(float(f"{most_loss(burst):.3g}"))
            raise Wrong(
                values.at("burst"),
                f"a loss of {FRACTION.show(loss)} cannot come in bursts of {burst:g} packets: a packet gets"
                " through between two bursts",
                f"with this burst at most {most}" + (f", or a burst of {loss / (1 - loss):g}" if loss < 1 else ""),
            )
        return loss, burst

    def schema(self) -> Schema:
        return {"anyOf": [self.SHARE.schema(), self.BURSTS.schema()]}

    def show(self, value: Any) -> Any:
        loss, burst = value
        share = self.SHARE.show(loss)
        return share if burst is None else {"loss": share, "burst": int(burst) if burst == int(burst) else burst}


LINK = (
    Field(
        "loss",
        LossKind(),
        "share of packets that get lost: `10%`, each on its own; `{loss: 5%, burst: 8}`: 8 in a row on average",
        to=("loss", "burst"),
    ),
    Field("delay", Quantity(TIME), "one way: `20ms`", to="delay_s"),
    Field(
        "jitter",
        Quantity(TIME),
        "of the delay, at most the delay itself; uniform: as much up and down; otherwise the standard deviation",
        to="jitter_s",
    ),
    Field("distribution", Choice(get_args(Distribution)), "of the jitter"),
    Field("duplicate", Quantity(FRACTION), "share of packets that arrive twice: `1%`"),
    Field("reorder", Quantity(FRACTION), "share of packets that overtake the others: they skip the delay"),
    Field("corrupt", Quantity(FRACTION), "share of packets with a flipped bit, which their receiver then rejects"),
    Field(
        "rate",
        Quantity(RATE, positive=True, words={"unlimited": None}),
        "bits per second: `100mbit`; `unlimited` is as fast as the machine",
        to="rate_bps",
    ),
    Field(
        "limit",
        Integer(1, 10_000_000, words={"auto": None}),
        "packets that the link holds before it drops; `auto` is what rate and delay need",
        to="limit_packets",
    ),
)
LINK_KEYS = tuple(each.key for each in LINK)

FROM = Field("from", NodeGroup(), "sending nodes: `all`, a number, or ranges like `0-3`", required=True)
TO = Field("to", NodeGroup(), "receiving nodes: `all`, a number, or ranges like `0-3`", required=True)
BOTH = Field("both", Switch(), "true: the opposite direction too")

DEFAULT_LINK = Section("the default link", LINK, Link, refused=NO_CORRELATION)
PAIR_LINK = Section("a link", (FROM, TO, BOTH, *LINK), one_of=LINK_KEYS, refused=NO_CORRELATION)
