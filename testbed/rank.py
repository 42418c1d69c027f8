"""The rank program: `python -m testbed.rank RUN-FOLDER`, started by mpirun on this machine or in a container.

It builds a `Node` out of a learner and real channels and runs the plan's algorithm on it, on the real clock. Of the
host side it knows the run's folder alone: there it reads the plan, says that it is ready, waits for the word to go,
and leaves its journal and models.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from testbed.algorithms.catalog import Algorithm, find
from testbed.algorithms.node import Arrivals, Channel, Entry, Messages, PeersLost, RunOver, Tag
from testbed.channels.collective import Collective
from testbed.channels.datagram import DatagramChannel
from testbed.channels.memory import Memory
from testbed.channels.message import MessageChannel
from testbed.channels.slots import Owner
from testbed.channels.store import Store
from testbed.channels.syscalls import mtu_of
from testbed.core.blocks import Rows, Vector
from testbed.core.checkpoints import agree
from testbed.core.dice import draw_of, own_rng, shared_rng
from testbed.core.quorums import Clusters
from testbed.core.rounds import Enough, Place, Round, Told, told_last
from testbed.errors import RankError, TestbedError
from testbed.journal import Journal, finite
from testbed.learning.learner import Learner, build
from testbed.plan import Plan, RankPlace
from testbed.runfolder import Go, Launch, Ready, RunFolder

GO_DEADLINE_S = 300.0  # from "ready" to "go": the slowest rank's import of torch on a busy machine, and then some
POLL_S = 0.01
LOOK_S = 0.25  # between looks, while waiting for messages, whether the run is over
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
        remedy = f"; try: {error.remedy}" if isinstance(error, TestbedError) and error.remedy else ""
        # (The volume may be what failed: then the traceback says it alone.)
        with (
            contextlib.suppress(OSError),
            Journal(folder.journal(rank), zero_s=go.zero_s if go else None) as journal,
        ):
            journal.write("failed", message=f"{type(error).__name__}: {error}{remedy}")
        raise  # the traceback goes to this rank's output


def run_rank(folder: RunFolder, rank: int, *, life: int = 0) -> None:
    """Everything from the plan to the final model. Raises RankError, or whatever the algorithm raises.

    `life` counts how often this rank was started before. One that comes back is found by its peers where it was, goes
    on from the model in its store, and skips to the step where they are.
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
        former = Ready.read_if_there(folder.ready(rank)) if life else None
        before = former or Ready(rank, 0)
        opening_s = time.monotonic()
        store = opened.enter_context(_store(plan, place, algorithm, launch, folder, learner.dimension))
        if former and store.is_new:
            raise RankError(
                f"rank {rank} comes back, and the store of its former life, {store.folder}, is gone",
                remedy="something has removed it: begin the run anew",
            )
        loaded = Loaded.of(store, opening_s)
        waking = Waking(process_began_s(), opening_s, time.monotonic())
        channels = Channels(store)
        if Channel.COLLECTIVE in algorithm.channels:
            channels.collective = opened.enter_context(Collective(shrinks=plan.algorithm.on_crash == "shrink"))
        if Channel.DATAGRAM in algorithm.channels:
            port = before.address[1] if before.address else 0  # where the peers still send to
            channels.datagrams = opened.enter_context(
                _datagrams(plan, place, algorithm, launch, learner.dimension, port)
            )
        if Channel.MESSAGE in algorithm.channels:
            port = before.messages_at[1] if before.messages_at else 0
            channels.messages = opened.enter_context(_messages(plan, place, launch, learner.dimension, port))
            channels.memory = opened.enter_context(_memory(plan, place, launch, store, learner.dimension))
        waking = replace(waking, ready_s=time.monotonic())
        go = _wait_for_go(folder, rank, life, channels, launch)
        if channels.collective and life:
            loaded = loaded.in_common(store, channels.collective)
        if channels.datagrams:
            channels.datagrams.connect(go.addresses)
        if channels.messages:
            channels.messages.connect(go.messages_at)
        journal = opened.enter_context(Journal(folder.journal(rank), zero_s=go.zero_s))
        node = RankNode(plan, rank, learner, journal, folder, channels, loaded.model)
        node.introduce(life, loaded, waking)
        asyncio.run(_run(node, algorithm, plan))


