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


def listed(numbers: Sequence[int], what: str = "rank") -> str:
    """ "rank 3", "ranks 1, 2, 5", "ranks 1, 2, 3, ... (97 of them)"."""
    names = ", ".join(str(number) for number in numbers[:8])
    more = f", ... ({len(numbers)} of them)" if len(numbers) > 8 else ""
    return f"{what}{'s' if len(numbers) != 1 else ''} {names}{more}"
