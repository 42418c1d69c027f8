"""The three streams of one command inside a container, over the one socket that the Docker engine gives for them.

The engine sends what the command writes as frames (a head of 8 bytes: 1 for stdout or 2 for stderr, three zeros, the
length), and hands to its stdin what we send as it is. When this process dies the socket closes, and the command reads
the end of its input: whoever runs a helper through it need not fear to leave it behind.

Not through docker-py, which reads the answer's head through a buffer and then the frames from below that buffer: on a
busy machine the first frames have come by then, are in the buffer, and are lost.
"""

from __future__ import annotations

import contextlib
import io
import json
import socket
import struct
from types import TracebackType
from typing import BinaryIO

from testbed.errors import BringUpError, MachineError

_HEAD = struct.Struct(">BxxxL")
_STDOUT, _STDERR = 1, 2
_ERRORS_KEPT_BYTES = 64 * 1024


class ExecStream:
    """`reader` and `writer` are binary files of the command's stdout and stdin; what it says on stderr is in `errors`.

    A read that waits longer than `timeout_s` for the command to say anything raises a MachineError that says so; None
    is for who has a thread that only listens, and keeps deadlines elsewhere. `close` ends such a thread's read.
    """

    def __init__(self, connection: socket.socket, *, what: str, timeout_s: float | None) -> None:
        connection.settimeout(timeout_s)
        self._socket = connection
        self._frames = _Frames(connection, what=what, timeout_s=timeout_s)
        self.reader: BinaryIO = io.BufferedReader(self._frames)
        self.writer: BinaryIO = connection.makefile("wb")

    @property
    def errors(self) -> str:
        """The last of what came on stderr, as far as reading has got."""
        return self._frames.errors.decode(errors="replace")

    def close_stdin(self) -> None:
        """The command reads the end of its input; what it still has to say can be read."""
        self.writer.close()
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what was not flushed may find the other side gone
            self.writer.close()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # first, or closing would wait for a read in another thread
        self.reader.close()
        self._socket.close()

    def __enter__(self) -> ExecStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class _Frames(io.RawIOBase):
    """What comes on stdout; frames of stderr are put aside on the way."""

    def __init__(self, connection: socket.socket, *, what: str, timeout_s: float | None) -> None:
        self._socket = connection
        self._what = what
        self._timeout_s = timeout_s
        self._left = 0  # bytes of the frame of stdout that is being read
        self.errors = bytearray()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            while self._left == 0:
                head = self._receive(_HEAD.size)
                if len(head) < _HEAD.size:
                    return 0
                stream, length = _HEAD.unpack(head)
                if stream == _STDOUT:
                    self._left = length
                else:
                    self.errors += self._receive(length)
                    del self.errors[:-_ERRORS_KEPT_BYTES]
            count = self._socket.recv_into(buffer, min(len(buffer), self._left))
        except TimeoutError as exc:
            raise MachineError(f"{self._what} said nothing for {self._timeout_s:g} s") from exc
        except ConnectionResetError:  # the engine, or the container, has gone: nothing more will come
            return 0
        self._left -= count
        return count

    def _receive(self, count: int) -> bytes:
        """Exactly `count` bytes; fewer only where the stream ends."""
        data = bytearray()
        while len(data) < count and (piece := self._socket.recv(count - len(data))):
            data += piece
        return bytes(data)


def open_exec(
    socket_path: str, *, api_version: str, exec_id: str, what: str, start_timeout_s: float, timeout_s: float | None
) -> ExecStream:
    """Start the command that the engine knows as `exec_id`, and turn the connection into its streams."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(start_timeout_s)
        connection.connect(socket_path)
        body = json.dumps({"Detach": False, "Tty": False})
        connection.sendall(
            f"POST /v{api_version}/exec/{exec_id}/start HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
            f"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        head = bytearray()
        while not head.endswith(b"\r\n\r\n"):  # a byte at a time, so that no frame is taken for part of the head
            byte = connection.recv(1)
            if not byte:
                raise BringUpError(f"{what}: the Docker engine closed the connection")
            head += byte
        status = head.split(b"\r\n", 1)[0].decode(errors="replace")
        if status.split()[1] not in ("101", "200"):
            raise BringUpError(f"{what}: {connection.recv(4096).decode(errors='replace').strip() or status}")
        return ExecStream(connection, what=what, timeout_s=timeout_s)
    except TimeoutError as exc:
        connection.close()
        raise MachineError(f"{what}: the Docker engine said nothing for {start_timeout_s:g} s") from exc
    except OSError as exc:
        connection.close()
        raise MachineError(f"{what}: the Docker engine does not answer ({exc})") from exc
    except BaseException:
        connection.close()
        raise
