"""The fixture of this folder: a small machine in network namespaces (world.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from world import World, make


@pytest.fixture
def make_world() -> Iterator[Callable[[int], World]]:
    """A function of the number of nodes; all that it makes goes away with the test."""
    with ExitStack() as stack:
        yield lambda size: make(size, stack)
