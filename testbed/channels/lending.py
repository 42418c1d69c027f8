"""A rank lends its socket to a helper that may do what the rank may not: make the receive buffer as large as needed.

The buffer is bounded by a setting of the whole machine (net.core.rmem_max, 208 KB on most), unless a process with
rights over the network sets it. Ranks have none. So a rank lends its socket's descriptor through a Unix socket in its
own network namespace, and the helper (network/buffers.py) sets the option on it: whoever holds it, it is one socket.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

HELPER_PATIENCE_S = 10.0  # for a helper that has called to say that it is done


@contextlib.contextmanager
def lent(udp: socket.socket, name: str) -> Iterator[None]:
    """Within the context, whoever calls at the abstract Unix socket `name` gets `udp`, if in our network namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind("\0" + name)
        door.listen()
        thread = threading.Thread(target=_lend, args=(door, udp), name="lending", daemon=True)
        thread.start()
        try:
            yield
        finally:
            door.shutdown(socket.SHUT_RDWR)  # wakes the thread
            thread.join()


def _lend(door: socket.socket, udp: socket.socket) -> None:
    while True:
        try:
            caller, _ = door.accept()
        except OSError:  # the context has ended
            return
        with caller, contextlib.suppress(OSError):
            caller.settimeout(HELPER_PATIENCE_S)
            socket.send_fds(caller, [b"u"], [udp.fileno()])
            caller.recv(1)
