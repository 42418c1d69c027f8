"""Turns TCP's super-packets of one interface off or on, in the network namespace it runs in, and says what is set.

    python offloads.py eth1 off        prints {"interface": "eth1", "tso": false, "gso": false}

With these offloads a sender hands 64 KB packets to the network, and a link that loses one packet in a hundred loses
64 KB at once. Standard library only and complete in this one file, because it runs inside containers that have nothing
else of this room: `docker exec --privileged -i NODE python - eth1 off < offloads.py`.
"""

from __future__ import annotations

import array
import fcntl
import json
import socket
import struct
import sys

SIOCETHTOOL = 0x8946
GET_SET = {"tso": (0x1E, 0x1F), "gso": (0x23, 0x24)}  # ETHTOOL_GTSO ... from linux/ethtool.h
NAME_BYTES = 16  # IFNAMSIZ


def set_offloads(interface: str, on: bool) -> dict[str, bool]:
    """Both of `interface` on or off; what the kernel says afterwards. Raises OSError."""
    for _, write in GET_SET.values():
        _ethtool(interface, write, int(on))
    return offloads(interface)


def offloads(interface: str) -> dict[str, bool]:
    return {name: bool(_ethtool(interface, read)) for name, (read, _) in GET_SET.items()}


def _ethtool(interface: str, command: int, value: int = 0) -> int:
    """One `struct ethtool_value` there and back."""
    exchange = array.array("I", [command, value])
    address, _ = exchange.buffer_info()
    request = struct.pack(f"{NAME_BYTES}sP", interface.encode(), address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, request)
    return exchange[1]


def main() -> int:
    match sys.argv[1:]:
        case [interface, ("off" | "on") as word]:
            pass
        case _:
            print("usage: python offloads.py INTERFACE off|on", file=sys.stderr)
            return 2
    try:
        held = set_offloads(interface, word == "on")
    except OSError as exc:
        print(f"{interface}: cannot turn TSO and GSO {word}: {exc.strerror}", file=sys.stderr)
        return 3
    print(json.dumps({"interface": interface, **held}))
    if any(held.values()) != (word == "on"):
        print(f"{interface}: TSO and GSO were to be {word}, and are not", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
