"""The store and the memory of a rank: whatever was told is there again, whole, whenever its process is killed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import struct
from itertools import count

import numpy as np
import pytest

from testbed.channels.memory import Memory
from testbed.channels.store import Store
from testbed.core.rounds import REMEMBERED
from testbed.errors import RankError

WIDTH = 20_000  # 80 kB: twenty pages to be killed over
KILLS = 20
PATIENCE_S = 60.0
_MODEL, _MESSAGE, _REGISTER = range(3)
_WORD = struct.Struct("=II")  # which of the three, and the step


def of(number, width=WIDTH):
    return np.full(width, number, np.float32)


def test_an_empty_store_holds_nothing(tmp_path):
    with Store(tmp_path, width=3) as store:
        assert (store.model(), store.messages(), store.register(), store.told(0)) == (None, [], None, None)


def test_what_was_stored_is_there_in_the_next_life(tmp_path):
    with Store(tmp_path, width=3) as store:
        for step in range(5):
            store.keep_message((step, 0), of(step, 3))
        store.keep_register(((4, 1), 7), of(9, 3))
        store.keep_model(4, of(4, 3))
    with Store(tmp_path, width=3) as store:
        done, x = store.model()
        assert (done, x.tolist()) == (4, [4, 4, 4])
        assert [(round_, value.tolist()) for round_, value in store.messages()] == [
            ((3, 0), [3] * 3),
            ((4, 0), [4] * 3),
        ]
        place, value = store.register()
        assert (place, value.tolist()) == (((4, 1), 7), [9, 9, 9])


def test_what_was_told_last_belongs_to_the_step_that_is_not_done(tmp_path):
    with Store(tmp_path, width=3) as store:
        store.keep_message((4, 0), of(1, 3))
        store.keep_register(((4, 1), 2), of(2, 3))
        told = store.told(4)
        assert (told.round, told.cluster_round, told.value.tolist()) == ((4, 1), 2, [2, 2, 2])
        store.keep_message((4, 1), of(3, 3))  # the round's message comes after its registers
        told = store.told(4)
        assert (told.round, told.cluster_round) == ((4, 1), 0)
        assert store.told(5) is None


def test_a_store_of_another_model_is_refused(tmp_path):
    Store(tmp_path, width=3).close()
    with pytest.raises(RankError, match="no register of 4"):
        Store(tmp_path, width=4)


def keep_for_ever(folder, words):
    """Goes on where the store is, and says on the pipe `words` what has been kept."""
    with Store(folder, width=WIDTH) as store:
        held = store.model()
        for step in count(1 if held is None else held[0]):
            value = of(step)
            store.keep_message((step, 0), value)
            os.write(words, _WORD.pack(_MESSAGE, step))
            store.keep_register(((step, 0), 1), value)
            os.write(words, _WORD.pack(_REGISTER, step))
            store.keep_model(step, value)
            os.write(words, _WORD.pack(_MODEL, step))


class Writer:
    """A process that keeps things until it is killed, and what it has said."""

    def __init__(self, folder):
        self._reader, words = os.pipe()
        self._process = multiprocessing.get_context("fork").Process(target=keep_for_ever, args=(folder, words))
        self._process.start()
        os.close(words)
        self.said = []

    def hear(self, words):
        """At least so many."""
        for _ in range(words):
            ready, _, _ = select.select([self._reader], [], [], PATIENCE_S)
            assert ready, f"the writer said nothing for {PATIENCE_S:g} s"
            self._take()

    def kill(self):
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join(PATIENCE_S)
        assert self._process.exitcode == -signal.SIGKILL
        while self._take():
            pass

    def _take(self):
        data = os.read(self._reader, _WORD.size)
        if data:
            self.said.append(_WORD.unpack(data))
        return bool(data)

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            if self._process.is_alive():
                self.kill()
        os.close(self._reader)


def test_a_killed_writer_leaves_all_it_told_and_nothing_unreadable(tmp_path):
    """The writer says what it kept after the store has it, as a rank sends after it has stored."""
    dice = np.random.default_rng(0)
    newest = 0
    for _ in range(KILLS):
        writer = Writer(tmp_path)
        try:
            writer.hear(int(dice.integers(1, 8)))  # then at any instant of what follows
            writer.kill()
        finally:
            writer.close()
        told = {kind: max((step for k, step in writer.said if k == kind), default=newest) for kind in range(3)}
        with Store(tmp_path, width=WIDTH) as store:
            held = store.messages()
            assert held[-1][0][0] >= told[_MESSAGE]
            assert len(held) == min(REMEMBERED, held[-1][0][0])  # the one before the newest, too
            for round_, value in held:
                assert (value == round_[0]).all()
            if told[_REGISTER]:
                ((step, _), _), value = store.register()
                assert step >= told[_REGISTER]
                assert (value == step).all()
            if told[_MODEL]:
                step, value = store.model()
                assert step >= told[_MODEL]
                assert (value == step).all()
            assert store.told(told[_MODEL]).round[0] >= told[_MESSAGE]  # which is what a next life would say again
        newest = min(told.values())
    assert newest > 0


def test_the_ranks_of_a_cluster_read_each_others_registers(tmp_path):
    ranks = (2, 5)
    with contextlib.ExitStack() as stack:
        memories = [
            stack.enter_context(
                Memory(tmp_path / "registers", tmp_path / f"store-{rank}", rank=rank, mates=ranks, width=3)
            )
            for rank in ranks
        ]
        assert memories[0].read() == []
        memories[1].write(((3, 1), 2), of(7, 3))
        for memory in memories:
            (entry,) = memory.read()
            assert (entry.rank, entry.place, entry.value.tolist()) == (5, ((3, 1), 2), [7, 7, 7])
        memories[0].write(((3, 1), 1), of(8, 3))
        assert [entry.rank for entry in memories[1].read()] == [2, 5]


def test_a_register_that_went_with_its_node_is_still_in_the_store(tmp_path):
    """Registers in memory die with the node; the store does not, and says what the register held."""
    with Memory(tmp_path / "shm", tmp_path / "store", rank=0, mates=[0, 1], width=3) as memory:
        memory.write(((3, 1), 2), of(7, 3))
    with Memory(tmp_path / "new-shm", tmp_path / "store", rank=0, mates=[0, 1], width=3) as memory:
        assert memory.read() == []
        place, value = memory.store.register()
        assert (place, value.tolist()) == (((3, 1), 2), [7, 7, 7])
