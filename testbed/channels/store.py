"""What a rank must not forget: each value whole or not at all, and on the medium before whoever told it goes on.

    model        the step and the model that it committed last, and the one before
    messages     the newest ones that it told, so many as a peer may need again
    register     what it wrote into its register last

Each is a group of slots (slots.py), one more than the values that must be there: what is written goes into the slot
that holds the oldest, with the next generation. A process killed at any instant tears the one slot that it is writing,
and the others hold what was there before. More torn slots than one are not a crash's doing, and are refused.

Opening makes the store whole or not at all, as large as it will ever be: that a volume is full, read-only or that of
another run is said before anything is told. Not here: when something is kept (rank.py), and what that means for an
algorithm (docs/store.md).
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from testbed.channels.later import Later
from testbed.channels.slots import Kept, MappedSlot, Owner, Slot, Stamp, WrittenSlot, header, make, read, refusal
from testbed.core.blocks import Vector
from testbed.core.rounds import REMEMBERED, Place, Round, Told, told_last
from testbed.errors import RankError

BACKENDS: Mapping[str, Callable[[Path], Slot]] = {
    "fsync": WrittenSlot,
    "msync": MappedSlot,
    "dax": partial(MappedSlot, synchronous=True),
}
MEMORY = "memory"  # the control: everything is forgotten with the process

_MODELS, _REGISTERS, _MESSAGES = ("model", 2), ("register", 2), ("message", REMEMBERED + 1)


class Store:
    """In `folder`, for vectors of `width`; what an earlier process of the same owner left is there again.

    `torn` names the slots that were being written when that process died: nothing in them was told to anybody.
    `is_new`: there was no store yet.
    """

    def __init__(
        self,
        folder: Path,
        *,
        width: int,
        owner: Owner,
        backend: str = "fsync",
        messages: bool = True,
        wait: bool = True,
    ) -> None:
        """`messages`: whether the algorithm tells any. Without `wait`, models are kept later: `keep_model` returns at
        once, and of models that come faster than the medium takes them the newest is kept. Messages and registers are
        on the medium whatever it says.

        Raises RankError where the volume is full or read-only, where the store is that of another run, rank or width,
        or has more than one torn slot.
        """
        self.folder = folder
        self.is_new = False
        groups = (_MODELS, _REGISTERS, _MESSAGES) if messages else (_MODELS,)
        names = [f"{name}-{number}.safetensors" for name, slots in groups for number in range(slots)]
        if backend != MEMORY:
            self.is_new = _make(folder, names, owner, width)
        self._opened = ExitStack()
        try:
            opened = {name: self._group(name, slots, width, owner, backend) for name, slots in groups}
        except BaseException:
            self._opened.close()
            raise
        self._models = opened["model"]
        self._registers, self._messages = opened.get("register"), opened.get("message")
        self.torn = [name for group in opened.values() for name in group.torn]
        self._later = None if wait else self._opened.enter_context(Later(self._keep_model))

    def _group(self, name: str, slots: int, width: int, owner: Owner, backend: str) -> _Group:
        if backend == MEMORY:
            return _Forgetful(slots)
        files = [self.folder / f"{name}-{number}.safetensors" for number in range(slots)]
        group = _Files(files, width=width, owner=owner, open_slot=BACKENDS[backend])
        self._opened.callback(group.close)
        return group

    def keep_model(self, step: int, x: Vector) -> None:
        """`x` [width]: the model after `step` steps."""
        if self._later is None:
            self._keep_model(step, x)
        else:
            self._later.hand_over(step, x)

    def _keep_model(self, step: int, x: Vector) -> None:
        self._models.keep((step, 0, 0), x)

    def keep_message(self, round_: Round, value: Vector) -> None:
        """In place of the oldest."""
        self._told(self._messages).keep((*round_, 0), value)

    def keep_register(self, place: Place, value: Vector) -> None:
        self._told(self._registers).keep((*place[0], place[1]), value)

    def models(self) -> list[tuple[int, Vector]]:
        """Those that are there, two at most, the newest last."""
        return [(stamp[0], value) for stamp, value in self._models.kept()]

    def forget_models_after(self, step: int) -> None:
        """Who begins again at `step` will come to later ones anew: those that were kept must not pass for them."""
        self._models.forget(lambda stamp: stamp[0] > step)

    def model(self) -> tuple[int, Vector] | None:
        return next(reversed(self.models()), None)

    def messages(self) -> list[tuple[Round, Vector]]:
        """Oldest first."""
        if self._messages is None:
            return []
        return [((step, round_), value) for (step, round_, _), value in self._messages.kept()][-REMEMBERED:]

    def register(self) -> tuple[Place, Vector] | None:
        held = [] if self._registers is None else self._registers.kept()
        return next(((((step, round_), c), value) for (step, round_, c), value in reversed(held)), None)

    def told(self, done: int) -> Told | None:
        """What was told last, if it belongs to the step after `done` steps."""
        return told_last(self.messages(), self.register(), done)

    def close(self) -> None:
        """What was to be kept later is kept now."""
        self._opened.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _told(self, group: _Group | None) -> _Group:
        if group is None:
            raise RankError(f"the store {self.folder} was opened for an algorithm that tells no messages")
        return group


class _Group(Protocol):
    """Slots of one kind: the newest values but for one slot, which may be under the writer's hands."""

    torn: Sequence[str]

    def keep(self, stamp: Stamp, value: Vector) -> None: ...

    def kept(self) -> list[tuple[Stamp, Vector]]:
        """Oldest first."""
        ...

    def forget(self, which: Callable[[Stamp], bool]) -> None: ...


