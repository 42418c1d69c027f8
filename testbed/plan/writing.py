"""Plans as text, from data: what was drawn, or changed, is written so that it is read again as the same plan.

Not here: reading (reader.py). What is written is what a plan's document holds, and each fault as it would be written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.core.faults import Change, Crash, Cut, Fault, Lasting, Pause, Slow
from testbed.core.links import Pair
from testbed.core.partitions import majority_ring, one_way, split
from testbed.plan.complaints import Complaints
from testbed.plan.document import plain_value, read_document, set_value
from testbed.plan.pairs import link_texts
from testbed.plan.quantities import FRACTION, TIME
from testbed.plan.vocabulary import OWN_ALGORITHM

_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./%()-]*(?: [A-Za-z0-9_./%()-]+)*")  # text that needs no quotes


def document_of(file: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The document in `file`, changed by `overrides`, as plain data that mean the same in any folder. Raises PlanError
    where it is none; whether it is a plan is for the reader to say."""
    complaints = Complaints()
    root = read_document(file.read_text(encoding="utf-8"), file=str(file), complaints=complaints)
    complaints.raise_any()
    assert root is not None
    for override in overrides:
        set_value(root, override, complaints)
    complaints.raise_any()
    data: dict[str, Any] = root.plain
    name = data["algorithm"]["name"]
    if isinstance(name, str) and re.fullmatch(OWN_ALGORITHM, name):
        path, _, function = name.rpartition(":")
        data["algorithm"]["name"] = f"{(file.parent / path).resolve()}:{function}"
    return data


def plan_text(document: Mapping[str, Any]) -> str:
    """The document as YAML: a line for each key, and for each entry of a list."""
    lines = []
    for key, value in document.items():
        if isinstance(value, list) and value:
            lines += [f"{key}:", *(f"  - {flow(entry)}" for entry in value)]
        else:
            lines.append(f"{key}: {flow(value)}")
    return "\n".join(lines) + "\n"


def flow(value: object) -> str:
    """YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and plain_value(value) == value:
        return value
    return json.dumps(value)


def fault_entry(fault: Fault, size: int) -> dict[str, Any]:
    """A fault that comes at a time and ends after one, on `size` nodes. A cut must be one-way from some nodes to
    others, a partition, or a majority ring."""
    assert fault.moment.at_s is not None, "it waits for a step"
    assert fault.for_s is not None, "it does not end"
    assert isinstance(fault.effect, Lasting)
    at, for_ = (TIME.show(round(each_s, 6)) for each_s in (fault.moment.at_s, fault.for_s))
    return {"at": at, **_action(fault.effect, size), "for": for_}


def _action(effect: Lasting, size: int) -> dict[str, Any]:
    if isinstance(effect, Pause):
        return {"pause": {"node": _group(effect.nodes)}}
    if isinstance(effect, Slow):
        return {"slow": {"node": _group(effect.nodes), "share": FRACTION.show(effect.share)}}
    if isinstance(effect, Crash):
        return {"crash": {"node": _group(effect.nodes)} if effect.nodes else {"rank": _group(effect.ranks)}}
    if isinstance(effect, Change):
        senders, receivers = _ends(effect.pairs)
        assert effect.pairs == one_way(senders, receivers), "not from some nodes to others"
        return {"set": {"from": _group(senders), "to": _group(receivers), **link_texts(dict(effect.attributes))}}
    return _cut(effect, size)


def _cut(effect: Cut, size: int) -> dict[str, Any]:
    senders, receivers = _ends(effect.pairs)
    if effect.pairs == one_way(senders, receivers) and not senders & receivers:
        return {"one-way": {"from": _group(senders), "to": _group(receivers)}}
    if size > 3 and effect.pairs == majority_ring(size):
        return {"partition": "majority-ring"}
    cut_off = senders | receivers  # who is in no group hears everybody
    together = [frozenset(b for b in cut_off if (a, b) not in effect.pairs) for a in cut_off]
    groups = sorted(set(together), key=min)
    assert effect.pairs == split(groups), "neither one-way from nodes to others, nor a partition"
    return {"partition": [_group(group) for group in groups]}


def _ends(pairs: Collection[Pair]) -> tuple[set[int], set[int]]:
    return {a for a, _ in pairs}, {b for _, b in pairs}


def _group(numbers: Collection[int]) -> int | str:
    return ",".join(map(str, sorted(numbers))) if len(numbers) > 1 else min(numbers)
