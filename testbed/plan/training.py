"""What a plan trains: its algorithm, from the catalog or from a file of the user's, and its task."""

from __future__ import annotations

import inspect
import re
import traceback
from pathlib import Path
from types import TracebackType

from testbed.algorithms.catalog import ALGORITHMS, Algorithm, load_own
from testbed.core.tasks import MODELS, REQUIRED
from testbed.plan.complaints import Complaints, Wrong, nearest
from testbed.plan.document import Item
from testbed.plan.kinds import Values
from testbed.plan.model import AlgorithmChoice, Run, Target, Task
from testbed.plan.vocabulary import OWN_ALGORITHM, WITHOUT_ACCURACY, algorithm_section


def build_algorithm(item: Item, *, folder: Path, complaints: Complaints) -> AlgorithmChoice | None:
    """`folder` is where paths of own algorithms start; None where something was complained about."""
    assert isinstance(item.value, dict)
    name_item = item.value.get("name")
    if name_item is None:
        complaints.add(item, "an algorithm needs `name`", f"known: {', '.join(ALGORITHMS)}")
        return None
    name, file = name_item.text, None
    if isinstance(name_item.value, str) and re.fullmatch(OWN_ALGORITHM, name_item.value):
        path, _, name = name_item.value.rpartition(":")
        file = folder / path
    try:
        algorithm = _known(name_item) if file is None else _own(name_item, file, name)
    except Wrong as wrong:
        complaints.add_wrong(wrong)
        return None
    values = algorithm_section(name, algorithm).read(item, complaints)
    parameters = {key: value for key, value in values.data.items() if key in algorithm.parameters}
    of_the_run = {} if "on_crash" in parameters else values.arguments("on_crash")
    return AlgorithmChoice(name, parameters, None if file is None else str(file.resolve()), **of_the_run)


def _known(item: Item) -> Algorithm:
    if isinstance(item.value, str) and item.value in ALGORITHMS:
        return ALGORITHMS[item.value]
    if item.text.endswith(".py"):
        raise Wrong(item, f"{item.shown} does not say which function", f"write `{item.text}:function`")
    hint = f"{nearest(item.text, ALGORITHMS)}, or path/to/file.py:function"
    raise Wrong(item, f"there is no algorithm `{item.text}`", hint)


def _own(item: Item, file: Path, function: str) -> Algorithm:
    if not file.is_file():
        raise Wrong(item, f"there is no file {file}", "paths start at the plan's folder")
    try:
        algorithm = load_own(file, function)
        algorithm.parameters  # noqa: B018 (reads the annotations, which may not exist)
    except (Exception, SystemExit) as error:  # the file is the user's, and may raise whatever it likes
        own = isinstance(error, (AttributeError, TypeError)) and not _line_in(file, error.__traceback__)
        message = str(error) if own else f"{file} cannot be loaded: {type(error).__name__}: {error}"
        line = _line_in(file, error.__traceback__)
        raise Wrong(item, message, f"line {line} of that file" if line else None) from error
    if not any(
        each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        for each in inspect.signature(algorithm.run).parameters.values()
    ):
        raise Wrong(item, f"{function} in {file} takes no node", f"write `async def {function}(node, *, ...)`")
    return algorithm


def _line_in(file: Path, trace: TracebackType | None) -> int | None:
    lines = [frame.lineno for frame in traceback.extract_tb(trace) if frame.filename == str(file)]
    return lines[-1] if lines else None


def build_task(values: Values, complaints: Complaints) -> Task:
    """The task with its model's parameters, those that the plan leaves out at their defaults."""
    model = values.get("model")
    given = {key: value for key, value in values.data.items() if key not in Task.__dataclass_fields__}
    rest = {key: value for key, value in values.data.items() if key in Task.__dataclass_fields__}
    spec = MODELS.get(str(model))
    if spec is not None and not spec.needs_data:
        rest["data"] = None
    elif values.get("split") == "dirichlet" and not values.was_written("alpha"):
        hint = "`alpha: 0.5` is rather one-sided, `alpha: 100` nearly even"
        complaints.add(values.at("split"), "`split: dirichlet` needs `alpha`", hint)
    elif values.was_written("alpha") and values.get("split", "iid") == "iid":
        complaints.add(values.at("alpha"), f"{values.at('alpha').shown} goes with `split: dirichlet` alone")
    known = spec.parameters.items() if spec is not None else ()
    defaults = {name: each.default for name, each in known if each.default is not REQUIRED}
    return Task(**rest, parameters={**defaults, **given})


def check_target(run: Values, task: Task, complaints: Complaints) -> None:
    target = run.get("target")
    if isinstance(target, Values) and target.was_written("accuracy") and task.model in WITHOUT_ACCURACY:
        hint = "write `target: {loss: ...}`"
        complaints.add(target.at("accuracy"), f"model {task.model} has no accuracy to reach", hint)


def build_run(values: Values | None) -> Run:
    if values is None:
        return Run()
    arguments = values.arguments()
    if isinstance(target := arguments.get("target"), Values):
        arguments["target"] = Target(**target.arguments())
    return Run(**arguments)