@dataclass
class Channels:
    """The store, and what the algorithm declares, open; None for the rest."""

    store: Store
    datagrams: DatagramChannel | None = None
    collective: Collective | None = None
    messages: MessageChannel | None = None
    memory: Memory | None = None  # goes with messages


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the store held of a former life."""

    model: tuple[int, Vector] | None  # its step, and [d]; None: there is none, and the rank begins at the common start
    messages: Sequence[tuple[Round, Vector]] = ()  # oldest first
    register: tuple[Place, Vector] | None = None
    torn: Sequence[str] = ()  # slots that were being written when that life ended
    took_s: float = 0.0  # to open the store and to read it

    @classmethod
    def of(cls, store: Store, begun_s: float) -> Loaded:
        """`begun_s`: when its opening began (CLOCK_MONOTONIC)."""
        model, messages, register = store.model(), store.messages(), store.register()
        return cls(model, messages, register, store.torn, time.monotonic() - begun_s)

    def in_common(self, store: Store, collective: Collective) -> Loaded:
        """With the newest model that all ranks of a job hold, which go on together."""
        step = agree([step for step, _ in store.models()], collective.least)
        store.forget_models_after(step)
        return replace(self, model=store.model())

    @property
    def what(self) -> list[str]:
        held = {"model": self.model is not None, "messages": self.messages, "register": self.register is not None}
        return [name for name, there in held.items() if there]


@dataclass(frozen=True, slots=True)
class Waking:
    """When a rank had come how far with its start; CLOCK_MONOTONIC."""

    woken_s: float  # its process began
    built_s: float  # its imports were done, and its learner stood
    loaded_s: float  # its store was open and read
    ready_s: float = 0.0  # its channels were open


def process_began_s() -> float:
    """When this process began, to a hundredth of a second: CLOCK_BOOTTIME, which on a machine that never slept is
    CLOCK_MONOTONIC."""
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(after_name[19]) / os.sysconf("SC_CLK_TCK")


async def _run(node: RankNode, algorithm: Algorithm, plan: Plan) -> None:
    try:
        with contextlib.suppress(RunOver):
            while not await _went_through(algorithm, node, plan):
                await node.regroup()
        await node.finish()
    finally:
        node.close()


async def _went_through(algorithm: Algorithm, node: RankNode, plan: Plan) -> bool:
    """False where peers of a collective were lost on the way."""
    try:
        await algorithm.run(node, **plan.algorithm.parameters)
    except PeersLost:
        return False
    return True


def _messages(plan: Plan, place: RankPlace, launch: Launch, dimension: int, port: int) -> MessageChannel:
    return MessageChannel(
        rank=place.rank, size=plan.size, token=launch.token, width=dimension, host=launch.hosts[place.node], port=port
    )


def _store(
    plan: Plan, place: RankPlace, algorithm: Algorithm, launch: Launch, folder: RunFolder, dimension: int
) -> Store:
    return Store(
        folder.store(place.rank),
        width=dimension,
        owner=Owner(f"{launch.token:08x}", place.rank),
        backend=plan.store.backend,
        messages=Channel.MESSAGE in algorithm.channels,
        wait=plan.store.wait,
    )


def _memory(plan: Plan, place: RankPlace, launch: Launch, store: Store, dimension: int) -> Memory:
    return Memory(
        Path(launch.registers[place.node]),
        store,
        rank=place.rank,
        mates=plan.rank_clusters.mates(place.rank),
        width=dimension,
        durable=plan.registers == "nvm",
    )


def _datagrams(
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


def _wait_for_go(folder: RunFolder, rank: int, life: int, channels: Channels, launch: Launch) -> Go:
    datagrams, messages_at = channels.datagrams, channels.messages.address if channels.messages else None
    if datagrams is None:
        return _until_go(folder, Ready(rank, os.getpid(), life=life, messages_at=messages_at))
    name = f"testbed-{launch.token}-{rank}"
    ready = Ready(
        rank,
        os.getpid(),
        datagrams.address,
        name,
        datagrams.receive_buffer_bytes,
        burst_bytes=datagrams.burst_bytes,
        life=life,
        messages_at=messages_at,
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
        channels: Channels,
        begun: tuple[int, Vector] | None,
    ) -> None:
        """`begun`: the step from which it goes on, and the model [d] of that step; None: from the common start."""
        self.rank = rank
        self.size = plan.size
        self._plan = plan
        self._run = plan.run
        self._learner = learner
        self._journal = journal
        self._folder = folder
        self._datagrams, self._collective = channels.datagrams, channels.collective
        self._messages, self._memory = channels.messages, channels.memory
        # One thread beside the event loop: torch and MPI compute and wait there, so that the loop stays free.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="worker")
        self._clusters = plan.rank_clusters
        self._store = channels.store
        # steps committed or skipped, and what was committed last, of a former life too
        self._done, self._x = begun or (0, learner.start())
        self._held = {self._done: self._x}  # of a collective: the last two models, by the steps done
        self._kept = self._done  # the step of the last model in the store
        self._told: Told | None = None  # what a former life told last
        self._calls = 0  # of gradient, in this step
        self._line = _new_line()  # of the journal, for this step
        self._evaluated = -1  # the step of the last evaluation
        self._has_spoken = True  # in this life; of the first one that is no news
        links = plan.network.links.links.values()
        self._longest_delay_s = max((link.delay_s + link.jitter_s for link in links), default=0.0)

    @property
    def start(self) -> Vector:
        return self._x.copy()

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
        if self._collective:
            self._held = {step: held for step, held in self._held.items() if step == self._done - 1} | {self._done: x}
        if self._plan.store.is_due(self._done, self._kept):
            await self._persist(lambda: self._store.keep_model(self._done, x))
            self._kept = self._done
        self._write_news()
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

    @property
    def clusters(self) -> Clusters:
        return self._clusters

    async def tell(self, round_: Round, value: Vector) -> None:
        messages, _ = self._message_channel
        await self._persist(lambda: self._store.keep_message(round_, value))
        t, r = round_
        if self._run.evaluates(t + 1):
            await self._aside(lambda: _keep(self._folder.told(self.rank, t + 1, r), value))
        messages.tell(round_, value)
        self._write_told((round_, 0), value)
        self._note_first_word()

    async def heard(self, since: Round, enough: Enough, *, earliest: bool = False) -> Messages:
        messages, _ = self._message_channel
        begun_s = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    heard = await messages.heard(since, enough, earliest=earliest)
                    break
            except TimeoutError:
                alone = self._folder.count_left() >= self.size - 1
                if alone or await self._is_time_over():
                    raise RunOver from None
        self._line["wait_s"] += time.monotonic() - begun_s
        return heard

    async def write(self, round_: Round, cluster_round: int, value: Vector) -> None:
        _, memory = self._message_channel
        await self._persist(lambda: memory.write((round_, cluster_round), value))
        self._write_told((round_, cluster_round), value)

    async def read(self) -> Sequence[Entry]:
        _, memory = self._message_channel
        return await self._aside(memory.read)

    def told(self) -> Told | None:
        return self._told if self._told is not None and self._told.round[0] >= self._done else None

    def skip_to(self, step: int) -> None:
        if step > self._done:
            self._journal.write("skip", **{"from": self._done, "to": step})
            self._done = step

    def introduce(self, life: int, loaded: Loaded, waking: Waking) -> None:
        """The first lines of a life; and what was told last in the life before, unchanged."""
        self._told = told_last(loaded.messages, loaded.register, self._done)
        self._journal.write(
            "start",
            rank=self.rank,
            node=self._plan.places[self.rank].node,
            step=self._done,
            dimension=self._learner.dimension,
            device=self._learner.device,
            life=life,
            buffer_bytes=self._datagrams.receive_buffer_bytes if self._datagrams else None,
        )
        if life:
            what, torn, took_s = loaded.what, list(loaded.torn), round(loaded.took_s, 6)
            self._journal.write("loaded", what=what, step=self._done, took_s=took_s, torn=torn)
            since_go = {name: round(at_s - self._journal.zero_s, 6) for name, at_s in asdict(waking).items()}
            self._journal.write("returned", **since_go)
            self._has_spoken = False
        if self._messages and self._memory:
            for round_, value in loaded.messages:
                self._messages.tell(round_, value)
                self._write_told((round_, 0), value, again=True)
                self._note_first_word()
            if loaded.register is not None:
                self._memory.write(*loaded.register)
                self._write_told(*loaded.register, again=True)

    def note(self, **values: Any) -> None:
        self._line.update(values)

    async def regroup(self) -> None:
        """Peers of the collective were lost: go on without them, from the newest step that all who are left hold."""
        collective, done, begun_s = self._collective, self._done, time.monotonic()
        assert collective is not None, "nobody else raises PeersLost"
        self._done = await self._aside(lambda: collective.regroup(self._held))
        self.size = collective.size
        self._x = self._held[self._done]
        self._held = {self._done: self._x}
        await self._aside(lambda: self._store.forget_models_after(self._done))
        self._kept = min(self._kept, self._done)
        took_s = round(time.monotonic() - begun_s, 6)
        self._journal.write("shrunk", **{"from": done, "to": self._done, "size": self.size}, took_s=took_s)

    async def finish(self) -> None:
        """Keep the final model, tell the peers not to wait, and end the journal."""
        if self._evaluated != self._done:
            await self._evaluate()
        np.save(self._folder.final(self.rank), self._x)
        if self._datagrams:
            self._datagrams.leave()
        shrunk = self._collective is not None and self._collective.shrunk
        if self._datagrams or self._messages or shrunk:
            self._folder.left(self.rank).touch()
            deadline_s = time.monotonic() + LEAVE_DEADLINE_S
            while self._folder.count_left() < self._plan.size and time.monotonic() < deadline_s:
                await asyncio.sleep(POLL_S)
        if self._datagrams:
            await asyncio.sleep(LAST_DATAGRAMS_S + self._longest_delay_s)
        self._write_traffic()
        self._journal.write("end", step=self._done, reason=await self._why_over())

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)

    @property
    def _datagram_channel(self) -> DatagramChannel:
        if self._datagrams is None:
            raise _undeclared(Channel.DATAGRAM)
        return self._datagrams

    @property
    def _message_channel(self) -> tuple[MessageChannel, Memory]:
        if self._messages is None or self._memory is None:
            raise _undeclared(Channel.MESSAGE)
        return self._messages, self._memory

    def _write_told(self, place: Place, value: Vector, *, again: bool = False) -> None:
        digest = f"{zlib.crc32(np.asarray(value, np.float32).tobytes()):08x}"
        self._journal.write("told", round=place[0], cluster_round=place[1], digest=digest, again=again)

    async def _send(self, tag: Tag, rows: Rows, to: NDArray[np.intp]) -> None:
        await self._aside(lambda: self._datagram_channel.send(tag, rows, to))
        self._note_first_word()

    def _note_first_word(self) -> None:
        if not self._has_spoken:
            self._has_spoken = True
            self._journal.write("spoke")

    def _write_news(self) -> None:
        for channel in (self._datagrams, self._messages):
            for news in channel.take_news() if channel is not None else ():
                self._journal.write(news.event, at_s=news.at_s - self._journal.zero_s, peer=news.peer)

    def _skip_to_peers(self) -> None:
        """A rank that sees marks of a later step is behind: nobody will answer it before it is where they are."""
        newest = self._datagrams.newest_step if self._datagrams else self._done
        if newest > self._done:
            self._journal.write("skip", **{"from": self._done, "to": newest})
            self._done = newest

    async def _why_over(self) -> str:
        if self._done >= self._run.steps:
            return "steps"
        return "time" if self._collective or await self._is_time_over() else "alone"

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
        self._write_news()
        if self._messages is not None:
            self._journal.write("messages", **asdict(self._messages.traffic()))
        if self._datagrams is None:
            return
        traffic = self._datagrams.traffic()
        self._journal.write(
            "traffic",
            sent=traffic.sent,
            received=traffic.received,
            overflow=traffic.overflow,
            counts=traffic.counts,
        )

    async def _persist(self, work: Callable[[], None]) -> None:
        begun_s = time.monotonic()
        await self._aside(work)
        self._line["persist_s"] += time.monotonic() - begun_s

    async def _aside(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)


def _keep(file: Path, value: Vector) -> None:
    """For who looks at the run afterwards; whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".part")
    with temporary.open("wb") as open_file:
        np.save(open_file, value)
    temporary.replace(file)


def _new_line() -> dict[str, Any]:
    """What the journal says of a step."""
    return {"loss": None, "gradient_s": 0.0, "wait_s": 0.0, "persist_s": 0.0, "late": 0}


def _undeclared(channel: Channel) -> RankError:
    return RankError(f"the algorithm uses the {channel.value} channel, but its CHANNELS do not name it")


def _rounded(value: Any) -> Any:
    return finite(round(value, 6)) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
