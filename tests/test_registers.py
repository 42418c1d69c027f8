"""Registers: one writer, many readers, never a torn value."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from testbed.channels.registers import Register
from testbed.errors import RankError

WIDTH = 257  # so that values end in the middle of a cache line
READS = int(os.environ.get("TESTBED_READS", "20000"))
PATIENCE_S = 120.0


def of(number, width=WIDTH):
    """A value of which every element says which value it belongs to."""
    return np.full(width, number, np.float32)


def test_nothing_was_written_yet(tmp_path):
    with Register(tmp_path / "r", width=3) as register:
        assert register.read() is None


def test_a_reader_sees_the_newest_value_and_its_stamp(tmp_path):
    with Register(tmp_path / "r", width=3) as writer, Register(tmp_path / "r", width=3) as reader:
        for number in range(5):
            writer.write(of(number, 3), (number, -number))
            held = reader.read()
            assert held.stamp == (number, -number, 0, 0)
            assert held.value.tolist() == [number] * 3


def test_a_writer_that_comes_back_goes_on_where_it_was(tmp_path):
    with Register(tmp_path / "r", width=3) as writer:
        writer.write(of(1, 3), (1,))
        writer.write(of(2, 3), (2,), durable=True)
    with Register(tmp_path / "r", width=3) as writer:
        assert writer.read().stamp[0] == 2
        writer.write(of(3, 3), (3,))
        assert writer.read().stamp[0] == 3


def test_a_value_that_was_half_written_does_not_count(tmp_path):
    with Register(tmp_path / "r", width=3) as register:
        register.write(of(1, 3), (1,))
        register.write(of(2, 3), (2,))
        newest = register._newest()
        register._values[newest][1] = 7  # as a writer killed over it would leave it
        assert register.read().stamp[0] == 1
        register.write(of(3, 3), (3,))  # takes the damaged slot, not the good one
        assert register.read().stamp[0] == 3
        register._values[register._newest()][1] = 7
        assert register.read().stamp[0] == 1


def test_both_slots_damaged_is_an_error_and_no_value(tmp_path):
    with Register(tmp_path / "r", width=3) as register:
        register.write(of(1, 3))
        register.write(of(2, 3))
        for slot in (0, 1):
            register._values[slot][0] = 9
        with pytest.raises(RankError, match="damaged"):
            register.read()


def test_a_register_of_another_run_is_refused(tmp_path):
    Register(tmp_path / "r", width=3).close()
    with pytest.raises(RankError, match="no register of 4"):
        Register(tmp_path / "r", width=4)
    (tmp_path / "s").write_bytes(b"something else")
    with pytest.raises(RankError, match="no register of 3"):
        Register(tmp_path / "s", width=3)


def write_until_told(path, stop):
    with Register(path, width=WIDTH) as register:
        number = 0
        while not stop.is_set():
            number += 1
            register.write(of(number % (1 << 24)), (number,))


def read_many(path, reads, report):
    """Every value whole, its stamp its own, and none older than one that was seen."""
    wrong, last = 0, 0
    with Register(path, width=WIDTH) as register:
        for _ in range(reads):
            held = register.read()
            number = held.stamp[0]
            wrong += bool((held.value != number % (1 << 24)).any() or number < last)
            last = number
    report.put(wrong)


def test_no_reader_ever_sees_a_torn_value(tmp_path):
    """One writer and three readers at full speed; the long form: TESTBED_READS=1000000, with --timeout=3600."""
    context = multiprocessing.get_context("spawn")
    path, stop, report = tmp_path / "r", context.Event(), context.Queue()
    with Register(path, width=WIDTH) as register:
        register.write(of(0), (0,))
    writer = context.Process(target=write_until_told, args=(path, stop))
    readers = [context.Process(target=read_many, args=(path, READS, report)) for _ in range(3)]
    for process in (writer, *readers):
        process.start()
    try:
        assert [report.get(timeout=PATIENCE_S * max(1, READS // 50_000)) for _ in readers] == [0, 0, 0]
    finally:
        stop.set()
        for process in (writer, *readers):
            process.join(PATIENCE_S)
    assert writer.exitcode == 0


def test_a_writer_that_is_killed_leaves_a_whole_value(tmp_path):
    context = multiprocessing.get_context("spawn")
    path, never = tmp_path / "r", context.Event()
    for _ in range(3):
        writer = context.Process(target=write_until_told, args=(path, never))
        writer.start()
        with Register(path, width=WIDTH) as register:
            before = register.read()
            seen = before.stamp[0] if before else 0
            end_s = time.monotonic() + PATIENCE_S
            while (held := register.read()) is None or held.stamp[0] in (0, seen):
                assert time.monotonic() < end_s, "the writer wrote nothing"
            os.kill(writer.pid, signal.SIGKILL)
            writer.join(PATIENCE_S)
            held = register.read()
            assert (held.value == held.stamp[0] % (1 << 24)).all()
