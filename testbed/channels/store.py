"""What a rank must not forget: on a non-volatile volume, each value whole or not at all, and there before it is told.

    model        the step and the model that it committed last
    messages     the newest ones that it told, so many as a peer may need again
    register     what it wrote into its register last

Each is a register file of its own (registers.py): two slots, a generation, a checksum over everything, flushed to the
medium before the call returns. A process killed at any instant finds every value as it was before or after its last
write.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from testbed.channels.registers import Register
from testbed.core.blocks import Vector
from testbed.core.rounds import REMEMBERED, Place, Round, Told, told_last


class Store:
    """In `folder`, for vectors of `width`; what an earlier process of the same rank left is there again."""

    def __init__(self, folder: Path, *, width: int) -> None:
        self._model = Register(folder / "model", width=width)
        self._register = Register(folder / "register", width=width)
        self._messages = [Register(folder / f"message-{number}", width=width) for number in range(REMEMBERED)]

    def keep_model(self, step: int, x: Vector) -> None:
        self._model.write(x, (step,), durable=True)

    def keep_message(self, round_: Round, value: Vector) -> None:
        """In place of the oldest."""
        held = [register.read() for register in self._messages]
        stamps = [(-1, -1) if each is None else each.stamp[:2] for each in held]
        self._messages[stamps.index(min(stamps))].write(value, round_, durable=True)

    def keep_register(self, place: Place, value: Vector) -> None:
        self._register.write(value, (*place[0], place[1]), durable=True)

    def model(self) -> tuple[int, Vector] | None:
        held = self._model.read()
        return None if held is None else (held.stamp[0], held.value)

    def messages(self) -> list[tuple[Round, Vector]]:
        """Oldest first."""
        held = [each for register in self._messages if (each := register.read()) is not None]
        return sorted(((each.stamp[:2], each.value) for each in held), key=lambda message: message[0])

    def register(self) -> tuple[Place, Vector] | None:
        held = self._register.read()
        return None if held is None else ((held.stamp[:2], held.stamp[2]), held.value)

    def told(self, done: int) -> Told | None:
        """What was told last, if it belongs to the step after `done` steps."""
        return told_last(self.messages(), self.register(), done)

    def close(self) -> None:
        for register in (self._model, self._register, *self._messages):
            register.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
