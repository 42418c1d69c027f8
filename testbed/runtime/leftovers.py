"""What stands in the Docker engine of runs that are over, or are going on; and its removal.

Everything is known by its labels, so that this works on what a killed run left behind halfway through its bringing up.
What a run told the kernel about its links is not known here: the caller passes in who removes that.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from testbed.errors import BringUpError, MachineError, TestbedError
from testbed.runtime import labels
from testbed.runtime.engine import Engine, Labels, StuckNetworkError, Thing
from testbed.runtime.labels import Owner

THREADS = 4  # more at once the engine does not do faster
SETTLE_S = 0.3  # for a request of a killed owner to come through, which the engine was carrying out when it died
REMOVAL_DEADLINE_S = 60.0
STUCK_AFTER_S = 3.0  # a container that is just going is counted a little longer than it is listed
OWNER_DEADLINE_S = 30.0  # for a living owner to put everything away by itself

BRIDGE_SUFFIX = {"control": "c", "data": "d"}


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands of one run."""

    run: str
    name: str  # the plan's
    folder: str  # of the run, on the host
    owner: Owner
    alive: bool  # its owner is
    containers: tuple[Thing, ...]
    networks: tuple[Thing, ...]
    volumes: tuple[Thing, ...] = ()

    @property
    def things(self) -> tuple[Thing, ...]:
        return (*self.containers, *self.networks, *self.volumes)

    @property
    def agent(self) -> Thing | None:
        """The agent's container, if it still runs."""
        running = (c for c in self.containers if c.labels.get(labels.ROLE) == "agent" and c.state == "running")
        return next(running, None)


def bridge_name(run: str, role: str) -> str:
    """The interface on the host of a run's network; `role` is control or data. At most 15 characters."""
    return f"tb{run}{BRIDGE_SUFFIX[role]}"


def find(engine: Engine) -> tuple[Standing, ...]:
    """Every run of which anything stands, ordered by name and id."""
    of_a_run = engine.containers(labels.RUN), engine.networks(labels.RUN), engine.volumes(labels.RUN)
    return group(*of_a_run, is_alive=Owner.is_alive)


def group(
    containers: Iterable[Thing],
    networks: Iterable[Thing],
    volumes: Iterable[Thing] = (),
    *,
    is_alive: Callable[[Owner], bool],
) -> tuple[Standing, ...]:
    """The things of each run together. Pure."""
    of_containers = _by_run(containers)
    of_networks = _by_run(networks)
    of_volumes = _by_run(volumes)
    rows = []
    for run in of_containers.keys() | of_networks.keys() | of_volumes.keys():
        its_containers = of_containers.get(run, ())
        its_networks = of_networks.get(run, ())
        its_volumes = of_volumes.get(run, ())
        first: Labels = (*its_networks, *its_containers, *its_volumes)[0].labels
        owner = Owner.from_labels(first)
        rows.append(
            Standing(
                run=run,
                name=first.get(labels.NAME, ""),
                folder=first.get(labels.FOLDER, ""),
                owner=owner,
                alive=is_alive(owner),
                containers=its_containers,
                networks=its_networks,
                volumes=its_volumes,
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.name, row.run)))


def _by_run(things: Iterable[Thing]) -> dict[str, tuple[Thing, ...]]:
    runs: dict[str, list[Thing]] = {}
    for thing in things:
        runs.setdefault(thing.labels[labels.RUN], []).append(thing)
    return {run: tuple(sorted(its, key=lambda thing: thing.name)) for run, its in runs.items()}


def condemned(standing: Iterable[Standing], *, names: Collection[str] = (), everything: bool = False) -> list[Standing]:
    """Which of them go: the dead ones, those called by their plan's name or their id, or all. Pure.

    Where names are given only these go, dead or alive; a name that nothing answers to is no error, it is down already.
    """
    if everything:
        return list(standing)
    if names:
        return [row for row in standing if row.name in names or row.run in names]
    return [row for row in standing if not row.alive]


def down(
    engine: Engine, rows: Iterable[Standing], *, clear_links: Callable[[Standing], None]
) -> tuple[tuple[Standing, tuple[str, ...]], ...]:
    """Remove these runs; the names of what was removed, by run.

    A living owner is asked to put its run away itself (SIGTERM), and ended where it does not. `clear_links` then takes
    back what was told to the kernel, before the containers and networks go: where it fails its run is left standing,
    to be found again, the others go, and its error is raised at the end.
    """
    removed = []
    errors: list[TestbedError] = []
    for row in rows:
        try:
            if row.alive:
                _end_owner(row)
            standing = next((now for now in find(engine) if now.run == row.run), None)
            if standing is not None:  # else its owner has put everything away, links before networks
                clear_links(standing)
            # what the owner put away itself went by our doing too
            gone = {thing.name for thing in row.things} | set(remove(engine, row.run))
            removed.append((row, tuple(sorted(gone))))
        except TestbedError as exc:
            errors.append(exc)
    if errors:
        raise errors[0]
    return tuple(removed)


def remove(engine: Engine, run: str) -> tuple[str, ...]:
    """Every container, network and volume of `run`; their names. Twice does no harm."""
    label = f"{labels.RUN}={run}"
    removed: list[str] = []
    deadline_s = time.monotonic() + REMOVAL_DEADLINE_S
    stuck_s = time.monotonic() + STUCK_AFTER_S
    with ThreadPoolExecutor(THREADS) as pool:
        while True:
            containers, networks, volumes = engine.containers(label), engine.networks(label), engine.volumes(label)
            things = (*containers, *networks, *volumes)
            if not things:
                return tuple(dict.fromkeys(removed))
            if time.monotonic() > deadline_s:
                names = ", ".join(thing.name for thing in things)
                raise BringUpError(
                    f"still there after {REMOVAL_DEADLINE_S:g} s of removing: {names}",
                    remedy="`testbed down --all`; if that fails too, restart the Docker engine",
                )
            list(pool.map(engine.remove_container, [thing.id for thing in containers]))
            for network in networks:
                try:
                    engine.remove_network(network.id)
                except StuckNetworkError:
                    if time.monotonic() > stuck_s:
                        raise
            for volume in volumes:  # after the containers that have them
                engine.remove_volume(volume.id)
            removed += [thing.name for thing in things]
            time.sleep(SETTLE_S)  # then look again


def _end_owner(row: Standing) -> None:
    """Have the process that answers for a run end. It holds on to its own identity: a pid may be another's by now."""
    try:
        process = os.pidfd_open(row.owner.pid)
    except ProcessLookupError:
        return
    try:
        if row.owner.pid == os.getpid() or not row.owner.is_alive():
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(process, sign)
            if select.select([process], [], [], OWNER_DEADLINE_S)[0]:
                return
    except ProcessLookupError:
        return
    except PermissionError as exc:
        raise MachineError(
            f"run {row.name} ({row.run}) belongs to process {row.owner.pid} of another user",
            remedy="`sudo testbed down`, or ask that user",
        ) from exc
    finally:
        os.close(process)
