"""The rank program: `python -m testbed.rank RUN-FOLDER`, started by mpirun on this machine or in a container.

It builds a `Node` out of a learner and real channels and runs the plan's algorithm on it, on the real clock. Of the
host side it knows the run's folder alone: there it reads the plan, says that it is ready, waits for the word to go,
and leaves its journal and models.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from testbed.algorithms.catalog import Algorithm, find
from testbed.algorithms.node import Arrivals, Channel, Tag
from testbed.channels.collective import Collective
from testbed.channels.datagram import DatagramChannel
from testbed.channels.syscalls import mtu_of
from testbed.core.blocks import Rows, Vector
from testbed.core.dice import draw_of, own_rng, shared_rng
from testbed.errors import RankError
from testbed.journal import Journal, finite
from testbed.learning.learner import Learner, build
from testbed.plan import Plan, RankPlace
from testbed.runfolder import Go, Launch, Ready, RunFolder

GO_DEADLINE_S = 300.0  # from "ready" to "go": the slowest rank's import of torch on a busy machine, and then some
POLL_S = 0.01
ETHERNET_MTU = 1500  # what chunks are cut to on the loopback interface, whose own MTU of 64 KB no network has
LEAVE_DEADLINE_S = 10.0  # for all peers to have sent their last datagram, so that what was sent and received compare
LAST_DATAGRAMS_S = 0.1  # for those to arrive: a hundred times what they take between containers of one machine

T = TypeVar("T")


def main() -> None:
    folder = RunFolder(Path(sys.argv[1]))
    # where there is a job per node, MPI numbers the ranks of each from 0
    rank = int(os.environ.get("TESTBED_FIRST_RANK", "0")) + int(os.environ["OMPI_COMM_WORLD_RANK"])
    try:
        run_rank(folder, rank, life=int(os.environ.get("TESTBED_LIFE", "0")))
    except BaseException as error:
        go = Go.read_if_there(folder.go)
        with Journal(folder.journal(rank), zero_s=go.zero_s if go else None) as journal:
            journal.write("failed", message=f"{type(error).__name__}: {error}")
        raise  # the traceback goes to this rank's output


def run_rank(folder: RunFolder, rank: int, *, life: int = 0) -> None:
    """Everything from the plan to the final model. Raises RankError, or whatever the algorithm raises.

    `life` counts how often this rank was started before. One that comes back begins with the common start again, and
    skips to the step where its peers are; they find it where it was.
    """
    plan = Plan.read(folder.plan)
    launch = Launch.read(folder.launch)
    place = plan.places[rank]
    algorithm = find(plan.algorithm.name, plan.algorithm.file)
    learner = build(
        plan.task,
        size=plan.size,
        seed=plan.seed,
        data=Path(launch.data) if launch.data else None,
        device=plan.run.device,
        threads=plan.run.threads,
    )
    with ExitStack() as opened:
        datagrams = collective = None
        before = Ready.read_if_there(folder.ready(rank)) if life else None
        port = before.address[1] if before and before.address else 0  # where the peers still send to
        if Channel.COLLECTIVE in algorithm.channels:
            collective = opened.enter_context(Collective())
        if Channel.DATAGRAM in algorithm.channels:
            datagrams = opened.enter_context(_channel(plan, place, algorithm, launch, learner.dimension, port))
        go = _wait_for_go(folder, rank, life, datagrams, launch)
        if datagrams:
            datagrams.connect(go.addresses)
        journal = opened.enter_context(Journal(folder.journal(rank), zero_s=go.zero_s))
        journal.write(
            "start",
            rank=rank,
            node=place.node,
            step=0,
            dimension=learner.dimension,
            device=learner.device,
            life=life,
            buffer_bytes=datagrams.receive_buffer_bytes if datagrams else None,
        )
        node = RankNode(plan, rank, learner, journal, folder, datagrams=datagrams, collective=collective)
        asyncio.run(_run(node, algorithm, plan))


async def _run(node: RankNode, algorithm: Algorithm, plan: Plan) -> None:
    try:
        await algorithm.run(node, **plan.algorithm.parameters)
        await node.finish()
    finally:
        node.close()


def _channel(
    plan: Plan, place: RankPlace, algorithm: Algorithm, launch: Launch, dimension: int, port: int
) -> DatagramChannel:
    host = launch.hosts[place.node]
    return DatagramChannel(
        rank=place.rank,
        size=plan.size,
        token=launch.token,
        phases=algorithm.phases,
        host=host,
        port=port,
        mtu=ETHERNET_MTU if launch.inject_loss else mtu_of(host),
        max_width=dimension,
        phase_timeout_s=plan.run.phase_timeout_s,
        drop=_injected_loss(plan, place) if launch.inject_loss else None,
        drop_seed=int(own_rng(plan.seed, place.rank).integers(2**63)),
    )


def _injected_loss(plan: Plan, place: RankPlace) -> Callable[[int], float]:
    """Where no network is emulated (the local arm), the receiver throws away what the plan's links would have lost."""
    loss = [
        0.0 if sender.node == place.node else plan.network.links.loss((sender.node, place.node))
        for sender in plan.places
    ]
    return loss.__getitem__


