"""Loss, cuts and counts as nftables commands (the JSON of libnftables), and what nft prints read back.

One table per run in the bridge family; deleting it is the whole clean-up. Every packet that the bridge forwards takes

    chain forward   count it as seen by its pair; in @cut: drop; by its pair, to the chain of its loss
    chain loss_N    N packets of a million go to drop
    chain drop      count it as dropped by its pair, drop

so that the cost of a packet does not grow with the number of pairs, and a change is a difference of set elements,
which nft brings into force all at once. The counters are objects of their own: no change of rules resets them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from testbed.core.links import LinkState, Pair

Command = dict[str, Any]

LOSS_STEPS = 1_000_000
TABLE_PREFIX = "testbed_"
MANY_CHAINS = 4  # from here on it is faster to list all than one by one

_RUN = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_PAIR = {"concat": [{"payload": {"protocol": "ip", "field": field}} for field in ("saddr", "daddr")]}
_BEFORE_ALL_OTHERS = -200  # "filter" in the bridge family: before br_netfilter shows the packet to iptables


def table_name(run: str) -> str:
    if not _RUN.fullmatch(run):
        raise ValueError(f"{run!r} is no name for a run: letters, digits, _, . and - only")
    return TABLE_PREFIX + run


@dataclass(frozen=True)
class Drops:
    """What nftables drops: every packet of a pair in `cut`, and so many of LOSS_STEPS of a pair in `losses`."""

    cut: frozenset[Pair] = frozenset()
    losses: Mapping[Pair, int] = field(default_factory=dict)  # a pair without loss is not there

    @classmethod
    def of(cls, state: LinkState, *, netem: bool = False) -> Drops:
        """`netem`: it does the losing, and only the cuts are left to do here."""
        steps = {} if netem else {pair: round(link.loss * LOSS_STEPS) for pair, link in state.links.items()}
        return cls(state.cut, {pair: step for pair, step in steps.items() if step})


class Rules:
    """The commands for one run's table. Holds the names, no state."""

    def __init__(self, run: str, addresses: Sequence[str]) -> None:
        """`addresses`: the IPv4 address of every node, by its number."""
        self.table = table_name(run)
        self.addresses = tuple(addresses)
        self._node = {address: node for node, address in enumerate(addresses)}

    def create(self, pairs: Iterable[Pair]) -> list[Command]:
        """A table that lets everything pass and counts; in place of the run's old one, if there is one."""
        pairs = list(pairs)
        own = {"family": "bridge", "name": self.table}
        counters = [self._add("counter", name=f"{what}_{a}_{b}") for a, b in pairs for what in ("seen", "dropped")]
        maps = [
            self._add("map", name=what, map="counter", **({"elem": elements} if elements else {}))
            for what in ("seen", "dropped")
            for elements in [[[self._key((a, b)), f"{what}_{a}_{b}"] for a, b in pairs]]
        ]
        return [
            {"add": {"table": own}},  # ("add" takes it as it is, so that "delete" always finds one)
            {"delete": {"table": own}},
            {"add": {"table": own}},
            *counters,
            *maps,
            self._add("set", name="cut"),
            self._add("map", name="loss", map="verdict"),
            self._add("chain", name="drop"),
            self._rule("drop", _count("dropped"), {"drop": None}),
            self._add("chain", name="forward", type="filter", hook="forward", prio=_BEFORE_ALL_OTHERS, policy="accept"),
            self._rule("forward", _count("seen")),
            self._rule("forward", {"match": {"op": "==", "left": _PAIR, "right": "@cut"}}, _goto("drop")),
            self._rule("forward", {"vmap": {"key": _PAIR, "data": "@loss"}}),
        ]

    def change(self, old: Drops, new: Drops) -> list[Command]:
        """One transaction from `old` to `new`; empty where they are the same."""
        gone = {pair: step for pair, step in old.losses.items() if new.losses.get(pair) != step}
        come = {pair: step for pair, step in new.losses.items() if old.losses.get(pair) != step}
        chains, old_chains = set(new.losses.values()), set(old.losses.values())
        return [
            *(command for step in sorted(chains - old_chains) for command in self._loss_chain(step)),
            *self._elements("delete", "cut", [self._key(pair) for pair in sorted(old.cut - new.cut)]),
            *self._elements("delete", "loss", [self._loss(pair, step) for pair, step in sorted(gone.items())]),
            *self._elements("add", "cut", [self._key(pair) for pair in sorted(new.cut - old.cut)]),
            *self._elements("add", "loss", [self._loss(pair, step) for pair, step in sorted(come.items())]),
            *({"delete": {"chain": self._own(name=_chain(step))}} for step in sorted(old_chains - chains)),
        ]

    def remove(self) -> list[Command]:
        return remove(self.table)

    def show(self) -> list[Command]:
        return [{"list": {"table": {"family": "bridge", "name": self.table}}}]

    def show_change(self, old: Drops, new: Drops) -> list[list[Command]]:
        """As `show`, but where that is less only what can differ after a change: cuts, losses and the chains that it
        made. The parts are asked for one by one, because nft 1.0.6 forgets for the second list what it saw for the
        first."""
        made = sorted(set(new.losses.values()) - set(old.losses.values()))
        if len(made) > MANY_CHAINS:
            return [self.show()]
        return [
            [{"list": {"set": self._own(name="cut")}}],
            *([[{"list": {"map": self._own(name="loss")}}]] if new.losses or old.losses else []),
            *([{"list": {"chain": self._own(name=_chain(step))}}] for step in made),
        ]

    def show_counters(self) -> list[Command]:
        return [{"list": {"counters": {"family": "bridge", "table": self.table}}}]

    def read(self, answer: Sequence[Command]) -> Drops:
        """From the answer to `show` or those to `show_change`. A chain that is not shown does what its name says."""
        cut: frozenset[Pair] = frozenset()
        chain_of: dict[Pair, str] = {}
        steps: dict[str, int] = {}
        for kind, item in _items(answer):
            if kind == "set" and item["name"] == "cut":
                cut = frozenset(self._pair(element) for element in item.get("elem", ()))
            elif kind == "map" and item["name"] == "loss":
                chain_of = {self._pair(key): verdict["goto"]["target"] for key, verdict in item.get("elem", ())}
            elif kind == "rule" and (step := _threshold(item["expr"])) is not None:
                steps[item["chain"]] = step
        return Drops(cut, {pair: steps.get(chain, _step(chain)) for pair, chain in chain_of.items()})

    def read_counters(self, answer: Sequence[Command]) -> dict[str, dict[Pair, int]]:
        """Packets "seen" and "dropped" per pair from the answer to `show_counters`."""
        packets: dict[str, dict[Pair, int]] = defaultdict(dict)
        for kind, item in _items(answer):
            if kind == "counter":
                what, a, b = item["name"].split("_")
                packets[what][int(a), int(b)] = item["packets"]
        return packets

    def _own(self, **values: Any) -> Command:
        return {"family": "bridge", "table": self.table, **values}

    def _add(self, kind: str, **values: Any) -> Command:
        key = {"type": ["ipv4_addr", "ipv4_addr"]} if kind in ("map", "set") else {}
        return {"add": {kind: self._own(**key, **values)}}

    def _rule(self, chain: str, *statements: Command) -> Command:
        return self._add("rule", chain=chain, expr=list(statements))

    def _loss_chain(self, step: int) -> list[Command]:
        dice = {"numgen": {"mode": "random", "mod": LOSS_STEPS, "offset": 0}}
        return [
            self._add("chain", name=_chain(step)),
            # (not "< step": nft refuses a comparison with the number of sides, which is what a loss of 100 % needs)
            self._rule(_chain(step), {"match": {"op": "<=", "left": dice, "right": step - 1}}, _goto("drop")),
        ]

    def _elements(self, verb: str, name: str, elements: list[Any]) -> list[Command]:
        return [{verb: {"element": self._own(name=name, elem=elements)}}] if elements else []

    def _loss(self, pair: Pair, step: int) -> list[Any]:
        return [self._key(pair), _goto(_chain(step))]

    def _key(self, pair: Pair) -> Command:
        return {"concat": [self.addresses[node] for node in pair]}

    def _pair(self, key: Command) -> Pair:
        a, b = key["concat"]
        return self._node[a], self._node[b]


