"""A rank's socket lent to a helper with more rights, and what the helper does with it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.channels.datagram import DatagramChannel
from testbed.network import buffers


def channel(max_width: int = 1000) -> DatagramChannel:
    return DatagramChannel(
        rank=0, size=4, token=1, phases=["talk"], max_width=max_width, mtu=1500, phase_timeout_s=1.0, host="127.0.0.1"
    )


def test_what_a_helper_sets_on_the_lent_socket_is_set_on_the_ranks_own() -> None:
    name = f"testbed-test-{os.getpid()}"
    with channel() as mine, mine.lent(name):
        for _ in range(2):  # it may be called more than once
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
                caller.connect("\0" + name)
                _, descriptors, _, _ = socket.recv_fds(caller, 1, 1)
                with socket.socket(fileno=descriptors[0]) as lent:
                    lent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
        assert mine.receive_buffer_bytes == 20_000  # the kernel doubles what it is asked for


def test_after_the_context_nobody_lends() -> None:
    name = f"testbed-test-{os.getpid()}"
    with channel() as mine:
        with mine.lent(name):
            pass
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller, pytest.raises(ConnectionRefusedError):
            caller.connect("\0" + name)


@pytest.mark.root
def test_the_helper_goes_beyond_what_the_machine_allows_ranks() -> None:
    allowed = int(Path("/proc/sys/net/core/rmem_max").read_text())
    name = f"testbed-test-{os.getpid()}"
    with channel() as mine, mine.lent(name):
        argv = [sys.executable, "-", str(allowed + 4096), name]
        done = subprocess.run(argv, input=Path(buffers.__file__).read_bytes(), capture_output=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {name: 2 * (allowed + 4096)}
        assert mine.receive_buffer_bytes == 2 * (allowed + 4096)


def test_the_buffer_wanted_is_that_of_two_phases_of_the_longest_rows() -> None:
    """1000 elements are 3 chunks of 355, and 3 marks; 3 peers, 2 phases, 2304 bytes each."""
    with channel(max_width=1000) as mine:
        assert mine.burst_bytes == 2 * 3 * (3 + 3) * 2304
    with channel(max_width=10**9) as mine:
        assert mine.burst_bytes == 32 * 2**20  # no more than this
