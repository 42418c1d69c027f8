"""All ranks on this machine, under its own mpirun: no containers, and a network that loses nothing."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from testbed.errors import MachineError, RankError
from testbed.runfolder import RunFolder
from testbed.runtime.mpirun import local_argv, rank_command, rank_environment

KILL_DEADLINE_S = 5.0  # for mpirun to end its ranks when asked to
_PR_SET_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None, use_errno=True)  # loaded here, because between fork and exec nothing may be


def find_mpirun(python: Path = Path(sys.executable)) -> Path:
    """The mpirun that was installed beside this Python: another one would not fit the mpi4py that the ranks import."""
    mpirun = python.parent / "mpirun"
    if not mpirun.exists():
        raise MachineError(
            f"there is no mpirun beside {python}", remedy="`pip install 'testbed[rank]'` into the same environment"
        )
    return mpirun


class LocalJob:
    """A context manager; leaving it ends the job. It also ends when the thread that started it does, or is killed."""

    def __init__(
        self,
        program: Sequence[str],
        *,
        folder: RunFolder,
        size: int,
        threads: int = 1,
        environment: Mapping[str, str] | None = None,
        fault_tolerant: bool = False,
    ) -> None:
        """`fault_tolerant`: a rank that is killed does not end the others (ULFM)."""
        self._argv = local_argv(
            rank_command(program, run_folder=folder.path),
            mpirun=find_mpirun(),
            size=size,
            environment={**rank_environment(threads), **(environment or {})},
            fault_tolerant=fault_tolerant,
        )
        self.log = folder.control / "mpirun.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns at once; the ranks run about a second later."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for us, who then end the ranks in order
                preexec_fn=_die_with_parent,
            )

    def poll(self) -> int | None:
        """None while it runs, else mpirun's exit status, which is no verdict."""
        if self._process is None:
            raise RankError("the job was not started")
        return self._process.poll()

    def kill(self) -> None:
        """End mpirun and with it all ranks. No harm where they have ended."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(KILL_DEADLINE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> LocalJob:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()


def _die_with_parent() -> None:
    # SIGTERM and not SIGKILL: mpirun then ends the ranks and takes away what it has in /tmp
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
