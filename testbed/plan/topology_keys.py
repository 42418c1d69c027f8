"""The keys of `network.topology`, one section for each kind. What they come to is built in topology.py."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from testbed.plan.complaints import Complaints, Wrong, nearest
from testbed.plan.document import Item
from testbed.plan.kinds import (
    NAME,
    Choice,
    Field,
    Integer,
    Kind,
    Many,
    NodeGroup,
    Number,
    Quantity,
    Schema,
    Section,
    Table,
    Text,
    Values,
    Variants,
)
from testbed.plan.link_keys import LINK, LINK_KEYS, NO_CORRELATION
from testbed.plan.quantities import NODES_PATTERN, TIME, Nodes, QuantityError, parse_nodes

MOST_PLACES = 1000  # nodes, and switches
PRESET = "wan"

_SWITCH = rf"(?!all$){NAME}"


class EndKind:
    """One end of an edge: some nodes (`3`, `node 3`, `0-3`, `all`), or the name of a switch."""

    def read(self, item: Item, complaints: Complaints) -> Nodes | str:
        if isinstance(item.value, str) and re.fullmatch(_SWITCH, item.value):
            return item.value
        written = item.value.removeprefix("node ") if isinstance(item.value, str) else item.value
        try:
            return parse_nodes(written)
        except QuantityError as error:
            raise Wrong(item, f"{item.shown} is no end of an edge", "write nodes, or the name of a switch") from error

    def schema(self) -> Schema:
        number = {"type": "integer", "minimum": 0, "maximum": 999_999}
        patterns = [f"^(?:node )?(?:{NODES_PATTERN.strip('^$')})$", f"^(?:{_SWITCH})$"]
        return {"anyOf": [number, *({"type": "string", "pattern": pattern} for pattern in patterns)]}

    def show(self, value: Any) -> Any:
        return value


class RoundTripsKind:
    """The name of a preset, or a table of times by two regions."""

    TABLE = Table(Table(Quantity(TIME), "round-trip times"), "regions", least=1)

    def read(self, item: Item, complaints: Complaints) -> Any:
        if isinstance(item.value, dict):
            return self.TABLE.read(item, complaints)
        if item.value != PRESET:
            hint = f"write `{PRESET}`, or times like `{{paris: {{tokyo: 220ms}}}}`"
            raise Wrong(item, f"{item.shown} is no table of round-trip times", hint)
        return item.value

    def schema(self) -> Schema:
        return {"anyOf": [{"const": PRESET}, self.TABLE.schema()]}

    def show(self, value: Any) -> Any:
        return value


LINK_WITHIN = Section("the links within a cluster", LINK, one_of=LINK_KEYS, refused=NO_CORRELATION)
LINK_BETWEEN = Section("the links between clusters", LINK, one_of=LINK_KEYS, refused=NO_CORRELATION)
WAY_BACK = Section("the way back of an edge", LINK, one_of=LINK_KEYS, refused=NO_CORRELATION)
EDGE = Section(
    "an edge",
    (
        Field("between", Many(EndKind(), "ends", least=2, most=2), "two ends: nodes or a switch, `[0-3, s0]`", True),
        *LINK,
        Field("back", WAY_BACK, "what is different in the other direction"),
    ),
    refused=NO_CORRELATION,
)

_BEYOND = Field(
    "beyond",
    Choice(("hops", "cut")),
    "nodes that are no neighbours: reached over hops, each of which is the default link; or `cut` off from each other",
)
_SIDE = Integer(1, MOST_PLACES)


def _kind(name: str, summary: str, *fields: Field, **more: Any) -> Section:
    return Section(f"topology {name}", (Field("kind", Choice((name,)), summary, required=True), *fields), **more)


KINDS = (
    _kind("full", "every two nodes are joined by a link of their own"),
    _kind("ring", "each node has two neighbours", _BEYOND),
    _kind(
        "star",
        "all nodes hang from one",
        Field("center", Integer(0, MOST_PLACES - 1), "the node in the middle; without it: 0"),
        _BEYOND,
    ),
    _kind(
        "tree",
        "node 0 is the root, and every level is full but the last",
        Field("branching", Integer(1, MOST_PLACES), "how many nodes hang from one; without it: 2"),
        _BEYOND,
    ),
    _kind(
        "torus",
        "rows and columns, each closed to a ring",
        Field("rows", _SIDE, "without it and `columns`: as square as the number of nodes allows"),
        Field("columns", _SIDE, "without it and `rows`: as square as the number of nodes allows"),
        _BEYOND,
    ),
    _kind(
        "random",
        "each two nodes are neighbours by chance",
        Field("p", Number(above=0, maximum=1), "the probability that two nodes are neighbours: `0.3`", required=True),
        Field("seed", Integer(0, 2**32 - 1), "which graph it is; without it: the plan's seed"),
        _BEYOND,
    ),
    _kind(
        "clusters",
        "groups of consecutive nodes",
        Field("count", Integer(1, MOST_PLACES), "how many clusters, as equal as can be"),
        Field("sizes", Many(_SIDE, "sizes", least=1), "nodes of each cluster: `[4, 4, 8]`"),
        Field("intra", LINK_WITHIN, "links within a cluster; what it leaves open is the default's"),
        Field("inter", LINK_BETWEEN, "links between clusters; what it leaves open is the default's"),
        one_of=("count", "sizes"),
        rules={"not": {"required": ["count", "sizes"]}},
    ),
    _kind(
        "regions",
        "nodes in places with known round-trip times; a delay is half of one, all else is the default's",
        Field(
            "round_trips",
            RoundTripsKind(),
            f"between regions, each pair once: `{{paris: {{tokyo: 220ms}}}}`; or `{PRESET}`: ten regions of a cloud",
            required=True,
        ),
        Field(
            "regions",
            Table(NodeGroup(), "regions", least=1),
            f"which nodes are where: `{{paris: 0-3, tokyo: 4}}`; with `{PRESET}` and without it: all ten, evenly",
        ),
        rules={
            "if": {"properties": {"round_trips": {"type": "object"}}},
            "then": {"required": ["regions"]},
        },
    ),
    _kind(
        "graph",
        "nodes and switches joined by edges; what an edge leaves open is the default's",
        Field("switches", Many(Text(_SWITCH, "a name, like `s0`"), "switches", least=1), "their names: `[s0, s1]`"),
        Field("edges", Many(EDGE, "edges", least=1), "each joins two ends in both directions", required=True),
    ),
)


class TopologyKind:
    """A mapping with its `kind`, or the word alone where the kind needs nothing else."""

    VARIANTS = Variants(
        "a topology", "kind", "how the nodes are joined", {each.noun.split()[1]: each for each in KINDS}
    )
    ALONE = tuple(
        name
        for name, section in VARIANTS.sections.items()
        if not section.one_of and not any(each.required for each in section.fields[1:])
    )

    def read(self, item: Item, complaints: Complaints) -> Values:
        if isinstance(item.value, dict):
            return self.VARIANTS.read(item, complaints)
        if not isinstance(item.value, str):
            raise Wrong(item, f"{item.shown} is no topology", f"known here: {', '.join(self.VARIANTS.sections)}")
        if item.value not in self.VARIANTS.sections:
            raise Wrong(item, f"{item.shown} is not known", nearest(item.text, self.VARIANTS.sections))
        if item.value not in self.ALONE:
            raise Wrong(
                item, f"{item.shown} alone does not say enough", f"write it like `{_EXAMPLES[str(item.value)]}`"
            )
        return self.VARIANTS.read(replace(item, value={"kind": item}), complaints)

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": list(self.ALONE)}, self.VARIANTS.schema()]}

    def show(self, value: Any) -> Any:
        return value


_EXAMPLES = {
    "random": "{kind: random, p: 0.3}",
    "clusters": "{kind: clusters, count: 2, inter: {delay: 20ms}}",
    "regions": f"{{kind: regions, round_trips: {PRESET}}}",
    "graph": "{kind: graph, switches: [s0], edges: [{between: [all, s0], delay: 1ms}]}",
}
TOPOLOGY: Kind = TopologyKind()
