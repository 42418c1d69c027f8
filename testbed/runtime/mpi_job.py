"""One MPI job over all containers of a run: started, watched and ended from the host.

mpirun runs inside the first container. Whether the ranks did what they should is not judged by its exit status, which
is 0 after many a disaster: their journals tell.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from testbed.errors import RankError, TestbedError
from testbed.runfolder import tail
from testbed.runtime.containers import RUN_FOLDER, Containers
from testbed.runtime.mpirun import LAUNCH_SCRIPT, LIFE, containers_argv, rank_command, rank_environment

LOOK_S = 0.02  # between looks into the launch folder
LAUNCH_DEADLINE_S = 60.0  # for mpirun to have asked for every container
KILL_DEADLINE_S = 5.0  # for mpirun to end its ranks when asked to
_MINE = 'grep -lzx "TMPDIR=$0" /proc/[0-9]*/environ 2>/dev/null'  # /proc/<pid>/environ of each process of a job


class MpiJob:
    """A context manager; leaving it ends the job."""

    def __init__(
        self,
        containers: Containers,
        program: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        life: int = 0,
        fault_tolerant: bool = False,
    ) -> None:
        """`program` is what every rank runs; it finds the run's folder at /testbed/run. `life` counts the jobs of the
        run before this one; `fault_tolerant`: a rank that is killed does not end the others (ULFM)."""
        self._containers = containers
        self._program = rank_command(program, run_folder=RUN_FOLDER)
        self._environment = {**rank_environment(containers.plan.run.threads), LIFE: str(life), **(environment or {})}
        self._folder = containers.folder.control / (f"launch-{life}" if life else "launch")
        # Of an mpirun that was killed the temporary files are still there, and with its pid in a container started
        # anew the next one would find them and fail.
        self._temporary = f"/tmp/job-{life}"
        self._fault_tolerant = fault_tolerant
        self._exec_id: str | None = None
        self._stop = threading.Event()
        self._launcher: threading.Thread | None = None
        self._launch_error: TestbedError | None = None

    @property
    def log(self) -> Path:
        """What mpirun said; what the ranks said lies with each."""
        return self._folder / "mpirun.log"

    def start(self) -> None:
        """Returns at once; the ranks run a second or two later."""
        nodes = self._containers.nodes
        inside = RUN_FOLDER / self._folder.relative_to(self._containers.folder.path)
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.iterdir():  # of an earlier job of this run
            old.unlink()
        (self._folder / "agent.sh").write_text(LAUNCH_SCRIPT)
        subnets = self._containers.subnets
        argv = containers_argv(
            self._program,
            ranks={node.name: spec.ranks for node, spec in zip(nodes, self._containers.plan.nodes, strict=True)},
            control=str(subnets.control),
            data=str(subnets.data),
            launch_agent=f"/bin/sh {inside}/agent.sh {inside}",
            environment=self._environment,
            fault_tolerant=self._fault_tolerant,
        )
        # its pid is written down, because only inside its container may it be sent a signal
        script = 'mkdir -p "$TMPDIR"; echo $$ > "$0/mpirun.pid"; exec "$@" > "$0/mpirun.log" 2>&1 < /dev/null'
        self._exec_id = self._containers.engine.exec_detached(
            nodes[0].container, ["/bin/sh", "-c", script, str(inside), *argv], environment={"TMPDIR": self._temporary}
        )
        self._launcher = threading.Thread(target=self._launch, name="launcher", daemon=True)
        self._launcher.start()

    def poll(self) -> int | None:
        """None while it runs, else mpirun's exit status, which is no verdict. Raises what starting the ranks raised."""
        if self._launch_error is not None:
            raise self._launch_error
        if self._exec_id is None:
            raise RankError("the job was not started")
        return self._containers.engine.exec_status(self._exec_id)

    def lives_in(self, node: int) -> bool:
        """Whether a process of the job runs in that node's container: whatever it started has its TMPDIR."""
        return self._containers.exec(node, ["sh", "-c", f"{_MINE} | grep -q .", self._temporary]).status == 0

    def end_in(self, node: int) -> None:
        """SIGKILL of all its processes there."""
        script = f"for pid in $({_MINE} | cut -d/ -f3); do kill -KILL $pid; done 2>/dev/null; true"
        self._containers.exec(node, ["sh", "-c", script, self._temporary])

    def kill(self) -> None:
        """End mpirun and with it all ranks. No harm where they have ended."""
        self._stop.set()
        if self._launcher is not None:
            self._launcher.join()
        if self._exec_id is None or self._containers.engine.exec_status(self._exec_id) is not None:
            return
        script = (
            'pid=$(cat "$0"); kill -TERM $pid || exit 0; '
            f"for i in $(seq {round(KILL_DEADLINE_S * 10)}); do kill -0 $pid || exit 0; sleep 0.1; done; "
            "kill -KILL $pid"
        )
        inside = RUN_FOLDER / (self._folder / "mpirun.pid").relative_to(self._containers.folder.path)
        self._containers.exec(0, ["/bin/sh", "-c", f"{{ {script}; }} 2>/dev/null", str(inside)])

    def __enter__(self) -> MpiJob:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()

    def _launch(self) -> None:
        """Start in each container what mpirun asks for, once each."""
        awaited = {node.name: node.container for node in self._containers.nodes[1:]}
        looks = round(LAUNCH_DEADLINE_S / LOOK_S)
        try:
            for _ in range(looks):
                for path in self._folder.glob("*.command"):
                    container = awaited.pop(path.stem, None)
                    if container is not None:
                        log = RUN_FOLDER / path.with_suffix(".log").relative_to(self._containers.folder.path)
                        script = f'mkdir -p "$TMPDIR"; exec > "$0" 2>&1 < /dev/null; {path.read_text()}'
                        self._containers.engine.exec_detached(
                            container, ["/bin/sh", "-c", script, str(log)], environment={"TMPDIR": self._temporary}
                        )
                if not awaited or self._stop.wait(LOOK_S):
                    return
            silent = ", ".join(sorted(awaited))
            raise RankError(
                "\n".join(
                    [
                        f"mpirun did not ask for {silent} within {LAUNCH_DEADLINE_S:g} s:",
                        *tail(self.log),
                        f"(in {self.log})",
                    ]
                )
            )
        except TestbedError as exc:
            self._launch_error = exc
