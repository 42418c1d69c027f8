"""Gradients in virtual time: the ranks that ask at one instant are served by one batched call."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from testbed.core.blocks import Rows, Vector
from testbed.simulate.paces import Paces


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
    """Each call of the objective takes `gradient_s` of virtual time, for however many ranks it is; on a node that is
    slow or paused, longer."""

    def __init__(self, objective: Objective, paces: Paces, *, gradient_s: float) -> None:
        self.gradient_s = gradient_s
        self._paces = paces
        self._objective = objective
        self._asked: dict[float, list[_Request]] = {}  # by the instant of asking

    async def ask(self, rank: int, x: Vector, draw: int) -> tuple[Vector, float]:
        """The gradient [d] and the loss of the minibatch."""
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

    def _serve(self, asked_s: float) -> None:
        # Those who no longer wait have crashed. In order of rank, so that no rounding depends on who asked first.
        requests = sorted(
            (r for r in self._asked.pop(asked_s) if not r.answer.done()), key=lambda request: request.rank
        )
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