def remove(table: str) -> list[Command]:
    """Whether it is there or not."""
    own = {"family": "bridge", "name": table}
    return [{"add": {"table": own}}, {"delete": {"table": own}}]


def show_tables() -> list[Command]:
    return [{"list": {"tables": {"family": "bridge"}}}]


def runs(answer: Sequence[Command]) -> list[str]:
    """The runs that have a table, from the answer to `show_tables`."""
    names = (item["name"] for kind, item in _items(answer) if kind == "table" and item["family"] == "bridge")
    return sorted(name.removeprefix(TABLE_PREFIX) for name in names if name.startswith(TABLE_PREFIX))


def probe_table() -> list[Command]:
    """Everything that a table needs except dice; for nft's check mode, which asks the kernel and leaves nothing."""
    return Rules("probe", ["192.0.2.1", "192.0.2.2"]).create([(0, 1)])


def probe_numgen() -> list[Command]:
    """As `probe_table`, and dice."""
    rules = Rules("probe", ["192.0.2.1", "192.0.2.2"])
    return [*rules.create([(0, 1)]), *rules.change(Drops(), Drops(losses={(0, 1): 1}))]


def _items(answer: Sequence[Command]) -> Iterator[tuple[str, Any]]:
    for entry in answer:
        yield from entry.items()


def _chain(step: int) -> str:
    return f"loss_{step}"


def _step(chain: str) -> int:
    return int(chain.removeprefix("loss_"))


def _count(what: str) -> Command:
    return {"counter": {"map": {"key": _PAIR, "data": f"@{what}"}}}


def _goto(chain: str) -> Command:
    return {"goto": {"target": chain}}


def _threshold(expression: Sequence[Command]) -> int | None:
    """Of a rule that throws dice: how many packets of LOSS_STEPS it loses."""
    match = expression[0].get("match") if expression else None
    if match and isinstance(match["left"], dict) and "numgen" in match["left"]:
        return int(match["right"]) + 1
    return None
