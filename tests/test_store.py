"""The store and the memory of a rank: whatever was told is there again, whole, whenever its process is killed."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import select
import shutil
import signal
import struct
import subprocess
import threading
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st

from testbed.channels.later import Later
from testbed.channels.memory import Memory
from testbed.channels.slots import HEADER_BYTES, Owner, decoded, header, refusal
from testbed.channels.store import Store
from testbed.core.links import LinkState
from testbed.core.rounds import REMEMBERED
from testbed.errors import RankError
from testbed.plan import AlgorithmChoice, Network, NodeSpec, Plan, Run, Task
from testbed.plan.model import StoreChoice
from testbed.runfolder import Launch, Ready, RunFolder, write_json

OURS = Owner("00c0ffee", 3)
DURABLE = ("fsync", "msync")  # dax is msync over a map that only persistent memory grants: refused here, see below
WIDTH = 200_000  # 800 kB: two hundred pages to be killed over
KILLS = int(os.environ.get("TESTBED_KILLS", "100"))  # by each back end; TESTBED_KILLS=1000 for the long form
PATIENCE_S = 60.0
_MODEL, _MESSAGE, _REGISTER = range(3)
_WORD = struct.Struct("=II")  # which of the three, and the step


def of(number, width=WIDTH):
    return np.full(width, number, np.float32)


def opened(folder, *, width=3, owner=OURS, **more):
    return Store(folder, width=width, owner=owner, **more)


@pytest.fixture(params=DURABLE)
def backend(request):
    return request.param


# ---- what is kept


def test_an_empty_store_holds_nothing(tmp_path, backend):
    with opened(tmp_path / "s", backend=backend) as store:
        assert (store.models(), store.model(), store.messages(), store.register()) == ([], None, [], None)
        assert (store.told(0), list(store.torn), store.is_new) == (None, [], True)


def test_what_was_kept_is_there_in_the_next_life(tmp_path, backend):
    with opened(tmp_path / "s", backend=backend) as store:
        for step in range(5):
            store.keep_message((step, 0), of(step, 3))
        store.keep_register(((4, 1), 7), of(9, 3))
        store.keep_model(3, of(3, 3))
        store.keep_model(4, of(4, 3))
    with opened(tmp_path / "s", backend=backend) as store:
        assert not store.is_new
        assert [(step, x.tolist()) for step, x in store.models()] == [(3, [3] * 3), (4, [4] * 3)]
        assert store.model()[0] == 4
        assert [(round_, value.tolist()) for round_, value in store.messages()] == [
            ((3, 0), [3] * 3),
            ((4, 0), [4] * 3),
        ]
        place, value = store.register()
        assert (place, value.tolist()) == (((4, 1), 7), [9, 9, 9])


def test_what_was_told_last_belongs_to_the_step_that_is_not_done(tmp_path):
    with opened(tmp_path / "s") as store:
        store.keep_message((4, 0), of(1, 3))
        store.keep_register(((4, 1), 2), of(2, 3))
        told = store.told(4)
        assert (told.round, told.cluster_round, told.value.tolist()) == ((4, 1), 2, [2, 2, 2])
        store.keep_message((4, 1), of(3, 3))  # the round's message comes after its registers
        told = store.told(4)
        assert (told.round, told.cluster_round) == ((4, 1), 0)
        assert store.told(5) is None


def test_who_begins_again_at_an_older_model_keeps_no_later_one(tmp_path, backend):
    with opened(tmp_path / "s", backend=backend) as store:
        store.keep_model(10, of(10, 3))
        store.keep_model(20, of(20, 3))
        store.forget_models_after(10)
        assert [step for step, _ in store.models()] == [10]
        store.keep_model(20, of(21, 3))  # in place of what was forgotten
        assert [(step, x[0]) for step, x in store.models()] == [(10, 10), (20, 21)]


def test_in_memory_alone_nothing_outlasts_the_store(tmp_path):
    with opened(tmp_path / "s", backend="memory") as store:
        store.keep_model(1, of(1, 3))
        store.keep_message((1, 0), of(1, 3))
        assert store.model()[0] == 1
    with opened(tmp_path / "s", backend="memory") as store:
        assert (store.models(), store.messages()) == ([], [])
    assert not (tmp_path / "s").exists()


def test_a_store_for_models_alone_takes_no_messages(tmp_path):
    with opened(tmp_path / "s", messages=False) as store:
        assert (store.messages(), store.register()) == ([], None)
        with pytest.raises(RankError, match="tells no messages"):
            store.keep_message((0, 0), of(0, 3))
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["model-0.safetensors", "model-1.safetensors"]


def test_any_program_that_knows_safetensors_opens_a_slot(tmp_path, backend):
    with opened(tmp_path / "s", backend=backend) as store:
        store.keep_model(7, np.array([1.5, -2, 3], np.float32))
    with safetensors.safe_open(tmp_path / "s" / "model-0.safetensors", framework="numpy") as slot:
        assert list(slot.keys()) == ["x"]
        assert slot.get_tensor("x").tolist() == [1.5, -2, 3]
        said = slot.metadata()
    assert (said["run"], said["rank"], said["generation"], said["step"]) == ("00c0ffee", "3", "1", "7")
    assert len(said["checksum"]) == 8


def test_the_longest_header_fits():
    """Steps, rounds and generations as large as 64 bits, and a model of 2^40 parameters' worth of digits."""
    most = 2**63
    value = np.broadcast_to(np.float32(0), 10)
    head = header(Owner("f" * 8, 10**6), most, (most, most, most), np.ascontiguousarray(value))
    assert len(head) == HEADER_BYTES
    assert len(head.rstrip()) + 2 * len(str(2**42)) < HEADER_BYTES


