"""The `Node` of the simulated arm: one rank in virtual time."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.algorithms.node import Arrivals, Channel, Entry, Messages, RunOver, Tag
from testbed.core.blocks import Rows, Vector
from testbed.core.dice import draw_of, shared_rng
from testbed.core.quorums import Clusters
from testbed.core.rounds import Enough, Place, Round, Told
from testbed.errors import RankError
from testbed.journal import finite
from testbed.simulate.world import World


class SimulatedNode:
    """`x` [d] is the common start. Who comes back goes on from the model in its store, if that has one."""

    def __init__(self, world: World, rank: int, x: Vector) -> None:
        self.rank = rank
        self.size = world.size
        self._world = world
        self._store = world.stores[rank]
        self._told = self._store.told()  # before this life
        self._done, kept = self._store.model or (0, x)  # steps committed or skipped
        self._calls = 0  # of gradient, in this step
        self._line = _new_line()
        self._x = np.array(kept, np.float32)  # what was committed last
        self._evaluated = -1  # the step of the last evaluation
        self._has_spoken = not self._store.crashes  # in this life; of the first one that is no news
        self._held = {self._done: self._x}  # the last two models, by the steps done

    @property
    def start(self) -> Vector:
        return self._x.copy()

    def shared_rng(self, *key: int) -> np.random.Generator:
        return shared_rng(self._world.seed, *key)

    async def steps(self) -> AsyncIterator[int]:
        self._evaluate()
        while self._done < self._world.steps and not await self._is_time_over():
            await self._present()
            self._skip_to_peers()
            self._calls = 0
            self._line = _new_line()
            step = self._done
            yield step
            if self._done == step:  # in virtual time it would go on for ever at one instant
                raise RankError(
                    f"rank {self.rank} went on from step {step} without having committed a model",
                    remedy="`await node.commit(x)` once in every step",
                )

    async def gradient(self, x: Vector) -> Vector:
        draw = draw_of(self._done, self._calls)
        self._calls += 1
        await self._present()
        begun_s = self._now_s
        gradient, loss = await self._world.gradients.ask(self.rank, x, draw)
        self._line["gradient_s"] += self._now_s - begun_s
        self._line["loss"] = finite(loss)
        return gradient

    async def commit(self, x: Vector) -> None:
        self._x = np.array(x, np.float32)
        self._done += 1
        self._held = {step: held for step, held in self._held.items() if step == self._done - 1} | {self._done: self._x}
        self._store.keep_model(self._done, self._x)
        self._write("step", step=self._done, **{name: _rounded(value) for name, value in self._line.items()})
        self._world.notebook.keep(self.rank, self._done, self._x)
        if self._done % self._world.evaluate_every == 0 or self._done == self._world.steps:
            self._evaluate()
        self._world.reached(self._done)

    async def scatter(self, tag: Tag, rows: Rows, *, to: Sequence[int] | NDArray[np.intp]) -> None:
        self._need(Channel.DATAGRAM)
        await self._present()
        self._note_first_word()
        self._world.datagrams.scatter(self.rank, tag, np.asarray(rows, np.float32), np.asarray(to, np.intp))

    async def broadcast(self, tag: Tag, row: Vector) -> None:
        self._need(Channel.DATAGRAM)
        await self._present()
        self._note_first_word()
        self._world.datagrams.broadcast(self.rank, tag, np.asarray(row, np.float32))

    async def collect(self, tag: Tag, *, width: int) -> Arrivals:
        self._need(Channel.DATAGRAM)
        await self._present()
        begun_s = self._now_s
        arrivals = await self._world.datagrams.collect(self.rank, tag)
        self._line["wait_s"] += self._now_s - begun_s
        self._line["late"] += int(arrivals.late)
        return arrivals.fitted(width)

    async def allreduce(self, x: Vector) -> Vector:
        self._need(Channel.COLLECTIVE)
        await self._present()
        begun_s = self._now_s
        total = await self._world.collective.allreduce(self.rank, x)
        await self._present()
        self._line["wait_s"] += self._now_s - begun_s
        return total

    @property
    def clusters(self) -> Clusters:
        return self._world.clusters

    async def tell(self, round_: Round, value: Vector) -> None:
        self._need(Channel.MESSAGE)
        await self._present()
        self._store.messages.append((round_, np.array(value, np.float32)))
        self._send(round_, value)

    async def heard(self, since: Round, enough: Enough, *, earliest: bool = False) -> Messages:
        self._need(Channel.MESSAGE)
        begun_s = self._now_s
        try:
            async with asyncio.timeout_at(self._world.time_s):
                heard = await self._world.messages.heard(self.rank, since, enough, earliest=earliest)
        except TimeoutError:
            raise RunOver from None
        await self._present()
        self._line["wait_s"] += self._now_s - begun_s
        return heard

    async def write(self, round_: Round, cluster_round: int, value: Vector) -> None:
        await self._present()
        self._store.register = (round_, cluster_round), np.array(value, np.float32)
        self._set((round_, cluster_round), value)
        await asyncio.sleep(0)

    async def read(self) -> Sequence[Entry]:
        await self._present()
        entries = []
        for rank in self.clusters.mates(self.rank):
            if (entry := self._world.registers.read(rank)) is not None:
                entries.append(entry)
            await asyncio.sleep(0)  # others may write between two reads
        return entries

    def told(self) -> Told | None:
        return self._told if self._told is not None and self._told.round[0] >= self._done else None

    def skip_to(self, step: int) -> None:
        if step > self._done:
            self._write("skip", **{"from": self._done, "to": step})
            self._done = step

    def note(self, **values: Any) -> None:
        self._line.update(values)

    def introduce(self) -> None:
        """The first lines of a life; and what was told last in the life before, unchanged."""
        node, device = self._world.node_of[self.rank], self._world.device
        self._write("start", rank=self.rank, node=node, step=self._done, dimension=self._x.size, device=device)
        if self._store.crashes:
            self._write("loaded", what=self._store.what, step=self._done, took_s=0.0, torn=[])
            self._write("returned", **dict.fromkeys(("woken_s", "built_s", "loaded_s", "ready_s"), self._now_s))
        for round_, value in self._store.messages:
            self._send(round_, value, again=True)
        if self._store.register is not None:
            self._set(*self._store.register, again=True)

    async def regroup(self) -> None:
        """Peers of the collective were lost: go on without them, from the newest step that all who are left hold."""
        done = self._done
        self._done, self.size = await self._world.collective.regroup(self.rank, self._held)
        self._x = self._held[self._done]
        self._held = {self._done: self._x}
        self._store.forget_models_after(self._done)
        self._write("shrunk", **{"from": done, "to": self._done, "size": self.size})

    def finish(self) -> None:
        """Keep the final model, tell the peers not to wait, and end the journal."""
        if self._evaluated != self._done:
            self._evaluate()
        self._world.notebook.final(self.rank, self._x)
        if Channel.DATAGRAM in self._world.channels:
            self._world.datagrams.leave(self.rank)
        self._world.collective.leave(self.rank)
        self._write_traffic()
        self._write("end", step=self._done, reason="steps" if self._done >= self._world.steps else "time")

    @property
    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def _present(self) -> None:
        """Returns when this rank may act: not while its node is paused."""
        await self._world.present(self.rank)

    def _send(self, round_: Round, value: Vector, *, again: bool = False) -> None:
        self._note_first_word()
        self._world.messages.tell(self.rank, round_, value)
        self._world.notebook.keep_told(self.rank, round_, value)
        self._write("told", round=round_, cluster_round=0, digest=_digest(value), again=again)

    def _note_first_word(self) -> None:
        if not self._has_spoken:
            self._has_spoken = True
            self._write("spoke")

    def _set(self, place: Place, value: Vector, *, again: bool = False) -> None:
        self._world.registers.write(self.rank, place, value)
        self._write("told", round=place[0], cluster_round=place[1], digest=_digest(value), again=again)

    def _write(self, event: str, **values: Any) -> None:
        self._world.notebook.write(self.rank, event, at_s=self._now_s, **values)

    def _need(self, channel: Channel) -> None:
        if channel not in self._world.channels:
            raise RankError(f"the algorithm uses the {channel.value} channel, but its CHANNELS do not name it")

    def _skip_to_peers(self) -> None:
        """A rank that sees marks of a later step is behind: nobody will answer it before it is where they are."""
        newest = self._world.datagrams.newest_step(self.rank)
        if newest > self._done:
            self._write("skip", **{"from": self._done, "to": newest})
            self._done = newest
        self._world.datagrams.enter(self.rank, self._done)

    async def _is_time_over(self) -> bool:
        if self._world.time_s is None:
            return False
        over = self._now_s >= self._world.time_s
        if Channel.COLLECTIVE not in self._world.channels:
            return over
        # The ranks of a collective must stop at the same step, or the last one would wait for ever.
        votes = await self._world.collective.allreduce(self.rank, np.array([over], np.float32))
        return bool(votes[0] > 0)

    def _evaluate(self) -> None:
        self._evaluated = self._done
        self._world.notebook.snapshot(self.rank, self._done, self._x)
        if (result := self._world.evaluate(self._x)) is not None:
            loss, accuracy = finite(result.loss), finite(result.accuracy)
            self._write("evaluation", step=self._done, loss=loss, accuracy=accuracy)
        self._write_traffic()

    def _write_traffic(self) -> None:
        if Channel.MESSAGE in self._world.channels:
            self._write("messages", **asdict(self._world.messages.traffic(self.rank)))
        if Channel.DATAGRAM not in self._world.channels:
            return
        wires, datagrams = self._world.wires, self._world.datagrams
        duplicate = int(wires.twice[:, self.rank].sum())
        counts = {"late": datagrams.late(self.rank), "duplicate": duplicate, "foreign": 0, "malformed": 0}
        sent, received = wires.sent[self.rank].tolist(), wires.received[:, self.rank].tolist()
        self._write("traffic", sent=sent, received=received, overflow=0, counts=counts)


def _new_line() -> dict[str, Any]:
    """What the journal says of a step."""
    return {"loss": None, "gradient_s": 0.0, "wait_s": 0.0, "persist_s": 0.0, "late": 0}


def _digest(value: Vector) -> str:
    return f"{zlib.crc32(np.asarray(value, np.float32).tobytes()):08x}"


def _rounded(value: Any) -> Any:
    return finite(round(value, 6)) if isinstance(value, float) else value
