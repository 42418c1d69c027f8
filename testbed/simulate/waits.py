"""Who waits for what, kept so that a simulation that stands still can say it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


class Waits:
    """At most one sentence per rank; it is made only when somebody asks."""

    def __init__(self) -> None:
        self._by_rank: dict[int, Callable[[], str]] = {}

    @contextmanager
    def entered(self, rank: int, sentence: Callable[[], str]) -> Iterator[None]:
        self._by_rank[rank] = sentence
        try:
            yield
        finally:
            del self._by_rank[rank]

    def sentences(self) -> list[str]:
        return [f"rank {rank} waits {sentence()}" for rank, sentence in sorted(self._by_rank.items())]


def listed(ranks: Sequence[int]) -> str:
    """ "rank 3", "ranks 1, 2, 5", "ranks 1, 2, 3, ... (97 of them)"."""
    names = ", ".join(str(rank) for rank in ranks[:8])
    more = f", ... ({len(ranks)} of them)" if len(ranks) > 8 else ""
    return f"rank{'s' if len(ranks) != 1 else ''} {names}{more}"
