"""Every key that a plan may hold, with its kind and what it means: the one table behind parser and schema.

Not here: what must fit together across keys (reader.py and its neighbours).
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from testbed.algorithms.catalog import ALGORITHMS, Algorithm
from testbed.algorithms.node import Channel
from testbed.core import tasks
from testbed.core.tasks import DATASETS, MODELS
from testbed.plan import model
from testbed.plan.complaints import Complaints, Wrong
from testbed.plan.document import Item
from testbed.plan.fault_keys import FAULTS, FaultKind
from testbed.plan.kinds import (
    Anything,
    Choice,
    Either,
    Field,
    Integer,
    Kind,
    Many,
    NodeGroup,
    Number,
    Quantity,
    Schema,
    Section,
    Switch,
    Text,
    Variants,
)
from testbed.plan.link_keys import DEFAULT_LINK, PAIR_LINK
from testbed.plan.quantities import RATE, SIZE, TIME, QuantityError
from testbed.plan.sweep import SweepKind
from testbed.plan.topology_keys import TOPOLOGY

MOST_NODES = 1000  # a link per ordered pair: a million of them
LARGEST = 100_000_000  # of a model's whole numbers: 400 MB of float32
WITHOUT_ACCURACY = tuple(name for name, spec in MODELS.items() if not spec.has_accuracy)
OWN_ALGORITHM = r"[^:]+\.py:[A-Za-z_][A-Za-z0-9_]*"

# Nodes ----------------------------------------------------------------------------------------------------------------

GPU_IDS = Many(Either((Integer(0, 255), Text(r"[A-Za-z0-9:.-]+", "")), "a number or an id"), "GPU ids", least=1)
NODE_GROUP = Section(
    "a group of nodes",
    (
        Field("count", Integer(1, MOST_NODES), "how many nodes (containers) of this kind"),
        Field("ranks", Integer(1, 256), "MPI ranks on each node; they share its memory"),
        Field("cpus", Number(above=0, maximum=1024), "CPU cores for each node, by quota: `0.5`; without it: no limit"),
        Field("memory", Quantity(SIZE, positive=True), "limit for each node: `1g`", to="memory_bytes"),
        Field("shared_memory", Quantity(SIZE, positive=True), "/dev/shm of each node", to="shared_memory_bytes"),
        Field(
            "downlink",
            Quantity(RATE, positive=True),
            "bits per second that each node takes in from all its senders together: `100mbit`",
            to="downlink_bps",
        ),
        Field(
            "gpus",
            Either((Integer(1, 64), Choice(("all",)), GPU_IDS), "write a count, `all`, or a list of device ids"),
            "GPUs for each node: a count, `all`, or a list of device ids",
        ),
    ),
    model.NodeSpec,
)

# Network --------------------------------------------------------------------------------------------------------------

NETWORK = Section(
    "`network`",
    (
        Field("default", DEFAULT_LINK, "what every link, or every edge of a topology, does to packets"),
        Field("topology", TOPOLOGY, "how the nodes are joined: a word like `ring`, or a mapping with its `kind`"),
        Field("links", Many(PAIR_LINK, "links"), "exceptions, for ordered pairs of nodes; later ones override earlier"),
        Field(
            "backend", Choice(get_args(model.Backend)), "what loses the packets; auto: netem where the kernel has it"
        ),
        Field("mtu", Integer(576, 65535), "bytes; without it: what the container network has"),
        Field("offloads", Switch(), "true: senders build 64 KB super-packets, which a link loses whole"),
        Field(
            "congestion_control",
            Text(r"[a-z0-9_-]{1,15}", "the kernel's name for it, like `cubic` or `bbr`"),
            "of TCP: `cubic`, `bbr` ...; without it: what the machine has",
        ),
    ),
    model.Network,
)

# Algorithm ------------------------------------------------------------------------------------------------------------

_ALGORITHM_NAME = "one of the catalog, or an own one: `path/to/file.py:function`"
_WELL_KNOWN: Mapping[str, tuple[Kind, str]] = {
    "lr": (Number(above=0), "learning rate"),
    "owners": (Choice(()), "of blocks: drawn anew every step, or fixed (which biases the mean)"),
    "granularity": (Choice(()), "what counts as one message: a datagram, or a whole block as in the paper"),
    "average": (Choice(()), "what is averaged"),
}


_ON_CRASH = Field(
    "on_crash",
    Choice(get_args(model.OnCrash)),
    "when a rank or node is killed. stop: the whole job ends, as MPI does; restart: it is started again from the "
    "newest checkpoint that all ranks hold; shrink (experimental, ULFM): the survivors go on without it",
)


def algorithm_section(name: str, algorithm: Algorithm) -> Section:
    """The keys of `algorithm:` for one algorithm: what its function takes, by its annotations; and of a collective,
    what becomes of it in a crash."""
    fields = [
        Field("name", Text(r".+", "a name"), algorithm.summary, required=True),
        *(_parameter(key, parameter) for key, parameter in algorithm.parameters.items()),
    ]
    refused = {}
    if Channel.COLLECTIVE in algorithm.channels:
        fields.append(_ON_CRASH)
    elif "on_crash" not in algorithm.parameters:
        why = f"`on_crash` is for collectives, which MPI ends with any of their ranks; {name} goes on without it"
        refused["on_crash"] = (why, "remove it: a rank that is killed comes back by `for` or `recover`")
    return Section(f"algorithm {name}", tuple(fields), model.AlgorithmChoice, refused=refused)


def _parameter(key: str, parameter: inspect.Parameter) -> Field:
    kind, description = kind_of(parameter.annotation), f"parameter {key} of the algorithm"
    if key in _WELL_KNOWN:
        narrower, description = _WELL_KNOWN[key]
        kind = narrower if isinstance(kind, Number) and isinstance(narrower, Number) else kind
    required = parameter.default is inspect.Parameter.empty
    if not required and isinstance(parameter.default, (str, int, float)):
        description += f"; default {parameter.default}"
    return Field(key, kind, description, required)


def kind_of(annotation: Any) -> Kind:
    """The kind of value that a parameter takes, by its annotation."""
    if get_origin(annotation) is Literal:
        return Choice(get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [part for part in get_args(annotation) if part is not type(None)]
        return kind_of(inner[0]) if len(inner) == 1 else Anything()
    simple: Mapping[Any, Kind] = {
        float: Number(),
        int: Integer(-(2**53), 2**53),
        bool: Switch(),
        str: Text(r"[\s\S]*", "text (put it in quotes)"),
    }
    return simple.get(annotation, Anything())


class AlgorithmKind:
    """The catalog's sections by name; own algorithms are read where their file can be found (training.py)."""

    def read(self, item: Item, complaints: Complaints) -> Item:
        if not isinstance(item.value, dict):
            example = f"{{name: {item.text or 'rps'}, lr: 0.1}}"
            raise Wrong(item, f"{item.shown} is not a mapping", f"write `algorithm: {example}`")
        return item

    def schema(self) -> Schema:
        variants = []
        for name, algorithm in ALGORITHMS.items():
            schema = algorithm_section(name, algorithm).schema()
            schema["properties"]["name"] = {"description": algorithm.summary, "const": name}
            variants.append(schema)
        own = {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"description": _ALGORITHM_NAME, "type": "string", "pattern": f"^{OWN_ALGORITHM}$"}},
            "additionalProperties": Anything().schema(),
        }
        return {"anyOf": [*variants, own]}

    def show(self, value: Any) -> Any:
        return value


