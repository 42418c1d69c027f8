"""Ranks on this machine, under a real mpirun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.errors import MachineError
from testbed.runfolder import RunFolder, tail
from testbed.runtime.local import LocalJob, find_mpirun

DEADLINE_S = 60.0
ALLREDUCE = "from mpi4py import MPI; w = MPI.COMM_WORLD; print(w.rank, w.size, w.allreduce(w.rank))"
STAY = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
OWNER = f"""
import sys, time
from pathlib import Path
from testbed.runfolder import RunFolder
from testbed.runtime.local import LocalJob
with LocalJob([sys.executable, "-c", {STAY!r}], folder=RunFolder(Path(sys.argv[1])), size=2):
    time.sleep(600)
"""


def until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline_s, f"not so after {DEADLINE_S:g} s"
        time.sleep(0.02)


def pids(folder: RunFolder, size: int) -> list[int]:
    """Of the ranks, once all have said theirs."""

    def said() -> list[str]:
        return [folder.output(rank).read_text() if folder.output(rank).exists() else "" for rank in range(size)]

    until(lambda: all(text.endswith("\n") for text in said()))
    return [int(text) for text in said()]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_python_without_mpirun_beside_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="no mpirun beside") as caught:
        find_mpirun(tmp_path / "python")
    assert "testbed[rank]" in str(caught.value.remedy)


@pytest.mark.mpi
def test_local_ranks_are_one_mpi_world(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with LocalJob([sys.executable, "-c", ALLREDUCE], folder=folder, size=3) as job:
        until(lambda: job.poll() is not None)
        assert job.poll() == 0, tail(job.log)
    assert [folder.output(rank).read_text() for rank in range(3)] == [f"{rank} 3 3\n" for rank in range(3)]  # 0 + 1 + 2


@pytest.mark.mpi
def test_leaving_a_local_job_ends_its_ranks(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with LocalJob([sys.executable, "-c", STAY], folder=folder, size=2) as job:
        ranks = pids(folder, 2)
    assert job.poll() is not None
    until(lambda: all(gone(pid) for pid in ranks))
    job.kill()  # twice does no harm


@pytest.mark.mpi
def test_a_local_job_does_not_outlive_a_killed_owner(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)])
    try:
        ranks = pids(RunFolder(tmp_path), 2)
    finally:
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
    until(lambda: all(gone(pid) for pid in ranks))
