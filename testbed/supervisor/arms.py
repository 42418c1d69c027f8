"""The three ways to carry out a plan, each from a checked plan to a summary: in containers, locally, simulated."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from testbed import __version__, datasets, report, results
from testbed.core.tasks import MODELS
from testbed.errors import BringUpError, MachineError, NetworkError, RankError
from testbed.journal import Journal
from testbed.live import Screen
from testbed.plan import Plan
from testbed.runfolder import RunFolder, write_json
from testbed.supervisor import standing
from testbed.supervisor.containers import containers
from testbed.supervisor.local import mpirun_here
from testbed.supervisor.training import train


def up(plan: Plan, file: Path, runs: Path, screen: Screen) -> results.Summary:
    """In containers. Raises MachineError before anything starts, BringUpError once what had started is put away.

    What killed runs left behind goes first: it may hold memory, subnets and rules.
    """
    data = _data(plan)
    for line in standing.down(None, everything=False):
        screen.phase(f"left behind by a run that was killed, removed: {line}")
    with _run(plan, file, runs) as (folder, journal):
        with containers(plan, folder, data, journal, screen) as world:
            train(plan, folder, world, journal, screen)
            screen.phase("evaluating the mean model")
            world.evaluate()
        return _summarise(plan, folder, journal, "docker")


def local(plan: Plan, file: Path, runs: Path, screen: Screen) -> results.Summary:
    """With mpirun on this machine, without containers."""
    data = _data(plan)
    with _run(plan, file, runs) as (folder, journal):
        with mpirun_here(plan, folder, data) as world:
            train(plan, folder, world, journal, screen)
            screen.phase("evaluating the mean model")
            world.evaluate()
        return _summarise(plan, folder, journal, "local")


def simulated(plan: Plan, file: Path, runs: Path, screen: Screen) -> results.Summary:
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
    with _run(plan, file, runs) as (folder, journal):
        simulate(plan, folder.path, data=data, progress=screen.steps)
        screen.phase("evaluating the mean model")
        evaluate_run(folder, plan, build(plan.task, size=plan.size, seed=plan.seed, data=data))
        return _summarise(plan, folder, journal, "simulated")


def _data(plan: Plan) -> Path | None:
    """The folder of the data set, decoded once; None for models that need none."""
    if not MODELS[plan.task.model].needs_data or plan.task.data is None:
        return None
    return datasets.prepare(plan.task.data)


@contextmanager
def _run(plan: Plan, file: Path, runs: Path) -> Iterator[tuple[RunFolder, Journal]]:
    """The folder of a new run, and the supervisor's journal in it, which says how the run ended. Of a run that this
    machine refuses nothing is kept: nothing happened."""
    latest = runs.absolute() / plan.name / "latest"
    before = latest.readlink() if latest.is_symlink() else None
    folder = new_folder(plan, file, runs)
    with Journal(folder.supervisor_journal) as journal:
        try:
            yield folder, journal
        except MachineError:
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


def new_folder(plan: Plan, file: Path, runs: Path) -> RunFolder:
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


def _summarise(plan: Plan, folder: RunFolder, journal: Journal, arm: str) -> results.Summary:
    made = {
        "testbed": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
    summary = results.summarise(folder, plan, arm=arm, made=made)
    results.write_summary(folder, summary)
    report.plot(folder)
    return summary