# Task -----------------------------------------------------------------------------------------------------------------

_ALPHA_RULE: Schema = {
    "if": {"properties": {"split": {"const": "dirichlet"}}, "required": ["split"]},
    "then": {"required": ["alpha"]},
    "else": {"properties": {"alpha": False}},
}


def _task(name: str, spec: tasks.ModelSpec) -> Section:
    """What core/tasks.py says of a model, as a section of the plan."""
    choice = Field("model", Choice((name,)), spec.summary, required=True)
    parameters = tuple(_model_parameter(key, each) for key, each in spec.parameters.items())
    title = f"a task with model {name}"
    if not spec.needs_data:
        return Section(title, (choice, *parameters))
    return Section(title, (choice, *_DATA, *parameters), model.Task, rules=_ALPHA_RULE)


def _model_parameter(name: str, parameter: tasks.Parameter) -> Field:
    whole = parameter.type is int
    kind: Kind = Integer(int(parameter.least), LARGEST) if whole else Number(minimum=parameter.least)
    if isinstance(parameter.default, tasks.Required):
        return Field(name, kind, parameter.summary, required=True)
    return Field(name, kind, f"{parameter.summary}; default {parameter.default:g}")


_FEWEST = min(DATASETS, key=lambda name: DATASETS[name].train_rows)
_DATA = (
    Field("data", Choice(tuple(DATASETS)), "; ".join(f"{name}: {each.summary}" for name, each in DATASETS.items())),
    Field(
        "batch",
        Integer(1, DATASETS[_FEWEST].train_rows, f"{_FEWEST} has {DATASETS[_FEWEST].train_rows} rows to train on"),
        "rows in a minibatch of one rank",
    ),
    Field("split", Choice(("iid", "dirichlet")), "how rows are dealt out to ranks"),
    Field("alpha", Number(above=0), "of the Dirichlet split: the smaller, the more one-sided each rank's data"),
)
TASK = Variants("a task", "model", "what is trained", {name: _task(name, spec) for name, spec in MODELS.items()})

