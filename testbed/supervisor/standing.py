"""The testbeds that stand on this machine: listed, looked into, and put away, dead ones' leftovers included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.errors import BringUpError, MachineError
from testbed.plan import Plan
from testbed.runfolder import RunFolder
from testbed.runtime import labels, leftovers
from testbed.runtime.containers import AGENT_CAPABILITIES
from testbed.runtime.engine import ContainerSpec, Engine, Thing
from testbed.runtime.images import ImageInfo, Images
from testbed.runtime.leftovers import Standing
from testbed.supervisor.containers import AGENT
from testbed.supervisor.requests import ask


@dataclass(frozen=True, slots=True)
class Row:
    """One testbed, as `testbed ps` shows it."""

    run: str
    name: str
    folder: str
    pid: int
    alive: bool
    containers: int

    def __str__(self) -> str:
        state = f"up (pid {self.pid})" if self.alive else "dead: `testbed down` removes it"
        return f"{self.name}  {self.run}  {self.containers} containers  {state}  {self.folder}"

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def running() -> list[Row]:
    """All testbeds of which anything stands, living or dead."""
    with Engine.connect() as engine:
        return [
            Row(each.run, each.name, each.folder, each.owner.pid, each.alive, len(each.containers))
            for each in leftovers.find(engine)
        ]


def down(name: str | None, *, everything: bool) -> list[str]:
    """Put away the testbed `name`, all of them, or what dead ones left; a line for each thing that went."""
    with Engine.connect() as engine:
        found = leftovers.find(engine)
        rows = leftovers.condemned(found, names=[name] if name else (), everything=everything)
        removed = leftovers.down(engine, rows, clear_links=lambda row: _clear_links(engine, row))
        lines = [f"{row.name}: {thing}" for row, things in removed for thing in things]
        if everything:
            lines += [f"table of run {run}" for run in _clear_orphans(engine)]
            Images(engine.client).remove_leftovers()
        return lines


def execute(rank: int, command: tuple[str, ...], name: str | None) -> tuple[int, str]:
    """Run `command` in the container of `rank`; its exit status and output."""
    with Engine.connect() as engine:
        row = _the_one(leftovers.find(engine), name)
        plan = Plan.read(RunFolder(Path(row.folder)).plan)
        if not 0 <= rank < plan.size:
            raise MachineError(f"{row.name} has no rank {rank}: its ranks are 0-{plan.size - 1}")
        node = str(plan.places[rank].node)
        boxes = [box for box in row.containers if box.labels.get(labels.NODE) == node and box.state == "running"]
        if not boxes:
            raise MachineError(f"the container of rank {rank} of {row.name} does not run")
        done = engine.exec(boxes[0].id, list(command), timeout_s=3600.0)
        return done.status, done.output.decode(errors="replace") + done.errors


def fault(entry: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """Carry out a fault now, written as in a plan but without a moment, in the testbed that is up; what was done."""
    with Engine.connect() as engine:
        row = _the_one(leftovers.find(engine), name)
    return ask(RunFolder(Path(row.folder)), entry)


def _the_one(found: tuple[Standing, ...], name: str | None) -> Standing:
    rows = [row for row in found if row.alive and name in (None, row.name, row.run)]
    if len(rows) == 1:
        return rows[0]
    if not rows:
        raise MachineError(f"no testbed {name} is up" if name else "no testbed is up", remedy="`testbed up PLAN`")
    raise MachineError(
        f"{len(rows)} testbeds are up: " + ", ".join(f"{row.name} ({row.run})" for row in rows),
        remedy="say which, by its name or by the letters behind it",
    )


def latest_run(runs: Path) -> RunFolder:
    """The folder of the newest run of any plan."""
    found = [link.resolve() for link in runs.glob("*/latest") if link.exists()]
    if not found:
        raise MachineError(f"there are no runs in {runs}", remedy="`testbed up PLAN`, or --runs FOLDER")
    return RunFolder(max(found, key=lambda folder: folder.stat().st_ctime))


def outputs(folder: RunFolder, rank: int | None) -> dict[int, str]:
    """What the ranks printed; of one, or of all that printed something."""
    size = Plan.read(folder.plan).size
    if rank is not None and not 0 <= rank < size:
        raise MachineError(f"there is no rank {rank}: the ranks of this run are 0-{size - 1}")
    ranks = range(size) if rank is None else [rank]
    return {each: _text(folder.output(each)) for each in ranks}


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def build_images(progress: Callable[[str], None]) -> dict[str, str]:
    """The tags of both images, built if they are not there."""
    with Engine.connect() as engine:
        images = Images(engine.client)
        return {"rank": images.ensure("rank", progress=progress), "agent": images.ensure("agent", progress=progress)}


def images() -> Sequence[ImageInfo]:
    with Engine.connect() as engine:
        return Images(engine.client).list()


def remove_images(*, everything: bool) -> list[str]:
    """The tags that are gone: those of earlier sources, or all of ours."""
    with Engine.connect() as engine:
        images = Images(engine.client)
        return list(images.remove_all() if everything else images.remove_stale())


# ---- link state of runs that nobody holds any more


def _clear_links(engine: Engine, row: Standing) -> None:
    """An agent whose supervisor died takes its table away by itself; this is for when it died too."""
    with agent_container(engine, row.run, row.agent) as agent:
        if agent is not None:
            _run_agent(engine, agent, "--remove", row.run)


def _clear_orphans(engine: Engine) -> list[str]:
    """Tables of runs of which nothing else stands any more, as after a `docker system prune`."""
    with agent_container(engine, "orphans") as agent:
        if agent is None:
            return []
        standing = {row.run for row in leftovers.find(engine)}
        orphans = [run for run in _run_agent(engine, agent, "--list").split() if run not in standing]
        if orphans:
            _run_agent(engine, agent, "--remove", *orphans)
        return orphans


@contextmanager
def agent_container(engine: Engine, run: str, there: Thing | None = None) -> Iterator[str | None]:
    """A container that an agent can run in: the one that is there, or one made for the moment. None where this machine
    has no image of the agent, because then no agent can have set anything."""
    if there is not None:
        yield there.id
        return
    tags = [image.tag for image in Images(engine.client).list() if image.kind == "agent"]
    if not tags:
        yield None
        return
    spec = ContainerSpec(
        name=f"testbed-{run}-cleaner",
        image=tags[0],
        labels={labels.RUN: run, labels.ROLE: "agent", **labels.Owner.current().labels()},
        only_capabilities=AGENT_CAPABILITIES,
    )
    container = engine.start_container(spec)
    try:
        yield container
    finally:
        engine.remove_container(container)


def _run_agent(engine: Engine, container: str, *arguments: str) -> str:
    done = engine.exec(container, [*AGENT, *arguments])
    if done.status:
        raise BringUpError(f"the network agent could not {' '.join(arguments)}: {done.errors.strip()}")
    return done.output.decode()
