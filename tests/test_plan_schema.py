"""Schema and parser say the same, as far as a schema can say it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from testbed.errors import PlanError
from testbed.plan.complaints import Complaints
from testbed.plan.document import read_document
from testbed.plan.reader import load_plan, read_plan
from testbed.plan.schema import plan_schema

TOPOLOGIES = sorted((Path(__file__).parent.parent / "topologies").glob("*.yaml"))
SCHEMA = plan_schema()
VALIDATOR = Draft202012Validator(SCHEMA)

# What the whole plan must be known for, or a file be looked at.
BEYOND_A_SCHEMA = re.compile(
    r"in bursts of|sizes of the clusters|do not fill|a torus of|cannot reach|in no region|in two regions|is no region"
    r"|no round trip|said twice|there is no switch|from a place to itself|same name"
    r"|does not exist|to itself|jitter|the run ends|stands on two sides|runs backwards|there is no file"
    r"|that Docker asks for|leaves no other node"
    r"|says until when|is down|not down|not paused|paused already|never crashes|never paused|no rank would be left"
    r"|needs at least [0-9] nodes|not after|would come at|more than 10000 times|carried by MPI|can be drawn"
)

BASES: list[dict[str, Any]] = [
    {
        "name": "wide",
        "seed": 3,
        "nodes": {"count": 4, "ranks": 2, "cpus": 0.5, "memory": "1g", "shared_memory": "64m", "gpus": ["0", 1]},
        "network": {
            "default": {"loss": "10%", "delay": "20ms", "jitter": "1ms", "rate": "100mbit"},
            "links": [
                {"from": "0-1", "to": [2, 3], "both": True, "loss": "20%"},
                {"from": "all", "to": 1, "rate": "unlimited"},
                {"from": 1, "to": 2, "loss": {"loss": "5%", "burst": 8}, "limit": "auto", "distribution": "normal"},
            ],
            "topology": {"kind": "clusters", "count": 2, "intra": {"delay": "20ms"}, "inter": {"duplicate": "1%"}},
            "backend": "nft",
            "mtu": 1400,
            "offloads": False,
            "congestion_control": "cubic",
        },
        "algorithm": {"name": "rps", "lr": 0.1, "owners": "random", "granularity": "block"},
        "task": {"data": "digits", "model": "mlp", "batch": 32, "split": "dirichlet", "alpha": 0.5, "hidden": 16},
        "run": {
            "steps": 300,
            "time": "60s",
            "target": {"accuracy": 0.9, "loss": 0.3},
            "evaluate_every": 5,
            "phase_timeout": "1s",
            "silence": "30s",
            "threads": 2,
            "device": "cpu",
            "gradient_time": "5ms",
        },
        "faults": [
            {"at": "5s", "partition": ["0-1", "2,3"], "for": "5s"},
            {"at": "step 20", "set": {"from": 0, "to": 1, "both": False, "loss": "50%"}},
            {"at": "30s", "one-way": {"from": 0, "to": "2-3"}},
            {"at": "31s", "isolate": 2},
            {"at": "32s", "heal": True},
            {"every": "exp(20s)", "from": "5s", "until": "50s", "partition": "random", "for": "2s"},
            {"at": "33s", "partition": "majority-ring", "until": "34s"},
            {"every": "20s", "isolate": "random", "for": "1s"},
            {"at": "35s", "crash": {"node": 1}, "until": "step 250"},
            {"at": "35s", "crash": {"rank": "0"}, "for": "1s"},
            {"at": "36s", "recover": {"node": 1}},
            {"at": "step 30", "pause": {"node": 0}},
            {"at": "step 31", "pause": {"node": "random"}, "for": "1s"},
            {"at": "step 40", "resume": {"node": 0}},
            {"every": "10s", "slow": {"node": "2,3", "share": "20%"}, "for": "5s"},
        ],
    },
    {
        "name": "bare",
        "nodes": [{"count": 2}, {"gpus": "all"}],
        "algorithm": {"name": "allreduce", "lr": 1, "average": "models"},
        "task": {"model": "quadratic", "dimension": 10, "condition": 4, "noise": 0, "spread": 1},
        "run": {"target": {"loss": 0.1}},
        "sweep": {"grid": {"network.default.loss": ["1%", "5%"], "run.steps": [5]}, "seeds": [1, 2]},
    },
    {
        "name": "other",
        "nodes": {"count": 2, "gpus": 1, "downlink": "10mbit"},
        "network": {
            "topology": {
                "kind": "graph",
                "switches": ["s0", "s1"],
                "edges": [
                    {"between": ["0-1", "s0"], "delay": "1ms", "back": {"loss": "1%"}},
                    {"between": ["s0", "s1"], "reorder": "1%", "corrupt": "1%", "limit": 100},
                ],
            }
        },
        "algorithm": {"name": "gradient-averaging", "lr": 0.5},
        "task": {"model": "double-well"},
        "sweep": {"points": [{"algorithm.lr": 0.1, "run.steps": 5}, {"run.steps": 6}], "seeds": 3},
    },
    *(
        {
            "name": "joined",
            "nodes": {"count": 6},
            "network": {"default": {"loss": "1%"}, "topology": topology},
            "algorithm": {"name": "allreduce", "lr": 1},
            "task": {"model": "mlp"},
        }
        for topology in (
            "ring",
            {"kind": "star", "center": 5, "beyond": "cut"},
            {"kind": "tree", "branching": 3, "beyond": "hops"},
            {"kind": "torus", "rows": 2, "columns": 3},
            {"kind": "random", "p": 0.9, "seed": 4},
            {"kind": "clusters", "sizes": [1, 2, 3]},
            {"kind": "regions", "round_trips": "wan", "regions": {"tokyo": "0-3", "london": [4, 5]}},
            {"kind": "regions", "round_trips": {"a": {"b": "9ms"}}, "regions": {"a": "0-3", "b": "4,5"}},
        )
    ),
]  # fmt: skip
JUNK = [
    *(0, 1, 3, -1, 2.5, 4.0, 1e9, 70000, True, False, None, "", "yes", "A b"),
    *("10%", "150%", "100.0%", "0%", "20ms", "0s", "-5ms", "20 ms", "1g", "1gb", "1 gbit", "unlimited"),
    *("step 5", "step x", "step 05", "all", "0-2", "3,1", [0, 1], ["0-1", "2"], ["all"], [[0], [1]]),
    *("mlp", "quadratic", "digits", "iid", "dirichlet", "allreduce", "rps", "mine.py:f", "mine.py", "cubic", "auto"),
    *(
        "exp(20s)",
        "exp(0s)",
        "exp()",
        "halves",
        "random",
        "bridge",
        {"node": 2},
        {"rank": "random"},
        {"node": 0, "rank": 0},
    ),
    *("ring", "random", "wan", "s0", ["0-1", "s0"], {"kind": "ring"}, {"loss": "2%", "burst": 3}, {"a": {"b": "1ms"}}),
    *("cuda", [], {}, {"loss": "1%"}, {"from": 0, "to": 1}, {"count": 3}, {"accuracy": 0.5}),
]
KEYS = [
    "loss",
    "at",
    "for",
    "heal",
    "every",
    "from",
    "until",
    "crash",
    "isolate",
    "lr",
    "alpha",
    "data",
    "both",
    "time",
    "model",
    "colour",
    "noise",
    "count",
    "topology",
    "correlation",
    "kind",
    "sizes",
]


def places(data: Any) -> Iterator[tuple[Any, ...]]:
    """The path of everything inside."""
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, inner in entries:
        yield (key,)
        yield from ((key, *rest) for rest in places(inner))


@st.composite
def mutations(draw: st.DrawFn) -> dict[str, Any]:
    data = copy.deepcopy(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(1, 2))):
        *above, last = draw(st.sampled_from(sorted(places(data), key=str)))
        inside = data
        for key in above:
            inside = inside[key]
        action = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if action == "remove":
            del inside[last]
        elif action == "add" and isinstance(inside, dict):
            inside[draw(st.sampled_from(KEYS))] = copy.deepcopy(draw(st.sampled_from(JUNK)))
        else:
            inside[last] = copy.deepcopy(draw(st.sampled_from(JUNK)))
        if not data:
            break
    return data


def complaints_of(data: Any) -> list[str]:
    try:
        read_plan(json.dumps(data), file="mutated.yaml")
    except PlanError as error:
        return [str(complaint) for complaint in error.complaints]
    return []


def test_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("data", BASES, ids=lambda data: data["name"])
def test_base_plans_of_the_mutations_are_right(data: dict[str, Any]) -> None:
    assert complaints_of(data) == []
    VALIDATOR.validate(data)


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.stem)
def test_topology_loads_and_validates(path: Path) -> None:
    plan = load_plan(path)
    assert plan.name == path.stem
    document = read_document(path.read_text(), file=str(path), complaints=Complaints())
    assert document is not None
    VALIDATOR.validate(document.plain)


@settings(max_examples=400, deadline=None)
@given(mutations())
def test_schema_and_parser_agree_on_mutated_plans(data: dict[str, Any]) -> None:
    complaints = complaints_of(data)
    if VALIDATOR.is_valid(data):
        assert [each for each in complaints if not BEYOND_A_SCHEMA.search(each)] == []
    else:
        assert complaints


def test_every_key_of_the_schema_is_described() -> None:
    def undescribed(schema: Any, path: str) -> Iterator[str]:
        if isinstance(schema, dict):
            for key, inner in schema.get("properties", {}).items():
                if isinstance(inner, dict) and "additionalProperties" in schema and "description" not in inner:
                    yield f"{path}.{key}"
            for key, inner in schema.items():
                yield from undescribed(inner, f"{path}.{key}")
        elif isinstance(schema, list):
            for number, inner in enumerate(schema):
                yield from undescribed(inner, f"{path}[{number}]")

    assert list(undescribed(SCHEMA, "")) == []


def test_defaults_of_the_schema_are_those_of_the_model() -> None:
    run = SCHEMA["properties"]["run"]["properties"]
    assert (run["steps"]["default"], run["phase_timeout"]["default"], run["silence"]["default"]) == (100, "2s", "2min")
    assert SCHEMA["properties"]["network"]["properties"]["default"]["properties"]["loss"]["default"] == "0%"
