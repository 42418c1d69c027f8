"""Gradients in virtual time: what several ranks want is computed by one batched call.

How long a gradient takes:
constant     always as long. The ranks that ask at one instant are served together
exponential  drawn, by dice of each rank's own, with the given mean. Whoever is done first has all computed that are
             asked for by then: the results do not depend on when
measured     as long as the call really takes, for one rank at a time: no two runs are alike
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from testbed.core.blocks import Rows, Vector
from testbed.core.dice import own_rng
from testbed.plan.model import GradientLaw
from testbed.simulate.paces import Paces

_COMPUTE_DICE = 3


class Objective(Protocol):
    """What is minimised. `testbed.learning` has real ones; for a test, a few lines of numpy will do."""

    def start(self) -> Vector:
        """[d]: where all ranks begin."""
        ...

    def gradients(self, ranks: list[int], X: Rows, draws: list[int]) -> tuple[Rows, NDArray[Any]]:
        """At `X` [m, d], row k being the model of rank `ranks[k]`, on its minibatch number `draws[k]`: the gradients
        [m, d] and the losses [m]."""
        ...


class Gradients:
    """A gradient takes `gradient_s` of virtual time, by `law`; on a node that is slow or paused, longer.

    `clock` measures, in seconds, where the law is to measure.
    """

    def __init__(
        self,
        objective: Objective,
        paces: Paces,
        *,
        gradient_s: float,
        law: GradientLaw = "constant",
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.gradient_s = gradient_s
        self._paces = paces
        self._objective = objective
        self._law, self._seed, self._clock = law, seed, clock
        self._asked: dict[float, list[_Request]] = {}  # constant: by the instant of asking
        self._pending: list[_Request] = []  # exponential: not computed yet
        self._dice: dict[int, np.random.Generator] = {}

    async def ask(self, rank: int, x: Vector, draw: int) -> tuple[Vector, float]:
        """The gradient [d] and the loss of the minibatch."""
        if self._law == "exponential":
            return await self._ask_by_chance(rank, x, draw)
        if self._law == "measured":
            return await self._ask_and_measure(rank, x, draw)
        loop = asyncio.get_running_loop()
        done_s = self._paces.work_s(rank) + self.gradient_s
        if (now_s := loop.time()) not in self._asked:
            self._asked[now_s] = []
            loop.call_later(self.gradient_s, self._serve, now_s)
        request = _Request(rank, np.array(x, np.float32), draw, loop.create_future())
        self._asked[now_s].append(request)
        answer = await request.answer
        await self._paces.until(rank, done_s)
        return answer

    async def _ask_by_chance(self, rank: int, x: Vector, draw: int) -> tuple[Vector, float]:
        if rank not in self._dice:
            self._dice[rank] = own_rng(self._seed, rank, _COMPUTE_DICE)
        done_s = self._paces.work_s(rank) + float(self._dice[rank].exponential(self.gradient_s))
        request = _Request(rank, np.array(x, np.float32), draw, asyncio.get_running_loop().create_future())
        self._pending.append(request)
        try:
            await self._paces.until(rank, done_s)
        except asyncio.CancelledError:
            request.answer.cancel()
            raise
        if not request.answer.done():
            pending, self._pending = self._pending, []
            self._compute(pending)
        return await request.answer

    async def _ask_and_measure(self, rank: int, x: Vector, draw: int) -> tuple[Vector, float]:
        begun_s = self._clock()
        G, losses = self._objective.gradients([rank], np.array(x, np.float32)[None], [draw])
        took_s = self._clock() - begun_s
        await self._paces.until(rank, self._paces.work_s(rank) + took_s)
        return np.asarray(G, np.float32)[0], float(losses[0])

    def _serve(self, asked_s: float) -> None:
        self._compute(self._asked.pop(asked_s))

    def _compute(self, requests: Sequence[_Request]) -> None:
        # Those who no longer wait have crashed. In order of rank, so that no rounding depends on who asked first.
        requests = sorted((r for r in requests if not r.answer.done()), key=lambda request: request.rank)
        if not requests:
            return
        try:
            X = np.stack([request.x for request in requests])
            ranks, draws = [request.rank for request in requests], [request.draw for request in requests]
            G, losses = self._objective.gradients(ranks, X, draws)
        except Exception as error:  # it belongs to those who asked, not to the loop, which would only print it
            for request in requests:
                request.answer.set_exception(error)
            return
        for request, g, loss in zip(requests, np.asarray(G, np.float32), losses, strict=True):
            request.answer.set_result((g, float(loss)))


class _Request:
    __slots__ = ("answer", "draw", "rank", "x")

    def __init__(self, rank: int, x: Vector, draw: int, answer: asyncio.Future[tuple[Vector, float]]) -> None:
        self.rank, self.x, self.draw, self.answer = rank, x, draw, answer