def test_every_so_many_steps_and_the_first_after_a_skip():
    choice = StoreChoice(every=10)
    due = []
    kept = 0
    for step in (1, 9, 10, 11, 19, 20, 37, 38, 41):  # it skipped 21 to 36, and 39 to 40
        if choice.is_due(step, kept):
            kept = step
            due.append(step)
    assert due == [10, 20, 37, 41]


# ---- later


def test_what_is_kept_later_is_there_when_the_store_is_closed(tmp_path):
    with opened(tmp_path / "s", wait=False) as store:
        x = of(1, 3)
        for step in range(1, 50):
            x[:] = step  # the caller's own array: what was handed over is a copy
            store.keep_model(step, x)
    with opened(tmp_path / "s") as store:
        step, x = store.model()
        assert (step, x.tolist()) == (49, [49] * 3)


def test_of_models_that_come_faster_than_the_medium_the_newest_is_kept():
    begun, go_on, kept = threading.Event(), threading.Event(), []

    def slow(step, x):
        begun.set()
        assert go_on.wait(PATIENCE_S)
        kept.append(step)

    with Later(slow) as later:
        later.hand_over(1, of(1, 3))
        assert begun.wait(PATIENCE_S)  # the first is under way
        for step in (2, 3, 4):
            later.hand_over(step, of(step, 3))
        go_on.set()
    assert kept == [1, 4]


def test_what_went_wrong_later_is_said_all_the_same():
    def fails(step, x):
        raise refusal(Path("model-0"), OSError(errno.EIO, "Input/output error"))

    with pytest.raises(RankError, match="the medium failed"), Later(fails) as later:
        later.hand_over(1, of(1, 3))


# ---- torn slots


