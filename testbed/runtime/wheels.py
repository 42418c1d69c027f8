"""Wheels for a container's Python, fetched on the host by the host's pip with all its settings (indexes, proxies).

Not an installer: images/install-wheels.sh does that, inside the container, which needs no network for it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from testbed.errors import BringUpError, MachineError

IMAGE_PYTHON = "3.11"  # of Debian bookworm and of the registry image alike
FETCH_DEADLINE_S = 1500.0  # 250 MB on a slow line

# pip takes only the tags it is told, so the older ones that the newest includes must be listed too.
# bookworm has glibc 2.36; 2.28 is what current wheels are built for.
_GLIBC = ("manylinux_2_34", "manylinux_2_31", "manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17")
_OLD_GLIBC = ("manylinux2014", "manylinux_2_12", "manylinux2010", "manylinux_2_5", "manylinux1")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}  # Docker's name -> the wheels' name


def cache_folder() -> Path:
    """Ours below the user's cache folder (XDG base directory specification)."""
    below = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(below) / "testbed"


def wheel_options(architecture: str) -> list[str]:
    """pip's options that mean: binary wheels for the image's Python on `architecture` (Docker's name for it)."""
    machine = _MACHINES.get(architecture)
    if machine is None:
        raise MachineError(
            f"there are no wheels of torch and Open MPI for {architecture}",
            remedy=f"use a machine with one of {', '.join(_MACHINES)}",
        )
    older = _OLD_GLIBC if machine == "x86_64" else ("manylinux2014",)
    options = ["--only-binary=:all:", "--python-version", IMAGE_PYTHON, "--implementation", "cp"]
    options += ["--abi", "cp" + IMAGE_PYTHON.replace(".", "")]
    for tag in (*_GLIBC, *older):
        options += ["--platform", f"{tag}_{machine}"]
    return options


def folder_of(requirements: Sequence[str], architecture: str, insisted_index: str) -> Path:
    """Where such wheels are kept: a folder named after what was asked for."""
    asked = "\n".join([architecture, insisted_index, *requirements])
    return cache_folder() / "wheels" / hashlib.sha256(asked.encode()).hexdigest()[:12]


def fetch(requirements: Sequence[str], *, architecture: str, folder: Path, extra_index: Callable[[], str]) -> None:
    """Puts the wheels of `requirements`, of all that they need, and `requirements.txt` into `folder`.

    Once: a folder that is there is complete, because it appears all at once. `extra_index` answers with one more
    package index, or "".
    """
    if folder.is_dir():
        return
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    partial.mkdir(parents=True)
    listing = partial / "requirements.txt"
    listing.write_text("\n".join(requirements) + "\n")
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-input", "--disable-pip-version-check"]
    command += [*wheel_options(architecture), "--dest", str(partial), "--requirement", str(listing)]
    if index := extra_index():
        command += ["--extra-index-url", index]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=FETCH_DEADLINE_S, check=False
        )
        if done.returncode:
            raise BringUpError(
                "pip could not fetch the wheels for the image:\n" + last_lines(done.stderr),
                remedy="see that `pip download numpy` works here (network, proxy, index), then try again",
            )
        partial.rename(folder)
    except subprocess.TimeoutExpired as exc:
        raise BringUpError(
            f"pip had not fetched the wheels for the image after {FETCH_DEADLINE_S:.0f} s",
            remedy="try again; what pip has fetched already it keeps in its own cache",
        ) from exc
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def forget(keep: Collection[Path] = ()) -> None:
    """Removes every folder of wheels but those to keep."""
    kept = set(keep)
    for folder in (cache_folder() / "wheels").glob("*"):
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def last_lines(text: str, count: int = 15) -> str:
    """The end of a program's output, for an error message."""
    return "\n".join(f"  {line}" for line in text.strip().splitlines()[-count:])
