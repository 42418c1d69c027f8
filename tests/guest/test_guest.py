"""The guest launcher: what a command in the guest sees, and that nothing is left. A boot takes some two seconds."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from guest.machine import ENOUGH_MAPS, KERNEL, MAX_MAP_COUNT

REPOSITORY = Path(__file__).parent.parent.parent
GUEST = [sys.executable, "-m", "tests.guest"]
PATIENCE_S = 60.0

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not KERNEL.exists(), reason="no user-mode-linux: `make test-netem` installs it"),
]


def guest(*words):
    return subprocess.run([*GUEST, *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S)


def until(condition, what):
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.05)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where the launcher makes its folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_output_and_exit_status_are_the_commands(temporary):
    done = guest("--", "sh", "-c", "echo here; echo there >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "here\n", "there\n")
    assert list(temporary.iterdir()) == []


def test_it_is_another_kernel_and_that_one_has_netem(temporary):
    done = guest("--", "sh", "-c", "uname -r; tc qdisc replace dev lo root netem delay 1ms")
    assert done.returncode == 0
    assert done.stdout.strip() != os.uname().release


def test_what_it_writes_stays_inside_but_for_the_named_folder(temporary, tmp_path_factory):
    inside, through = tmp_path_factory.mktemp("inside"), tmp_path_factory.mktemp("through")
    done = guest("--writable", str(through), "--", "sh", "-c", f"echo a >{inside}/file && echo b >{through}/file")
    assert done.returncode == 0
    assert not (inside / "file").exists()
    assert (through / "file").read_text() == "b\n"


def test_a_command_that_takes_too_long_is_killed(temporary):
    done = guest("--timeout", "3", "--", "sleep", "1000")
    assert done.returncode == 124
    assert "no end after 3 s" in done.stderr
    assert list(temporary.iterdir()) == []


def test_a_killed_launcher_leaves_neither_guest_nor_folder(temporary):
    launcher = subprocess.Popen([*GUEST, "--", "sleep", "1000"], cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    try:
        until(lambda: guests_in(temporary), "the guest to start")
    finally:
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
    until(lambda: not guests_in(temporary), "the guest to end")
    until(lambda: not list(temporary.iterdir()), "its folder to go")


def test_what_a_large_guest_raises_goes_back_with_the_last_of_them(temporary):
    before = MAX_MAP_COUNT.read_text()
    if int(before) >= ENOUGH_MAPS:
        pytest.skip("vm.max_map_count is high enough here: nothing is raised")
    launchers = [subprocess.Popen([*GUEST, "--large", "--", "sleep", "1000"], cwd=REPOSITORY) for _ in range(2)]
    try:
        until(lambda: len(guests_in(temporary)) >= 2, "both guests to start")
        assert int(MAX_MAP_COUNT.read_text()) == ENOUGH_MAPS
        launchers[0].kill()
        until(lambda: len(list(temporary.iterdir())) == 1, "the first one's folder to go")
        assert int(MAX_MAP_COUNT.read_text()) == ENOUGH_MAPS
    finally:
        for launcher in launchers:
            launcher.kill()
            launcher.wait()
    until(lambda: MAX_MAP_COUNT.read_text() == before, "the setting to be what it was")


def guests_in(folder):
    """Processes whose command line names the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if str(KERNEL).encode() in words and str(folder).encode() in words:
            found.append(process.name)
    return found