@pytest.mark.parametrize("kind", ["model", "register", "message"])
def test_one_torn_slot_is_made_good_by_the_others_and_named(tmp_path, kind):
    with opened(tmp_path / "s") as store:
        for step in range(1, 5):
            store.keep_model(step, of(step, 3))
            store.keep_message((step, 0), of(step, 3))
            store.keep_register(((step, 0), 1), of(step, 3))
    newest = max((tmp_path / "s").glob(f"{kind}-*"), key=lambda path: decoded(path.read_bytes()).generation)
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    with opened(tmp_path / "s") as store:
        assert list(store.torn) == [newest.name]
        held = {
            "model": [step for step, _ in store.models()],
            "message": [round_[0] for round_, _ in store.messages()],
            "register": [store.register()[0][0][0]],
        }
        whole = {"model": [3, 4], "message": [3, 4], "register": [4]}
        before = {"model": [3], "message": [2, 3], "register": [3]}  # messages: REMEMBERED of them, all the same
        assert held == {**whole, kind: before[kind]}
        store.keep_model(5, of(5, 3))
        store.keep_message((5, 0), of(5, 3))
        store.keep_register(((5, 0), 1), of(5, 3))
    with opened(tmp_path / "s") as store:  # what is written next goes into the torn slot
        assert (list(store.torn), store.model()[0], store.messages()[-1][0][0]) == ([], 5, 5)


def test_both_slots_torn_is_an_error_and_no_fresh_start(tmp_path, backend):
    with opened(tmp_path / "s", backend=backend) as store:
        store.keep_model(1, of(1, 3))
    for slot in (0, 1):
        path = tmp_path / "s" / f"model-{slot}.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(RankError, match=r"2 of 2 slots are damaged.*model-0.*model-1") as refused:
        opened(tmp_path / "s", backend=backend)
    assert "begin the run anew" in refused.value.remedy


def test_a_slot_that_is_gone_is_an_error(tmp_path):
    opened(tmp_path / "s").close()
    (tmp_path / "s" / "message-1.safetensors").unlink()
    with pytest.raises(RankError, match=r"message-1\.safetensors: it is not there"):
        opened(tmp_path / "s")


_BEFORE = np.arange(300, dtype=np.float32)
_AFTER = _BEFORE * -1.5


@given(
    st.lists(st.tuples(st.integers(0, 1711), st.integers(1, 600)), max_size=6),
    st.sampled_from(["before", "nothing", "noise"]),
    st.integers(0, 1712),
)
def test_a_slot_torn_in_whatever_way_is_torn_or_whole(holes, beneath, length):
    """A new value with holes through which the old one, zeros or anything is seen; or one that stops short."""
    new = header(OURS, 9, (9, 0, 0), _AFTER) + _AFTER.tobytes()
    old = {
        "before": header(OURS, 7, (7, 0, 0), _BEFORE) + _BEFORE.tobytes(),
        "nothing": bytes(len(new)),
        "noise": np.random.default_rng(0).bytes(len(new)),
    }[beneath]
    assert len(new) == 1712
    torn = bytearray(new)
    for first, size in holes:
        torn[first : first + size] = old[first : first + size]
    torn = bytes(torn[: length or len(torn)])
    kept = decoded(torn)
    if kept is None:
        assert torn not in (old, new) or beneath != "before"
    else:
        assert torn == (new if kept.generation == 9 else old)
        assert kept.value.tolist() == (_AFTER if kept.generation == 9 else _BEFORE).tolist()


# ---- somebody else's, and volumes that will not have it


def test_the_store_of_another_run_rank_or_model_is_refused(tmp_path):
    opened(tmp_path / "s").close()
    with pytest.raises(RankError, match="rank 3 of run 00c0ffee, not of rank 3 of run 0badcafe") as refused:
        opened(tmp_path / "s", owner=Owner("0badcafe", 3))
    assert "folder of its own" in refused.value.remedy
    with pytest.raises(RankError, match="not of rank 4"):
        opened(tmp_path / "s", owner=Owner("00c0ffee", 4))
    with pytest.raises(RankError, match="vectors of 3 elements, not of 4"):
        opened(tmp_path / "s", width=4)


def test_persistent_memory_is_not_imitated(tmp_path):
    """Whoever asks for `dax` on an ordinary file system is told, not given a page cache."""
    with pytest.raises(RankError, match="no persistent memory") as refused:
        opened(tmp_path / "s", backend="dax")
    assert "`backend: msync`" in refused.value.remedy