def _wait_for_go(folder: RunFolder, rank: int, life: int, datagrams: DatagramChannel | None, launch: Launch) -> Go:
    if datagrams is None:
        return _until_go(folder, Ready(rank, os.getpid(), life=life))
    name = f"testbed-{launch.token}-{rank}"
    ready = Ready(
        rank,
        os.getpid(),
        datagrams.address,
        name,
        datagrams.receive_buffer_bytes,
        burst_bytes=datagrams.burst_bytes,
        life=life,
    )
    with datagrams.lent(name):
        return _until_go(folder, ready)


def _until_go(folder: RunFolder, ready: Ready) -> Go:
    ready.write(folder.ready(ready.rank))
    deadline_s = time.monotonic() + GO_DEADLINE_S
    word = folder.go_again(ready.rank, ready.life) if ready.life else folder.go
    while (go := Go.read_if_there(word)) is None:
        if time.monotonic() > deadline_s:
            raise RankError(f"rank {ready.rank} was ready, but nobody said go for {GO_DEADLINE_S:g} s")
        time.sleep(POLL_S)
    return go


class RankNode:
    """The `Node` of the local and the docker arm."""

    def __init__(
        self,
        plan: Plan,
        rank: int,
        learner: Learner,
        journal: Journal,
        folder: RunFolder,
        *,
        datagrams: DatagramChannel | None,
        collective: Collective | None,
    ) -> None:
        self.rank = rank
        self.size = plan.size
        self._plan = plan
        self._run = plan.run
        self._learner = learner
        self._journal = journal
        self._folder = folder
        self._datagrams = datagrams
        self._collective = collective
        # One thread beside the event loop: torch and MPI compute and wait there, so that the loop stays free.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="worker")
        self._done = 0  # steps committed or skipped
        self._calls = 0  # of gradient, in this step
        self._line = _new_line()  # of the journal, for this step
        self._x = learner.start()  # what was committed last
        self._evaluated = -1  # the step of the last evaluation
        links = plan.network.links.links.values()
        self._longest_delay_s = max((link.delay_s + link.jitter_s for link in links), default=0.0)

    @property
    def start(self) -> Vector:
        return self._learner.start().copy()

    def shared_rng(self, *key: int) -> np.random.Generator:
        return shared_rng(self._plan.seed, *key)

    async def steps(self) -> AsyncIterator[int]:
        await self._evaluate()
        while self._done < self._run.steps and not await self._is_time_over():
            self._skip_to_peers()
            self._calls = 0
            self._line = _new_line()
            t = self._done
            yield t
            if self._done == t:
                raise RankError(f"the algorithm went on to its next step without a commit in step {t}")

    async def gradient(self, x: Vector) -> Vector:
        draw = draw_of(self._done, self._calls)
        self._calls += 1
        begun_s = time.monotonic()
        gradient, loss = await self._aside(lambda: self._learner.gradient(self.rank, x, draw))
        self._line["gradient_s"] += time.monotonic() - begun_s
        self._line["loss"] = finite(loss)
        return gradient

    async def commit(self, x: Vector) -> None:
        self._x = x
        self._done += 1
        self._journal.write("step", step=self._done, **{name: _rounded(value) for name, value in self._line.items()})
        if self._done % self._run.evaluate_every == 0 or self._done == self._run.steps:
            await self._evaluate()

    async def scatter(self, tag: Tag, rows: Rows, *, to: Sequence[int] | NDArray[np.intp]) -> None:
        await self._send(tag, rows, np.asarray(to))

    async def broadcast(self, tag: Tag, row: Vector) -> None:
        await self._send(tag, np.broadcast_to(row, (self.size, row.size)), np.arange(self.size))

    async def collect(self, tag: Tag, *, width: int) -> Arrivals:
        begun_s = time.monotonic()
        arrivals = await self._datagram_channel.collect(tag)
        self._line["wait_s"] += time.monotonic() - begun_s
        self._line["late"] += int(arrivals.late)
        return arrivals.fitted(width)

    async def allreduce(self, x: Vector) -> Vector:
        if self._collective is None:
            raise _undeclared(Channel.COLLECTIVE)
        collective = self._collective
        begun_s = time.monotonic()
        total = await self._aside(lambda: collective.allreduce(x))
        self._line["wait_s"] += time.monotonic() - begun_s
        return total

    def note(self, **values: Any) -> None:
        self._line.update(values)

    async def finish(self) -> None:
        """Keep the final model, tell the peers not to wait, and end the journal."""
        if self._evaluated != self._done:
            await self._evaluate()
        np.save(self._folder.final(self.rank), self._x)
        if self._datagrams:
            self._datagrams.leave()
            self._folder.left(self.rank).touch()
            deadline_s = time.monotonic() + LEAVE_DEADLINE_S
            while self._folder.count_left() < self.size and time.monotonic() < deadline_s:
                await asyncio.sleep(POLL_S)
            await asyncio.sleep(LAST_DATAGRAMS_S + self._longest_delay_s)
            self._write_traffic()
        self._journal.write("end", step=self._done, reason="steps" if self._done >= self._run.steps else "time")

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)

    @property
    def _datagram_channel(self) -> DatagramChannel:
        if self._datagrams is None:
            raise _undeclared(Channel.DATAGRAM)
        return self._datagrams

    async def _send(self, tag: Tag, rows: Rows, to: NDArray[np.intp]) -> None:
        await self._aside(lambda: self._datagram_channel.send(tag, rows, to))

    def _skip_to_peers(self) -> None:
        """A rank that sees marks of a later step is behind: nobody will answer it before it is where they are."""
        newest = self._datagrams.newest_step if self._datagrams else self._done
        if newest > self._done:
            self._journal.write("skip", **{"from": self._done, "to": newest})
            self._done = newest

    async def _is_time_over(self) -> bool:
        if self._run.time_s is None:
            return False
        over = time.monotonic() - self._journal.zero_s >= self._run.time_s
        if self._collective is None:
            return over
        # The ranks of a collective must stop at the same step, or the last one would wait for ever.
        collective = self._collective
        votes = await self._aside(lambda: collective.allreduce(np.array([over], np.float32)))
        return bool(votes[0] > 0)

    async def _evaluate(self) -> None:
        x = self._x
        self._evaluated = self._done
        snapshot = self._folder.snapshot(self.rank, self._done)
        snapshot.parent.mkdir(parents=True, exist_ok=True)
        np.save(snapshot, x)
        result = await self._aside(lambda: self._learner.evaluate(x))
        self._journal.write("evaluation", step=self._done, loss=finite(result.loss), accuracy=finite(result.accuracy))
        self._write_traffic()

    def _write_traffic(self) -> None:
        if self._datagrams is None:
            return
        for news in self._datagrams.take_news():
            self._journal.write(news.event, peer=news.peer)
        traffic = self._datagrams.traffic()
        self._journal.write(
            "traffic",
            sent=traffic.sent,
            received=traffic.received,
            overflow=traffic.overflow,
            counts=traffic.counts,
        )

    async def _aside(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)


def _new_line() -> dict[str, Any]:
    """What the journal says of a step."""
    return {"loss": None, "gradient_s": 0.0, "wait_s": 0.0, "late": 0}


def _undeclared(channel: Channel) -> RankError:
    return RankError(f"the algorithm uses the {channel.value} channel, but its CHANNELS do not name it")


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
