"""The three ways to carry out a plan, each from a checked plan to a summary: in containers, locally, simulated; and the
way to measure its network without training."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from testbed import __version__, datasets, figures, results
from testbed.core.links import Pair
from testbed.core.tasks import MODELS
from testbed.errors import BringUpError, MachineError, NetworkError, RankError
from testbed.figures import heatmap
from testbed.journal import Journal
from testbed.live import Screen
from testbed.plan import Plan
from testbed.results.verification import Verification, judge
from testbed.runfolder import RunFolder, write_json
from testbed.supervisor import standing
from testbed.supervisor.containers import containers, load_noted
from testbed.supervisor.local import mpirun_here
from testbed.supervisor.probers import probers_in
from testbed.supervisor.survey import Effort
from testbed.supervisor.training import train
from testbed.supervisor.verification import Part, Surveyor, before_training


def up(
    plan: Plan,
    file: Path,
    runs: Path,
    screen: Screen,
    *,
    verified: bool = True,
    strict: bool = False,
    pictures: bool = True,
    overrides: Sequence[str] = (),
) -> results.Summary:
    """In containers. Raises MachineError before anything starts, BringUpError once what had started is put away.
    `verified`: the links are measured first, for a second; `strict`: NetworkError if one is certainly not as asked;
    `pictures`: draw the run in the end; `overrides`: what of the plan is not as written in `file`, for the record.

    What killed runs left behind goes first: it may hold memory, subnets and rules.
    """
    data = _data(plan)
    for line in standing.down(None, everything=False):
        screen.phase(f"left behind by a run that was killed, removed: {line}")
    with _run(plan, file, runs, overrides) as (folder, journal):
        with containers(plan, folder, data, journal, screen) as world:
            if verified:
                screen.phase("measuring the links")
                before_training(world, plan.network.links, journal, screen, strict=strict)
            with load_noted(world.agent, journal):
                train(plan, folder, world, journal, screen)
            screen.phase("evaluating the mean model")
            world.evaluate()
        return _summarise(plan, folder, journal, "docker", pictures)


def verify(
    plan: Plan, file: Path, runs: Path, screen: Screen, *, effort: Effort, parts: Sequence[Part], pairs: Sequence[Pair]
) -> tuple[Verification, Path]:
    """The network of the plan as it is at the start, brought up, measured and put away; what was found, and the folder
    with verification.json and heatmap.svg. Raises as `up` does; that a link is not as asked raises nothing."""
    for line in standing.down(None, everything=False):
        screen.phase(f"left behind by a run that was killed, removed: {line}")
    state = plan.network.links
    with _run(plan, file, runs) as (folder, journal):
        with containers(plan, folder, None, journal, screen) as world, probers_in(world.boxes) as probers:
            begun_s = time.monotonic()
            surveyor = Surveyor(state, probers, world.agent.counters, screen.measuring)
            found = judge(state, surveyor.measure(effort, pairs, parts))
            took_s = time.monotonic() - begun_s
        write_json(folder.verification, {"name": plan.name, "took_s": round(took_s, 2), **found.to_json()})
        heatmap.draw(plan.name, state, found, folder.path)
        journal.write("verified", as_asked=found.as_asked, took_s=round(took_s, 3), checks=len(found.checks))
    return found, folder.path


def local(
    plan: Plan, file: Path, runs: Path, screen: Screen, *, pictures: bool = True, overrides: Sequence[str] = ()
) -> results.Summary:
    """With mpirun on this machine, without containers."""
    data = _data(plan)
    with _run(plan, file, runs, overrides) as (folder, journal):
        with mpirun_here(plan, folder, data) as world:
            train(plan, folder, world, journal, screen)
            screen.phase("evaluating the mean model")
            world.evaluate()
        return _summarise(plan, folder, journal, "local", pictures)


def simulated(
    plan: Plan, file: Path, runs: Path, screen: Screen, *, pictures: bool = True, overrides: Sequence[str] = ()
) -> results.Summary:
    """In this process, in virtual time."""
    try:
        from testbed.evaluate import evaluate_run
        from testbed.learning.learner import build
        from testbed.simulate import simulate
    except ModuleNotFoundError as error:
        raise MachineError(
            f"simulating computes gradients in this process, which needs {error.name}",
            remedy="pip install 'testbed[rank]'",
        ) from error
    data = _data(plan)
    with _run(plan, file, runs, overrides) as (folder, journal):
        simulate(plan, folder.path, data=data, progress=screen.steps)
        screen.phase("evaluating the mean model")
        evaluate_run(folder, plan, build(plan.task, size=plan.size, seed=plan.seed, data=data))
        return _summarise(plan, folder, journal, "simulated", pictures)


def _data(plan: Plan) -> Path | None:
    """The folder of the data set, decoded once; None for models that need none."""
    if not MODELS[plan.task.model].needs_data or plan.task.data is None:
        return None
    return datasets.prepare(plan.task.data)


@contextmanager
def _run(plan: Plan, file: Path, runs: Path, overrides: Sequence[str] = ()) -> Iterator[tuple[RunFolder, Journal]]:
    """The folder of a new run, and the supervisor's journal in it, which says how the run ended. Of a run that this
    machine refuses nothing is kept: nothing happened."""
    latest = runs.absolute() / plan.name / "latest"
    before = latest.readlink() if latest.is_symlink() else None
    folder = new_folder(plan, file, runs, overrides)
    with Journal(folder.supervisor_journal) as journal:
        try:
            yield folder, journal
        except MachineError as error:
            if folder.go.exists():
                journal.write("end", outcome="this machine failed", message=str(error))
            else:
                shutil.rmtree(folder.path)
                _point(latest, before)
            raise
        except BaseException as error:
            outcome = _OUTCOMES.get(type(error), "failed" if isinstance(error, Exception) else "interrupted")
            journal.write("end", outcome=outcome, message=str(error))
            raise
        journal.write("end", outcome="ok")


_OUTCOMES: dict[type[BaseException], str] = {
    BringUpError: "not brought up",
    RankError: "a rank fell over",
    NetworkError: "network not as asked",
}


def new_folder(plan: Plan, file: Path, runs: Path, overrides: Sequence[str] = ()) -> RunFolder:
    """runs/<name>/<start>, with `latest` beside it pointing there."""
    home = runs.absolute() / plan.name
    home.mkdir(parents=True, exist_ok=True)
    stem = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for name in (stem, *(f"{stem}.{count}" for count in range(2, 1000))):
        try:
            (home / name).mkdir()
        except FileExistsError:
            continue  # another run of this second
        break
    folder = RunFolder(home / name)
    for rank in range(plan.size):
        folder.rank(rank).mkdir(parents=True)
    folder.control.mkdir()
    shutil.copyfile(file, folder.path / "plan.yaml")
    if overrides:
        write_json(folder.overrides, list(overrides))
    write_json(folder.plan, plan.to_json())
    _point(home / "latest", Path(name))
    return folder


def _point(link: Path, target: Path | None) -> None:
    """`link` to `target`, replaced in one step; None: away."""
    if target is None:
        link.unlink(missing_ok=True)
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.symlink_to(target)
    temporary.replace(link)


def _summarise(plan: Plan, folder: RunFolder, journal: Journal, arm: str, pictures: bool) -> results.Summary:
    made = {
        "testbed": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
    summary = results.summarise(folder, plan, arm=arm, made=made)
    results.write_summary(folder, summary)
    if pictures:
        figures.plot(folder)
    return summary
