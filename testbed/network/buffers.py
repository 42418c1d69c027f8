"""Makes the receive buffers of ranks' sockets as large as asked, in the network namespace it runs in.

    python buffers.py BYTES NAME...     prints {"NAME": bytes that the kernel gave, ...}

Each rank lends its socket at the abstract Unix socket NAME. A buffer beyond net.core.rmem_max takes NET_ADMIN, which
ranks do not have and whoever runs this does. Standard library only and complete in this one file: it runs where
nothing else of this room is.
"""

from __future__ import annotations

import json
import socket
import sys

SO_RCVBUFFORCE = 33  # asm-generic/socket.h
PATIENCE_S = 10.0


def enlarge(name: str, size_bytes: int) -> int:
    """The buffer of the socket lent at `name`; what the kernel says afterwards (twice what it was asked for)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(PATIENCE_S)
        caller.connect("\0" + name)
        _, descriptors, _, _ = socket.recv_fds(caller, 1, 1)
        with socket.socket(fileno=descriptors[0]) as udp:
            udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size_bytes)
            return udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


if __name__ == "__main__":
    print(json.dumps({name: enlarge(name, int(sys.argv[1])) for name in sys.argv[2:]}))