# Run ------------------------------------------------------------------------------------------------------------------

TARGET = Section(
    "a target",
    (
        Field("accuracy", Number(minimum=0, maximum=1), "of the mean model on the test set: `0.95`"),
        Field("loss", Number(), "of the mean model"),
    ),
    model.Target,
    one_of=("accuracy", "loss"),
)


class GradientTime:
    """`10ms`, `exp(10ms)` or `measured`, as (seconds, law)."""

    MEASURED = "measured"

    def read(self, item: Item, complaints: Complaints) -> tuple[float, model.GradientLaw]:
        if item.value == self.MEASURED:
            return model.Run().gradient_s, "measured"
        match = re.fullmatch(r"exp\((.*)\)", item.value) if isinstance(item.value, str) else None
        try:
            mean_s = TIME.parse(match[1] if match else item.value, positive=True)
        except QuantityError as error:
            hint = error.hint or "write it like `10ms`, or `exp(10ms)` for times by chance, or `measured`"
            hint = re.sub(r"`([0-9][^`]*)`", r"`exp(\1)`", hint) if match and error.hint else hint
            raise Wrong(item, f"{item.shown} {error}", hint) from error
        return mean_s, "exponential" if match else "constant"

    def schema(self) -> Schema:
        time = TIME.pattern(positive=True).strip("^$")
        patterns = [{"type": "string", "pattern": each} for each in (f"^{time}$", rf"^exp\({time}\)$")]
        return {"anyOf": [*patterns, {"const": self.MEASURED}]}

    def show(self, value: Any) -> Any:
        mean_s, law = value
        if law == "measured":
            return self.MEASURED
        return f"exp({TIME.show(mean_s)})" if law == "exponential" else TIME.show(mean_s)


RUN = Section(
    "`run`",
    (
        Field("steps", Integer(1, 10_000_000), "steps of every rank"),
        Field("time", Quantity(TIME, positive=True), "the run ends then even if steps are left", to="time_s"),
        Field("target", TARGET, "what counts as having arrived; it is noted, and the run goes on"),
        Field("evaluate_every", Integer(1, 10_000_000), "steps between evaluations of every rank's model"),
        Field(
            "phase_timeout",
            Quantity(TIME, positive=True),
            "the longest that a rank waits for datagrams of one phase",
            to="phase_timeout_s",
        ),
        Field(
            "silence",
            Quantity(TIME, positive=True),
            "a rank that says nothing for so long has fallen over",
            to="silence_s",
        ),
        Field("threads", Integer(1, 1024), "threads that compute, of each rank"),
        Field("device", Choice(get_args(model.Device)), "where gradients are computed"),
        Field(
            "gradient_time",
            GradientTime(),
            "how long a gradient takes in the simulated arm: `10ms`; `exp(10ms)`, drawn by chance, so long on average; "
            "or `measured`, as long as it really takes, so that no two runs are alike",
            to=("gradient_s", "gradient_law"),
        ),
    ),
    model.Run,
)