class _Files:
    """On a volume. What the slots hold is known from the opening on: only this process writes them."""

    def __init__(self, paths: list[Path], *, width: int, owner: Owner, open_slot: Callable[[Path], Slot]) -> None:
        self._paths = paths
        self._owner = owner
        found = [read(path) for path in paths]
        self.torn: Sequence[str] = [path.name for path, kept in zip(paths, found, strict=True) if kept is None]
        if len(self.torn) > 1:
            raise RankError(
                f"{len(self.torn)} of {len(paths)} slots are damaged in {paths[0].parent}: {', '.join(self.torn)}; a "
                "crash tears one at most",
                remedy="the medium is failing, or something else wrote there: what was told is not known any more, so "
                "begin the run anew",
            )
        for path, kept in zip(paths, found, strict=True):
            if kept is not None:
                _insist(path, kept, owner, width)
        self._generations = [0 if kept is None else kept.generation for kept in found]
        self._newest = max(self._generations)
        self._slots: list[Slot] = []
        try:
            for path in paths:
                self._slots.append(open_slot(path))
        except BaseException:
            self.close()
            raise

    def keep(self, stamp: Stamp, value: Vector) -> None:
        value = np.ascontiguousarray(value, np.float32)
        oldest = self._generations.index(min(self._generations))
        self._slots[oldest].write(header(self._owner, self._newest + 1, stamp, value), value)
        self._newest += 1
        self._generations[oldest] = self._newest

    def kept(self) -> list[tuple[Stamp, Vector]]:
        found = [kept for path in self._paths if (kept := read(path)) is not None and kept.generation]
        return [(kept.stamp, kept.value) for kept in sorted(found, key=lambda kept: kept.generation)]

    def forget(self, which: Callable[[Stamp], bool]) -> None:
        for number, path in enumerate(self._paths):
            kept = read(path)
            if kept is not None and kept.generation and which(kept.stamp):
                nothing = np.zeros_like(kept.value)
                self._slots[number].write(header(self._owner, 0, (0, 0, 0), nothing), nothing)
                self._generations[number] = 0

    def close(self) -> None:
        while self._slots:
            self._slots.pop().close()


class _Forgetful:
    """In the memory of this process."""

    torn: Sequence[str] = ()

    def __init__(self, slots: int) -> None:
        self._kept: deque[tuple[Stamp, Vector]] = deque(maxlen=slots)

    def keep(self, stamp: Stamp, value: Vector) -> None:
        self._kept.append((stamp, np.array(value, np.float32)))

    def kept(self) -> list[tuple[Stamp, Vector]]:
        return list(self._kept)

    def forget(self, which: Callable[[Stamp], bool]) -> None:
        self._kept = deque([each for each in self._kept if not which(each[0])], self._kept.maxlen)


def _insist(path: Path, kept: Kept, owner: Owner, width: int) -> None:
    """Raises RankError where the slot is that of somebody else."""
    remedy = "it belongs to another run: remove it, or give this run a folder of its own"
    if kept.owner != owner:
        whose = f"rank {kept.owner.rank} of run {kept.owner.run}"
        raise RankError(f"{path} is the store of {whose}, not of rank {owner.rank} of run {owner.run}", remedy=remedy)
    if kept.value.size != width:
        raise RankError(f"{path} keeps vectors of {kept.value.size} elements, not of {width}", remedy=remedy)


def _make(folder: Path, names: Sequence[str], owner: Owner, width: int) -> bool:
    """All slots, empty, or none of them; whether there were none. Whoever is killed here leaves no store."""
    new = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(new, ignore_errors=True)
        if folder.is_dir() and any(folder.iterdir()):
            return False
        new.mkdir(parents=True)
        for name in names:
            make(new / name, owner, width)
        _sync(new)
        new.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        raise refusal(folder, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return True


def _sync(folder: Path) -> None:
    """Its entries are on the medium when this returns."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
