"""What a test needs of the machine, and what happens where it is missing.

A test that cannot run here is skipped aloud, with the command that runs it. Where TESTBED_REQUIRE names its need (as
CI does: TESTBED_REQUIRE=docker,mpi,netem,root,browser), missing it is a failure. Tests that need netem run in a guest
kernel where this machine's own has none (guest/delegate.py).
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browser import chromium
from guest import delegate

REPOSITORY = Path(__file__).parent.parent


@functools.cache
def _missing(need: str) -> str | None:
    """Why `need` is not met here, with the remedy; None if it is."""
    if need == "docker":
        try:
            import docker

            client = docker.from_env(timeout=10)
            try:
                client.ping()
            finally:
                client.close()
        except Exception as error:
            return f"no Docker engine answers ({error}): `make test` starts one"
    elif need == "root" and (os.geteuid() != 0 or not _has_programs("ip", "tc", "nft")):
        return "needs root, iproute2 and nftables, for network namespaces: `sudo make test`"
    elif need == "mpi" and not (Path(sys.executable).parent / "mpirun").exists() and not shutil.which("mpirun"):
        return "no mpirun: `make test` installs it"
    elif need == "netem" and not _has_netem():
        return "this kernel has no sch_netem: `make test-netem` boots one that has"
    elif need == "browser" and not chromium():
        return "no Chromium to open pages with: `make test` installs it"
    return None


def _has_programs(*names: str) -> bool:
    return all(shutil.which(name) for name in names)


@functools.cache
def _has_netem() -> bool:
    if os.geteuid() != 0 or not _has_programs("ip", "tc"):
        return False
    name = f"tbprobe{os.getpid()}"[:15]
    if subprocess.run(["ip", "link", "add", name, "type", "veth"], capture_output=True).returncode:
        return False
    try:
        return not subprocess.run(["tc", "qdisc", "add", "dev", name, "root", "netem"], capture_output=True).returncode
    finally:
        subprocess.run(["ip", "link", "del", name], capture_output=True)


def pytest_configure(config: pytest.Config) -> None:
    delegate.set_up(config)


@pytest.hookimpl(trylast=True)  # when it is settled which tests run
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if any(item.get_closest_marker("netem") for item in items) and not _has_netem():
        delegate.delegate(config, items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    required = set(os.environ.get("TESTBED_REQUIRE", "").split(","))
    for need in ("docker", "root", "mpi", "netem", "browser"):
        if item.get_closest_marker(need) and (why := _missing(need)):
            why = item.stash.get(delegate.WHY_NOT, why)
            if need in required:
                pytest.fail(why, pytrace=False)
            pytest.skip(why)


@pytest.fixture
def repository() -> Path:
    return REPOSITORY
