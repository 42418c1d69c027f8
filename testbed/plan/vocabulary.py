"""Every key that a plan may hold, with its kind and what it means: the one table behind parser and schema.

Not here: what must fit together across keys (reader.py and its neighbours).
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, Union, get_args, get_origin

from testbed.algorithms.catalog import ALGORITHMS, Algorithm
from testbed.core import tasks
from testbed.core.faults import Moment
from testbed.core.links import Link
from testbed.core.tasks import DATASETS, MODELS
from testbed.plan import model
from testbed.plan.complaints import Complaints, Wrong
from testbed.plan.document import Item
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
from testbed.plan.quantities import FRACTION, RATE, SIZE, TIME, QuantityError

MOST_NODES = 1000  # a link per ordered pair: a million of them
LARGEST = 100_000_000  # of a model's whole numbers: 400 MB of float32
WITHOUT_ACCURACY = tuple(name for name, spec in MODELS.items() if not spec.has_accuracy)
OWN_ALGORITHM = r"[^:]+\.py:[A-Za-z_][A-Za-z0-9_]*"

# Attributes of a link -------------------------------------------------------------------------------------------------

LINK = (
    Field("loss", Quantity(FRACTION), "share of packets that get lost, each on its own: `10%`"),
    Field("delay", Quantity(TIME), "one way: `20ms`", to="delay_s"),
    Field("jitter", Quantity(TIME), "delay varies uniformly by as much up and down; at most the delay", to="jitter_s"),
    Field(
        "rate",
        Quantity(RATE, positive=True, words={"unlimited": None}),
        "bits per second: `100mbit`; `unlimited` is as fast as the machine",
        to="rate_bps",
    ),
)
LINK_KEYS = tuple(each.key for each in LINK)

FROM = Field("from", NodeGroup(), "sending nodes: `all`, a number, or ranges like `0-3`", required=True)
TO = Field("to", NodeGroup(), "receiving nodes: `all`, a number, or ranges like `0-3`", required=True)
BOTH = Field("both", Switch(), "true: the opposite direction too")

DEFAULT_LINK = Section("the default link", LINK, Link)
PAIR_LINK = Section("a link", (FROM, TO, BOTH, *LINK), one_of=LINK_KEYS)

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
        Field("default", DEFAULT_LINK, "what every link does to packets"),
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


def algorithm_section(name: str, algorithm: Algorithm) -> Section:
    """The keys of `algorithm:` for one algorithm: what its function takes, by its annotations."""
    parameters = algorithm.parameters.items()
    return Section(
        f"algorithm {name}",
        (
            Field("name", Text(r".+", "a name"), algorithm.summary, required=True),
            *(_parameter(key, parameter) for key, parameter in parameters),
        ),
    )


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
        Field("threads", Integer(1, 1024), "torch threads of each rank"),
        Field("device", Choice(get_args(model.Device)), "where gradients are computed"),
        Field(
            "gradient_time",
            Quantity(TIME, positive=True),
            "how long a gradient takes in the simulated arm",
            to="gradient_s",
        ),
    ),
    model.Run,
)

# Faults ---------------------------------------------------------------------------------------------------------------


class MomentKind:
    """`5s` after the start, or `step 200` of the fastest rank."""

    STEP = r"step (0|[1-9][0-9]{0,8})"

    def read(self, item: Item, complaints: Complaints) -> Moment:
        text = item.value if isinstance(item.value, str) else ""
        word, _, number = text.partition(" ")
        if word == "step" and number.isascii() and number.isdigit() and (number == "0" or number[0] != "0"):
            if len(number) < 10:
                return Moment(step=int(number))
        elif word in ("step", "steps"):
            raise Wrong(item, f"{item.shown} is not a step", "write it like `step 200`")
        try:
            return Moment(at_s=TIME.parse(item.value))
        except QuantityError as error:
            if isinstance(item.value, int) and not isinstance(item.value, bool):
                hint = f"write `{item.value}s` or `step {item.value}`"
            else:
                hint = error.hint or "write it like `5s` or `step 200`"
            raise Wrong(item, f"{item.shown} {error}", hint) from error

    def schema(self) -> Schema:
        return {
            "anyOf": [{"type": "string", "pattern": TIME.pattern()}, {"type": "string", "pattern": f"^{self.STEP}$"}]
        }

    def show(self, value: Any) -> Any:
        return value


AT = Field(
    "at", MomentKind(), "when it comes: `5s` after the start, or at `step 200` of the fastest rank", required=True
)
FOR = Field(
    "for", Quantity(TIME, positive=True), "how long it lasts; without it: until a `heal` or the end", to="for_s"
)

_ACTIONS = (
    Field("partition", Many(NodeGroup(), "groups of nodes", least=2), "groups that do not hear each other"),
    Field("isolate", NodeGroup(), "these nodes and the rest do not hear each other"),
    Field("one-way", Section("`one-way`", (FROM, TO)), "`to` hears nothing of `from`; the other direction stays open"),
    Field("set", Section("`set`", (FROM, TO, BOTH, *LINK), one_of=LINK_KEYS), "attributes of links are replaced"),
    Field("heal", Choice((True,)), "all cuts and changes that hold end"),
)
FAULTS: Mapping[str, Section] = {
    action.key: Section(
        f"fault `{action.key}`", (AT, replace(action, required=True), *(() if action.key == "heal" else (FOR,)))
    )
    for action in _ACTIONS
}
# Words that a reader of the documentation may expect. They need nodes that go away, which this version has not.
OTHER_FAULTS = ("crash", "recover", "pause", "slow")


class FaultKind:
    """A mapping with a moment and exactly one action."""

    def read(self, item: Item, complaints: Complaints) -> Any:
        if not isinstance(item.value, dict):
            raise Wrong(item, f"{item.shown} is not a mapping", "write a fault like `{at: 5s, isolate: 2, for: 5s}`")
        unable = [key for key in item.value if key in OTHER_FAULTS]
        actions = [key for key in item.value if key in FAULTS]
        if unable:
            key = unable[0]
            raise Wrong(item.value[key], f"`{key}` is a fault that this version cannot carry out", _ABLE)
        if len(actions) > 1:
            raise Wrong(item, f"this fault does {len(actions)} things: {', '.join(actions)}", "make a fault of each")
        if not actions:
            known = (*FAULTS, "at", "for")
            strange = [key for key in item.value if key not in known]
            if not strange:
                raise Wrong(item, "this fault does nothing", f"add one of {', '.join(FAULTS)}")
            Section("a fault", tuple(Field(key, Anything(), "") for key in known)).read(item, complaints)
            return None
        return FAULTS[actions[0]].read(item, complaints)

    def schema(self) -> Schema:
        return {"anyOf": [section.schema() for section in FAULTS.values()]}

    def show(self, value: Any) -> Any:
        return value


_ABLE = f"it can {', '.join(FAULTS)}"

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
        Field("network", NETWORK, "what links do to packets"),
        Field("algorithm", AlgorithmKind(), _ALGORITHM_NAME, required=True),
        Field("task", TASK, "which model is trained on which data", required=True),
        Field("run", RUN, "how long, and what is looked at"),
        Field("faults", Many(FaultKind(), "faults"), "what goes wrong, and when"),
    ),
    model.Plan,
    rules={"allOf": [_ACCURACY_RULE]},
)