# Store ----------------------------------------------------------------------------------------------------------------

STORE = Section(
    "`store`",
    (
        Field(
            "backend",
            Choice(get_args(model.StoreBackend)),
            "what a rank keeps its model and its messages with. fsync, the default: written and synced; msync: mapped "
            "and synced; dax: the same on persistent memory; memory: nothing outlasts the process, the control",
        ),
        Field(
            "every",
            Integer(1, 10_000_000),
            "steps from one model that is kept to the next; without it: 1 where somebody comes back, else as often as "
            "models are evaluated",
        ),
        Field("wait", Switch(), "true, the default: until its model is on the medium a rank waits; false: it goes on"),
    ),
)

# The whole ------------------------------------------------------------------------------------------------------------


class NodesKind:
    """One group of nodes, or a list of them."""

    def read(self, item: Item, complaints: Complaints) -> Any:
        if isinstance(item.value, list):
            return Many(NODE_GROUP, "groups of nodes", least=1).read(item, complaints)
        if not isinstance(item.value, dict):
            count = item.value if isinstance(item.value, int) and not isinstance(item.value, bool) else 4
            raise Wrong(item, f"{item.shown} is not a mapping", f"write `nodes: {{count: {count}}}`")
        return [NODE_GROUP.read(item, complaints)]

    def schema(self) -> Schema:
        return {"anyOf": [NODE_GROUP.schema(), Many(NODE_GROUP, "groups of nodes", least=1).schema()]}

    def show(self, value: Any) -> Any:
        return value


_ACCURACY_RULE: Schema = {
    "if": {"properties": {"task": {"properties": {"model": {"enum": list(WITHOUT_ACCURACY)}}, "required": ["model"]}}},
    "then": {"properties": {"run": {"properties": {"target": {"properties": {"accuracy": False}}}}}},
}

PLAN = Section(
    "a plan",
    (
        Field(
            "name",
            Text(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", "lower-case letters, digits and inner hyphens, at most 40"),
            "names containers and the folder of results",
            required=True,
        ),
        Field(
            "seed",
            Integer(0, 2**32 - 1),
            "fixes data order, initial model, owners and fault schedule; not which packets a kernel drops",
        ),
        Field("nodes", NodesKind(), "the containers: a group of equal nodes, or a list of groups", required=True),
        Field(
            "clusters",
            Many(NodeGroup(), "groups of nodes", least=1),
            'nodes whose ranks share registers: `["0-1", "2-3"]`; of a node that is in none, its own ranks do',
        ),
        Field(
            "registers",
            Choice(get_args(model.RegisterKind)),
            "where they lie. memory: lost when all nodes of the cluster are down together; nvm: on the run's volume, "
            "written through before a write counts",
        ),
        Field("store", STORE, "what every rank keeps for the time after a crash"),
        Field("network", NETWORK, "what links do to packets"),
        Field("algorithm", AlgorithmKind(), _ALGORITHM_NAME, required=True),
        Field("task", TASK, "which model is trained on which data", required=True),
        Field("run", RUN, "how long, and what is looked at"),
        Field("faults", Many(FaultKind(FAULTS), "faults"), "what goes wrong, and when"),
        Field("sweep", SweepKind(), "the runs of `testbed sweep`: which settings vary, over which values and seeds"),
    ),
    model.Plan,
    rules={"allOf": [_ACCURACY_RULE]},
)
