"""How long it takes to keep a vector: write + fdatasync against memory map + msync, and what the checksum costs.

.venv/bin/python tests/bench_store.py [FOLDER]       FOLDER lies on the volume in question; without it: /var/tmp

The ways are tried in turns, so that what else the machine does meets all of them alike. `rename` writes a new file with
the library's own writer, syncs it, renames it over the old one and syncs the folder: what the slots save is seen by it.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from testbed.channels.slots import Owner
from testbed.channels.store import Store
from testbed.core.blocks import Vector

SIZES = {2_410: "digits MLP", 1_000_000: "1 M", 10_000_000: "10 M"}
TURNS = 41
CHECKSUMS: Mapping[str, Callable[[memoryview], object]] = {
    "crc32": zlib.crc32,
    "adler32": zlib.adler32,
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "blake2b": lambda data: hashlib.blake2b(data).digest(),
    "md5": lambda data: hashlib.md5(data).digest(),
}


def main() -> None:
    place = sys.argv[1] if len(sys.argv) > 1 else "/var/tmp"
    with tempfile.TemporaryDirectory(dir=place) as folder:
        print(f"keeping a model, in {folder}: median (fastest) of {TURNS}, in ms")
        for width, name in SIZES.items():
            value = np.random.default_rng(0).standard_normal(width).astype(np.float32)
            row = [f"{way} {_shown(took_s)}" for way, took_s in _kept(Path(folder) / name, value).items()]
            print(f"  {name:>10}  {'   '.join(row)}")
    print(f"checksums of the 1 M model: median (fastest) of {TURNS}, in ms")
    data = memoryview(np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)).cast("B")
    for name, took_s in _in_turns({name: lambda of=of: of(data) for name, of in CHECKSUMS.items()}).items():  # type: ignore[misc]
        print(f"  {name:>10}  {_shown(took_s)}   {data.nbytes / min(took_s) / 1e9:.2f} GB/s")


def _kept(folder: Path, value: Vector) -> dict[str, list[float]]:
    with ExitStack() as opened:
        ways: dict[str, Callable[[], object]] = {}
        for backend in ("fsync", "msync"):
            store = opened.enter_context(
                Store(folder / backend, width=value.size, owner=Owner("bench", 0), backend=backend, messages=False)
            )
            ways[backend] = lambda store=store: store.keep_model(1, value)  # type: ignore[misc]
        ways["rename"] = lambda: _renamed(folder / "model.safetensors", value)
        return _in_turns(ways)


def _renamed(path: Path, value: Vector) -> None:
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        file.write(save({"x": value}))
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _in_turns(ways: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    took_s: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, way in ways.items():
            begun_s = time.perf_counter()
            way()
            took_s[name].append(time.perf_counter() - begun_s)
    return took_s


def _shown(took_s: list[float]) -> str:
    return f"{1000 * statistics.median(took_s):.2f} ({1000 * min(took_s):.2f})"


if __name__ == "__main__":
    main()
