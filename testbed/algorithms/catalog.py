"""The catalog: every algorithm by its name in the plan, what it needs, and how an own one is loaded."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.algorithms import rps as _rps
from testbed.algorithms.allreduce import allreduce
from testbed.algorithms.asynchronous import sgd_m_of_n, skipping_sgd
from testbed.algorithms.gradient_averaging import gradient_averaging
from testbed.algorithms.mdaa import mdaa
from testbed.algorithms.node import Channel
from testbed.algorithms.rps import rps

Run = Callable[..., Coroutine[Any, Any, None]]  # (node, **parameters)


@dataclass(frozen=True, slots=True)
class Algorithm:
    """`phases` name what it sends, in the order in which one step goes through them."""

    run: Run
    summary: str
    channels: frozenset[Channel]
    phases: tuple[str, ...] = ()

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Its keyword-only parameters: what a plan may set, annotated and with their defaults."""
        signature = inspect.signature(self.run, eval_str=True)
        return {name: p for name, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}


_DATAGRAM = frozenset({Channel.DATAGRAM})
_COLLECTIVE = frozenset({Channel.COLLECTIVE})
_MESSAGE = frozenset({Channel.MESSAGE})

ALGORITHMS: Mapping[str, Algorithm] = {
    "allreduce": Algorithm(allreduce, "AllReduce SGD: exact mean of all gradients, by MPI", _COLLECTIVE),
    "rps": Algorithm(rps, "robust parameter server: models averaged over what arrives", _DATAGRAM, _rps.PHASES),
    "gradient-averaging": Algorithm(
        gradient_averaging, "negative control of RPS: gradients averaged over what arrives", _DATAGRAM, _rps.PHASES
    ),
    "mdaa": Algorithm(mdaa, "cluster-based SGD with approximate agreement, which crashes cannot stop", _MESSAGE),
    "skipping-sgd": Algorithm(skipping_sgd, "asynchronous SGD over any quorum's models, with skipping", _MESSAGE),
    "sgd-m-of-n": Algorithm(sgd_m_of_n, "asynchronous SGD over the gradients of any M ranks", _MESSAGE),
}


def find(name: str, file: str | None) -> Algorithm:
    """The algorithm of a plan: from the catalog, or the function `name` of an own `file`."""
    return ALGORITHMS[name] if file is None else load_own(Path(file), name)


def load_own(file: Path, function: str) -> Algorithm:
    """The algorithm `function` of a user's `file`. The module says what it needs by PHASES (names) and CHANNELS
    (`Channel`s, default datagrams). Raises AttributeError or TypeError with a sentence, or what the file raises."""
    name = f"testbed_own_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise TypeError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    run = getattr(module, function, None)
    if run is None:
        raise AttributeError(f"{file} has no function {function!r}")
    if not inspect.iscoroutinefunction(run):
        raise TypeError(f"{function} in {file} is not a coroutine: write `async def {function}(node, *, ...)`")
    summary = (inspect.getdoc(run) or "an own algorithm").splitlines()[0]
    channels = frozenset(getattr(module, "CHANNELS", _DATAGRAM))
    return Algorithm(run, summary, channels, tuple(getattr(module, "PHASES", ())))
