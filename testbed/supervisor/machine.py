"""The machine under a run, noted in its journal: at "go", every few seconds, and when the last rank has ended.

A reading of 16 nodes takes half a millisecond of CPU time on a busy machine: a ten-thousandth of a core. Not here: what
is read (runtime/cpu.py).
"""

from __future__ import annotations

import time

from testbed.journal import Journal
from testbed.runtime.cpu import Cpu

EVERY_S = 5.0  # short enough to tell a busy stretch from a busy run


class MachineLog:
    """`note` as often as you like: it writes when a line is due. `end` writes the last one."""

    def __init__(self, cpu: Cpu, journal: Journal) -> None:
        self._cpu = cpu
        self._journal = journal
        self._due_s = 0.0
        self._write(thorough=True)

    def note(self) -> None:
        if time.monotonic() >= self._due_s:
            self._write(thorough=False)

    def end(self) -> None:
        self._write(thorough=True)

    def _write(self, *, thorough: bool) -> None:
        self._due_s = time.monotonic() + EVERY_S
        reading = self._cpu.read(thorough=thorough)
        if reading is not None:
            self._journal.write("machine", **reading.to_json())
