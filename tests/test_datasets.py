import os
import stat
import sys

import numpy as np
import pytest

from testbed.core.tasks import DATASETS
from testbed.datasets import prepare
from testbed.errors import MachineError
from testbed.learning.data import load


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def arrays_in(folder):
    return {file.stem: np.load(file) for file in folder.glob("*.npy")}


def test_digits_are_split_into_1437_rows_to_train_on_and_360_to_test_on(cache):
    folder = prepare("digits")
    arrays = arrays_in(folder)
    assert folder.is_relative_to(cache / "testbed" / "data")
    shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    assert shapes == {
        "train_x": ((1437, 64), np.float32),
        "train_y": ((1437,), np.int64),
        "test_x": ((360, 64), np.float32),
        "test_y": ((360,), np.int64),
    }
    for part in ("train_x", "test_x"):
        assert arrays[part].min() == 0.0
        assert arrays[part].max() == 1.0
    # Stratified: each class has its share of the test set, 360/1797, up to one row.
    train, test = np.bincount(arrays["train_y"]), np.bincount(arrays["test_y"])
    assert len(test) == DATASETS["digits"].classes
    assert np.all(np.abs(test - (train + test) * 360 / 1797) < 1)


def test_preparing_twice_leaves_what_is_there_and_needs_no_scikit_learn(cache, monkeypatch):
    folder = prepare("digits")
    before = {(file.name, file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.iterdir()}
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert prepare("digits") == folder
    assert {(file.name, file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.iterdir()} == before


def test_the_arrays_are_the_same_on_every_machine(cache, monkeypatch):
    first = arrays_in(prepare("digits"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "another"))
    second = arrays_in(prepare("digits"))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_damaged_array_is_noticed_and_made_again(cache):
    folder = prepare("digits")
    whole = arrays_in(folder)
    damaged = folder / "train_x.npy"
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-4])
    assert prepare("digits") == folder
    assert np.array_equal(np.load(damaged), whole["train_x"])
    assert list(folder.parent.iterdir()) == [folder]  # and nothing beside it


def test_a_missing_array_is_made_again(cache):
    folder = prepare("digits")
    (folder / "test_y.npy").unlink()
    assert (prepare("digits") / "test_y.npy").exists()


def test_everyone_may_read_the_folder_and_its_files(cache):
    previous = os.umask(0o077)
    try:
        folder = prepare("digits")
    finally:
        os.umask(previous)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o444}


def test_what_a_killed_preparation_left_is_swept_once_it_is_old(cache):
    folder = prepare("digits")
    old, young = (folder.parent / f".{folder.name}-{name}" for name in ("old", "young"))
    for left in (old, young):
        left.mkdir()
    os.utime(old, (0, 0))
    for file in folder.iterdir():
        file.unlink()
    prepare("digits")
    assert not old.exists()
    assert young.exists()


def test_without_scikit_learn_the_error_names_it_and_the_remedy(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # makes the import fail, as if it were not installed
    with pytest.raises(MachineError, match="scikit-learn") as caught:
        prepare("digits")
    assert "pip install" in caught.value.remedy


def test_a_cache_that_cannot_be_written_is_the_machines_fault(cache):
    (cache / "testbed").write_text("a file where a folder should be")
    with pytest.raises(MachineError, match="cannot keep data set digits") as caught:
        prepare("digits")
    assert "XDG_CACHE_HOME" in caught.value.remedy


def test_an_unknown_data_set_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="there are digits"):
        prepare("digitz")


def test_a_rank_maps_the_arrays_without_being_able_to_change_them(cache):
    arrays = load("digits", prepare("digits"))
    assert not arrays.train_x.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        arrays.train_y[0] = 3


def test_a_folder_that_is_not_there_is_answered_with_how_to_make_it(tmp_path):
    with pytest.raises(MachineError, match="cannot read data set digits") as caught:
        load("digits", tmp_path / "nowhere")
    assert "prepare" in caught.value.remedy


def test_arrays_of_another_shape_are_refused(tmp_path):
    for part in ("train_x", "train_y", "test_x", "test_y"):
        np.save(tmp_path / f"{part}.npy", np.zeros(3))
    with pytest.raises(MachineError, match="are not data set digits"):
        load("digits", tmp_path)
