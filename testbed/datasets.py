"""Data sets, decoded once on the host into arrays that every container maps read-only. The door to scikit-learn.

A prepared folder holds train_x.npy [rows, features] float32 in 0..1, train_y.npy [rows] int64, test_x.npy, test_y.npy
and checksums.json. Ranks read it with learning/data.py, which needs numpy alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.core.tasks import DATASETS
from testbed.errors import MachineError

_Arrays = Mapping[str, NDArray[Any]]

# Which rows are the test set is part of the data set, not of the run: results stay comparable between seeds.
_SPLIT_SEED = 20190520
_LAYOUT = 1  # to be raised when what a folder holds changes

_CHECKSUMS = "checksums.json"
_STALE_S = 3600.0  # decoding takes a second: a temporary folder so old belongs to nobody


def prepare(name: str) -> Path:
    """The folder of data set `name`, made if it is not there or not whole. Safe to call twice, and at the same time.

    Raises MachineError where scikit-learn is missing or the cache cannot be written.
    """
    if name not in DATASETS:
        raise ValueError(f"there is no data set {name!r}; there are {', '.join(DATASETS)}")
    folder = _folder(name)
    if is_whole(folder):
        return folder
    arrays = _decode_digits()
    try:
        _put(folder, arrays)
    except OSError as exc:
        raise MachineError(
            f"cannot keep data set {name} in {folder}: {exc}",
            remedy="make the folder writable, or set XDG_CACHE_HOME to one that is",
        ) from exc
    return folder


def is_whole(folder: Path) -> bool:
    """Whether every array is there, with the checksum that it had when it was made."""
    try:
        expected: dict[str, str] = json.loads((folder / _CHECKSUMS).read_text())
        return all(_checksum(folder / file) == checksum for file, checksum in expected.items())
    except (OSError, ValueError):
        return False


def _folder(name: str) -> Path:
    recipe = f"{name} layout={_LAYOUT} split={_SPLIT_SEED} {DATASETS[name]}"
    return _cache() / "testbed" / "data" / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def _cache() -> Path:
    asked = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return asked if asked.is_absolute() else Path.home() / ".cache"  # the XDG specification ignores relative paths


def _decode_digits() -> _Arrays:
    """Scikit-learn's own copy of the digits; each class has the same share of the test set."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as exc:
        raise MachineError(
            f"data set digits comes with scikit-learn, which cannot be imported: {exc}",
            remedy="pip install 'testbed[host]'",
        ) from exc
    spec = DATASETS["digits"]
    pixels, labels = load_digits(return_X_y=True)
    x = (pixels / 16.0).astype(np.float32)  # 17 shades of grey, 0..16
    y = labels.astype(np.int64)
    train_x, test_x, train_y, test_y = train_test_split(
        x, y, train_size=spec.train_rows, test_size=spec.test_rows, stratify=y, random_state=_SPLIT_SEED
    )
    return {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}


def _put(folder: Path, arrays: _Arrays) -> None:
    """All or nothing: the folder gets its name when everything in it is on the disc."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        checksums = {}
        for name, array in arrays.items():
            file = temporary / f"{name}.npy"
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)
            checksums[file.name] = _checksum(file)
        (temporary / _CHECKSUMS).write_text(json.dumps(checksums, indent=1) + "\n")
        for file in temporary.iterdir():
            file.chmod(0o444)
            _sync(file)
        temporary.chmod(0o755)  # mkdtemp's 0700 would shut out a container's user
        _rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename(temporary: Path, folder: Path) -> None:
    """Give `temporary` its name, in the place of what is broken, unless somebody else was quicker."""
    broken = temporary.with_name(f"{temporary.name}-broken")
    try:
        if folder.exists() and not is_whole(folder):
            folder.rename(broken)
        temporary.rename(folder)
    except OSError:
        if not is_whole(folder):
            raise
    finally:
        shutil.rmtree(broken, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what a killed `prepare` left behind."""
    for left in folder.parent.glob(f".{folder.name}-*"):
        if time.time() - left.stat().st_mtime > _STALE_S:
            shutil.rmtree(left, ignore_errors=True)


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _checksum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
