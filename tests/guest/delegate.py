"""Tests that need netem, where this machine's kernel has none: run in a guest, and reported as if they had run here.

A pytest plugin with two ends. Here it hands the names of the tests marked `netem` to a pytest in the guest, and reports
of each what that one says of it: passed, failed with its traceback, or skipped. In the guest it writes every report
down. Where the kernel has netem, none of this happens.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from guest import engine, machine

REPORTS = "TESTBED_GUEST_REPORTS"  # in the guest: the file that reports are written to
DEADLINE_S = 1500.0  # for all tests in the guest together
POLL_S = 0.05
WHY_NOT = pytest.StashKey[str]()
LAST_LINES = 60  # of the guest's output, where it ended before its time


class Reporter:
    """The end in the guest."""

    def __init__(self, config: pytest.Config, file: str) -> None:
        self._config = config
        self._file = Path(file).open("a", buffering=1)  # noqa: SIM115  # for as long as the process

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._file.write(json.dumps(data) + "\n")


class Delegate:
    """The end on this machine. The guest starts with the first of its tests, and ends with the session."""

    def __init__(self, config: pytest.Config, items: Sequence[pytest.Item]) -> None:
        self._config = config
        self._items = {item.nodeid: item for item in items}
        self._reports: dict[str, list[pytest.TestReport]] = {nodeid: [] for nodeid in self._items}
        self._process: subprocess.Popen[bytes] | None = None
        for item in items:
            item.add_marker(pytest.mark.timeout(0))  # the guest's pytest heeds their own; here they wait for each other

    def pytest_report_collectionfinish(self) -> str:
        return f"{len(self._items)} of them run in a guest kernel, because this machine's own has no sch_netem"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if item.nodeid not in self._items:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._wait(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        if self._process:
            self._process.terminate()  # ends the guest too; nothing, where all is done
            self._process.wait()
            self._out.close()
            self._lines.close()
            shutil.rmtree(self._folder)

    def _start(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="testbed-netem-"))
        reports = self._folder / "reports"
        reports.touch()
        self._lines = reports.open()
        self._unfinished = ""
        self._out = (self._folder / "output").open("w+b")
        docker = any(item.get_closest_marker("docker") for item in self._items.values())
        self._process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "TERM"),
                *(sys.executable, "-m", "tests.guest", *(["--docker", "--large"] if docker else [])),
                *("--timeout", f"{DEADLINE_S:g}", "--writable", self._folder, "--env", REPORTS),
                *("--env", "TESTBED_REQUIRE", "--"),
                *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *self._items),
            ],
            cwd=self._config.rootpath,
            env={**os.environ, REPORTS: str(reports)},
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is pytest's; we end the guest
        )

    def _wait(self, item: pytest.Item) -> list[pytest.TestReport]:
        """What the guest says of this test, once it has said all."""
        if not self._process:
            self._start()
        assert self._process
        found = self._reports[item.nodeid]
        while not found or found[-1].when != "teardown":
            ended = self._process.poll() is not None  # asked first: what it wrote before is read in any case
            if not self._read() and ended:
                return [*found, self._lost(item)]
            time.sleep(POLL_S)
        return found

    def _read(self) -> bool:
        """Whether there was anything new."""
        new = self._lines.read()
        *lines, self._unfinished = (self._unfinished + new).split("\n")
        for line in lines:
            data: dict[str, Any] = json.loads(line)
            if isinstance(data["longrepr"], list):
                data["longrepr"] = tuple(data["longrepr"])  # of a skip: (file, line, reason), which JSON made a list
            report = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
            self._reports[report.nodeid].append(report)
        return bool(new)

    def _lost(self, item: pytest.Item) -> pytest.TestReport:
        assert self._process
        self._out.seek(0)
        last = self._out.read().decode(errors="replace").splitlines()[-LAST_LINES:]
        message = f"the guest ended with status {self._process.returncode} before this test; the end of its output:"
        return pytest.TestReport(
            nodeid=item.nodeid,
            location=item.location,
            keywords={},
            outcome="failed",
            longrepr="\n".join([message, *last]),
            when="call",
        )


def set_up(config: pytest.Config) -> None:
    """In pytest_configure."""
    if file := os.environ.get(REPORTS):
        config.pluginmanager.register(Reporter(config, file))


def delegate(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In pytest_collection_modifyitems, on a kernel without netem: sees to those of `items` that need it.

    They come last, when nothing else runs, for many of them measure; those with Docker last of all, for they take long.
    What cannot run in a guest either has its reason in `item.stash[WHY_NOT]`.
    """
    plain = [item for item in items if _needs(item, "netem") and not _needs(item, "docker")]
    with_docker = [item for item in items if _needs(item, "netem") and _needs(item, "docker")]
    items[:] = [item for item in items if not _needs(item, "netem")] + plain + with_docker
    able: list[pytest.Item] = []
    for group, check in ((plain, machine.check), (with_docker, engine.check)):
        if why_not := _why_not(config, check):
            for item in group:
                item.stash[WHY_NOT] = f"this kernel has no sch_netem, and there can be no guest kernel: {why_not}"
        else:
            able += group
    if able:
        config.pluginmanager.register(Delegate(config, able))


def _needs(item: pytest.Item, need: str) -> bool:
    return item.get_closest_marker(need) is not None


def _why_not(config: pytest.Config, check: Callable[[], None]) -> str | None:
    if hasattr(config, "workerinput"):
        return "those tests share one guest: run them without -n"
    try:
        check()
    except machine.GuestError as error:
        return str(error)
    return None
