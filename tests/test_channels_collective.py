"""MPI on NumPy buffers, in real jobs of a few ranks on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.mpi

MPIRUN = Path(sys.prefix) / "bin" / "mpirun"
OPTIONS = ["--allow-run-as-root", "--oversubscribe", "--mca", "btl", "tcp,self", "--mca", "pml", "ob1"]
OPTIONS += ["--mca", "btl_tcp_if_include", "lo", "--mca", "mpi_yield_when_idle", "1"]


def job(size: int, program: str) -> list[str]:
    """The lines that `size` ranks printed, sorted."""
    # Open MPI's session folders need a short path, and the ranks one thread each
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": "/tmp"}
    command = [str(MPIRUN), "-n", str(size), *OPTIONS, sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.split("\n"))[1:]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_allreduce_sums_and_every_rank_holds_the_same_bits(size: int) -> None:
    program = """
import asyncio, hashlib, sys
import numpy as np
from testbed.channels.collective import Collective

async def main(mpi):
    digest = hashlib.sha256()
    for d in (1, 7, 1000, 5003, 300_001):  # on both sides of where Open MPI changes its algorithm
        rng = np.random.default_rng(mpi.rank)
        x = rng.normal(size=d).astype(np.float32) * np.float32(10) ** rng.integers(-6, 6, d).astype(np.float32)
        before = x.copy()
        total = await asyncio.to_thread(mpi.allreduce, x)
        assert (x == before).all() and total.dtype == np.float32
        digest.update(total.tobytes())
        count = await asyncio.to_thread(mpi.allreduce, np.ones(d, np.float32))
        assert (count == mpi.size).all()
    return digest.hexdigest()

with Collective() as mpi:
    sys.stdout.write(f"{mpi.rank} {mpi.size} {asyncio.run(main(mpi))}\\n")
"""
    lines = [line.split() for line in job(size, program)]
    assert [(int(rank), int(of)) for rank, of, _ in lines] == [(rank, size) for rank in range(size)]
    assert len({digest for _, _, digest in lines}) == 1


def test_mpis_errors_become_ours_and_name_the_call() -> None:
    program = """
import sys
import numpy as np
from testbed.channels.collective import Collective
from testbed.errors import RankError

with Collective() as mpi:
    # both ranks take part, with different lengths: the shorter buffer is too short for what comes
    try:
        mpi.allreduce(np.ones(1000 if mpi.rank == 0 else 10, np.float32))
        sys.stdout.write("fine\\n")
    except RankError as exc:
        sys.stdout.write(f"{exc}\\n")
"""
    assert any("MPI_Allreduce failed on rank 1 of 2" in line for line in job(2, program))


def test_opening_again_after_closing_is_refused() -> None:
    program = """
import sys
from testbed.channels.collective import Collective
from testbed.errors import RankError

with Collective() as mpi:
    pass
mpi.close()
try:
    Collective()
except RankError as exc:
    sys.stdout.write(f"{exc}\\n")
"""
    assert job(2, program) == ["MPI was closed in this process and cannot be opened again"] * 2
