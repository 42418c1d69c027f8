"""Tests that run in the guest are reported as if they ran here: shown on a small test file, on whatever kernel."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from guest.machine import KERNEL

REPOSITORY = Path(__file__).parent.parent.parent
PATIENCE_S = 120.0

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not KERNEL.exists(), reason="no user-mode-linux: `make test-netem` installs it"),
]

CONFTEST = """
import sys
sys.path += [{repository!r}, {tests!r}]
from guest import delegate

def pytest_configure(config):
    config.addinivalue_line("markers", "netem: runs in the guest")
    delegate.set_up(config)

def pytest_collection_modifyitems(config, items):
    import os
    if os.uname().release == {host!r}:
        delegate.delegate(config, items)
"""
TESTS = """
import os, pytest

@pytest.mark.netem
@pytest.mark.parametrize("text", ["plain", "with 'quotes' $and blanks"])
def test_there(text):
    assert os.uname().release != {host!r}

@pytest.mark.netem
def test_that_fails_there():
    print("said before")
    assert 1 == 2

@pytest.mark.netem
def test_that_is_skipped_there():
    pytest.skip("no wind")

def test_here():
    assert os.uname().release == {host!r}

@pytest.mark.netem
def test_that_ends_the_guests_pytest():
    os._exit(9)

@pytest.mark.netem
def test_that_nobody_comes_to():
    pass
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder, names = tmp_path_factory.mktemp("project"), {"host": os.uname().release}
    names |= {"repository": str(REPOSITORY), "tests": str(REPOSITORY / "tests")}
    (folder / "conftest.py").write_text(CONFTEST.format(**names))
    (folder / "test_small.py").write_text(TESTS.format(**names))
    (folder / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "-rs"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    ).stdout


def test_each_test_is_what_it_was_in_the_guest_and_all_are_in_one_summary(session):
    assert "6 of them run in a guest kernel" in session
    found = re.findall(r"^test_small.py::(\S.*) (PASSED|FAILED|SKIPPED)", session, re.MULTILINE)
    assert found == [
        ("test_here", "PASSED"),  # the guest's come last
        ("test_there[plain]", "PASSED"),
        ("test_there[with 'quotes' $and blanks]", "PASSED"),
        ("test_that_fails_there", "FAILED"),
        ("test_that_is_skipped_there", "SKIPPED"),
        ("test_that_ends_the_guests_pytest", "FAILED"),
        ("test_that_nobody_comes_to", "FAILED"),
    ]
    assert " 3 failed, 3 passed, 1 skipped in " in session.splitlines()[-1]


def test_a_failure_has_its_traceback_and_its_output(session):
    assert re.search(r"assert 1 == 2\n(.*\n)*.*Captured stdout call.*\nsaid before\n", session)


def test_where_the_guest_ends_too_soon_its_status_is_told(session):
    assert session.count("the guest ended with status 9 before this test") == 2
