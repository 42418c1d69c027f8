"""The streams of a command, read from the engine's frames."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from testbed.errors import MachineError
from testbed.runtime.exec_stream import ExecStream


def frame(stream: int, data: bytes) -> bytes:
    """1 is stdout, 2 is stderr."""
    return struct.pack(">BxxxL", stream, len(data)) + data


@dataclass
class Line:
    ours: ExecStream
    theirs: socket.socket  # the engine's end


@pytest.fixture
def line() -> Iterator[Line]:
    ours, theirs = socket.socketpair()
    with theirs, ExecStream(ours, what="`cat` in box", timeout_s=0.05) as stream:
        yield Line(stream, theirs)


def test_stderr_is_kept_apart_from_stdout(line: Line) -> None:
    line.theirs.sendall(frame(1, b"one\ntw") + frame(2, b"oops\n") + frame(1, b"o\n"))
    assert line.ours.reader.readline() == b"one\n"
    assert line.ours.reader.readline() == b"two\n"
    assert line.ours.errors == "oops\n"


def test_an_empty_frame_is_not_the_end(line: Line) -> None:
    line.theirs.sendall(frame(1, b"") + frame(1, b"more"))
    line.theirs.shutdown(socket.SHUT_WR)
    assert line.ours.reader.read() == b"more"


def test_a_stream_that_ends_within_a_frame_gives_what_came(line: Line) -> None:
    line.theirs.sendall(frame(1, b"whole") + struct.pack(">BxxxL", 1, 10) + b"half")
    line.theirs.shutdown(socket.SHUT_WR)
    assert line.ours.reader.read() == b"wholehalf"


def test_a_command_that_says_nothing_is_named(line: Line) -> None:
    with pytest.raises(MachineError, match=r"`cat` in box said nothing for 0\.05 s"):
        line.ours.reader.readline()


def test_what_is_written_arrives_as_it_is_and_its_end_too(line: Line) -> None:
    line.ours.writer.write(b"request\n")
    line.ours.close_stdin()
    assert line.theirs.makefile("rb").read() == b"request\n"


def test_closing_twice_does_no_harm(line: Line) -> None:
    line.ours.close()
    line.ours.close()
