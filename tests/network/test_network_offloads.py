"""Sender offloads, set the way a supervisor does it: the file itself on the standard input of a node's Python."""

import json
import subprocess
import sys

import pytest
from world import REPOSITORY

pytestmark = pytest.mark.root

SOURCE = (REPOSITORY / "testbed" / "network" / "offloads.py").read_text()


def run_in(namespace, *arguments):
    argv = ["ip", "netns", "exec", namespace, sys.executable, "-", *arguments]
    return subprocess.run(argv, input=SOURCE, capture_output=True, text=True)


def test_offloads_go_off_and_on_and_are_read_back(make_world):
    namespace = make_world(1).namespace(0)
    for word, held in (("off", False), ("off", False), ("on", True)):
        done = run_in(namespace, "eth1", word)
        assert json.loads(done.stdout) == {"interface": "eth1", "tso": held, "gso": held}
        assert done.returncode == 0


def test_an_interface_that_is_not_there_is_named(make_world):
    done = run_in(make_world(1).namespace(0), "eth7", "off")
    assert done.returncode == 3
    assert done.stderr == "eth7: cannot turn TSO and GSO off: No such device\n"