def test_a_rank_that_comes_back_does_not_begin_anew_where_its_store_is_gone(tmp_path):
    rank = pytest.importorskip("testbed.rank")
    network = Network(LinkState.uniform(2))
    task = Task(data=None, model="quadratic", parameters={"dimension": 3})
    plan = Plan("gone", (NodeSpec(), NodeSpec()), network, AlgorithmChoice("rps", {"lr": 0.1}), task, Run())
    folder = RunFolder(tmp_path)
    write_json(folder.plan, plan.to_json())
    Launch(("127.0.0.1", "127.0.0.1"), 7, None, registers=(str(tmp_path), str(tmp_path))).write(folder.launch)
    Ready(1, os.getpid()).write(folder.ready(1))  # its former life had opened its store before it said that
    with pytest.raises(RankError, match=r"rank 1 comes back, and the store of its former life, .*, is gone"):
        rank.run_rank(folder, 1, life=1)


@pytest.fixture
def volume(tmp_path):
    """A file system of 1 MiB of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root: sudo .venv/bin/python -m pytest tests/test_store.py")
    folder = tmp_path / "volume"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.root
def test_a_full_volume_is_said_when_the_store_is_opened(volume, backend):
    """7 slots of 200 kB do not fit into 1 MiB; and nothing is left of the attempt."""
    with pytest.raises(RankError, match="the volume is full") as refused:
        opened(volume / "s", width=50_000, backend=backend)
    assert "make room" in refused.value.remedy
    assert list(volume.iterdir()) == []


@pytest.mark.root
def test_a_store_that_is_open_needs_no_more_room(volume, backend):
    with opened(volume / "s", width=20_000, backend=backend) as store:  # 7 slots of 80 kB
        with (volume / "rest").open("wb", buffering=0) as rest, contextlib.suppress(OSError):
            while rest.write(bytes(4096)):
                pass
        assert os.statvfs(volume).f_bavail == 0
        for step in range(1, 10):
            store.keep_model(step, of(step, 20_000))
            store.keep_message((step, 0), of(step, 20_000))
    with opened(volume / "s", width=20_000, backend=backend) as store:
        assert (store.model()[0], store.messages()[-1][0]) == (9, (9, 0))


@pytest.mark.root
def test_a_read_only_volume_is_said_for_a_new_store_and_for_an_old_one(volume, backend):
    opened(volume / "s", backend=backend).close()
    subprocess.run(["mount", "-o", "remount,ro", volume], check=True)
    for folder in (volume / "s", volume / "new"):
        with pytest.raises(RankError, match="the volume is read-only") as refused:
            opened(folder, backend=backend)
        assert "--runs" in refused.value.remedy


# ---- kills


def keep_for_ever(folder, backend, words):
    """Goes on where the store is, as a rank does, and says on the pipe `words` what has been kept."""
    with opened(folder, width=WIDTH, backend=backend) as store:
        done, *told = steps_held(store)
        for step in count(done + 1):
            value = of(step)
            if step > told[0]:
                store.keep_message((step, 0), value)
                os.write(words, _WORD.pack(_MESSAGE, step))
            if step > told[1]:
                store.keep_register(((step, 0), 1), value)
                os.write(words, _WORD.pack(_REGISTER, step))
            store.keep_model(step, value)
            os.write(words, _WORD.pack(_MODEL, step))


def steps_held(store):
    """Of the model, the newest message, the register; 0: nothing yet."""
    model, messages, register = store.model(), store.messages(), store.register()
    return [model[0] if model else 0, messages[-1][0][0] if messages else 0, register[0][0][0] if register else 0]


class Writer:
    """A process that keeps things until it is killed, and what it has said."""

    def __init__(self, folder, backend):
        self._reader, words = os.pipe()
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=keep_for_ever, args=(folder, backend, words))
        self._process.start()
        os.close(words)
        self.said = []

    def hear(self, words):
        """At least so many."""
        for _ in range(words):
            ready, _, _ = select.select([self._reader], [], [], PATIENCE_S)
            assert ready, f"the writer said nothing for {PATIENCE_S:g} s"
            self._take()

    def hear_for(self, instant_s):
        """Whatever it says, until a moment that has nothing to do with what it is doing."""
        threading.Event().wait(instant_s)

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


@pytest.mark.timeout(3600)
def test_a_killed_writer_leaves_all_it_told_and_nothing_unreadable(tmp_path, backend):
    """The writer says what it kept after the store has it, as a rank sends after it has stored. Of what it had not said
    yet, the one write that was under way may be there or not."""
    dice = np.random.default_rng(0)
    folder = tmp_path / "s"
    newest = [0, 0, 0]  # step of each kind that somebody was told, or that was there after the last kill
    torn = 0
    for _ in range(KILLS):
        writer = Writer(folder, backend)
        try:
            writer.hear(int(dice.integers(0, 5)))
            writer.hear_for(dice.uniform(0, 0.01))  # some ten values' time, and so at any instant of any of them
            writer.kill()
        finally:
            writer.close()
        for kind, step in writer.said:
            assert step > newest[kind], "it went on where it was, and told nothing twice"
            newest[kind] = step
        with opened(folder, width=WIDTH, backend=backend) as store:
            torn += len(store.torn)
            messages, models, register = store.messages(), store.models(), store.register()
            told, held = store.told(newest[_MODEL]), steps_held(store)
        for kind in (_MODEL, _MESSAGE, _REGISTER):
            assert held[kind] >= newest[kind], "nothing that was told, or was ever there, is lost"
            assert held[kind] <= newest[kind] + 1, "but for the one write that was under way"
        assert len(messages) == min(REMEMBERED, held[_MESSAGE]), "the one before the newest, too"
        for (step, _), value in [*messages, *(((step, 0), x) for step, x in models)]:
            assert (value == step).all()
        if register:
            assert (register[1] == register[0][0][0]).all()
        if held[_MESSAGE]:
            assert told.round[0] >= newest[_MESSAGE], "which is what a next life would say again"
        newest = held
    assert min(newest) > KILLS // 20
    print(f"{backend}: {KILLS} kills, {newest[_MODEL]} steps, {torn} torn slots")


# ---- memory


def test_the_ranks_of_a_cluster_read_each_others_registers(tmp_path):
    ranks = (2, 5)
    with contextlib.ExitStack() as stack:
        memories = []
        for rank in ranks:
            store = stack.enter_context(opened(tmp_path / f"store-{rank}", owner=Owner("00c0ffee", rank)))
            memory = Memory(tmp_path / "registers", store, rank=rank, mates=ranks, width=3)
            memories.append(stack.enter_context(memory))
        assert memories[0].read() == []
        memories[1].write(((3, 1), 2), of(7, 3))
        for memory in memories:
            (entry,) = memory.read()
            assert (entry.rank, entry.place, entry.value.tolist()) == (5, ((3, 1), 2), [7, 7, 7])
        memories[0].write(((3, 1), 1), of(8, 3))
        assert [entry.rank for entry in memories[1].read()] == [2, 5]


def test_a_register_that_went_with_its_node_is_still_in_the_store(tmp_path):
    """Registers in memory die with the node; the store does not, and says what the register held."""
    with opened(tmp_path / "s") as store, Memory(tmp_path / "shm", store, rank=0, mates=[0, 1], width=3) as memory:
        memory.write(((3, 1), 2), of(7, 3))
    shutil.rmtree(tmp_path / "shm")
    with opened(tmp_path / "s") as store, Memory(tmp_path / "shm", store, rank=0, mates=[0, 1], width=3) as memory:
        assert memory.read() == []
        place, value = store.register()
        assert (place, value.tolist()) == (((3, 1), 2), [7, 7, 7])
