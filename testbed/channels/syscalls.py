"""Linux's sendmmsg and recvmmsg, 64 datagrams a call, out of and into NumPy buffers. The one module that uses ctypes.

A datagram is gathered from two places, its header and a slice of the caller's matrix, and scattered into two, so that
no payload is copied on its way to or from the kernel. The GIL is released during the calls. Not here: what the bytes
mean, and which datagrams to send.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import select
import socket
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.errors import MachineError, RankError

DATAGRAMS_PER_CALL = 64

# struct iovec, and struct mmsghdr with its struct msghdr inside, on 64-bit Linux (x86-64 and arm64 alike)
IOVEC = np.dtype([("base", "u8"), ("bytes", "u8")])
MESSAGE = np.dtype(
    {
        "names": ["name", "name_bytes", "iovecs", "iovec_count", "control", "control_bytes", "flags", "length"],
        "formats": ["u8", "u4", "u8", "u8", "u8", "u8", "i4", "u4"],
        "offsets": [0, 8, 16, 24, 32, 40, 48, 56],
        "itemsize": 64,
    }
)
ADDRESS = np.dtype([("family", "=u2"), ("port", ">u2"), ("host", "S4"), ("zero", "S8")])  # struct sockaddr_in
# struct cmsghdr with the one number that SO_RXQ_OVFL puts behind it, in the space that CMSG_SPACE(4) gives
CONTROL = np.dtype([("bytes", "u8"), ("level", "i4"), ("type", "i4"), ("value", "u4"), ("padding", "u4")])

SO_RXQ_OVFL = 40
SO_RCVBUFFORCE = 33
SIOCGIFADDR = 0x8915
SIOCGIFMTU = 0x8921
IP_MTU_DISCOVER = 10
IP_PMTUDISC_DO = 2
RECEIVE_BUFFER_BYTES = 32 << 20

# The way to the peer is gone or barred: for a datagram that is loss, and the peer's matter.
_LOST = {
    errno.EPERM,  # a drop rule in this host's own output hook
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.ENETDOWN,
}
# An earlier datagram's bad news (ICMP), told to this one, which was not sent; or just an interruption. Try again.
_AGAIN = {errno.ECONNREFUSED, errno.EINTR}
_FULL = {errno.EAGAIN, errno.ENOBUFS}
_ENOBUFS_PAUSE_MS = 1  # the device's queue is full, which poll does not see

_libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def _function(name: str, *arguments: Any) -> Any:
    function = getattr(_libc, name, None)
    if function is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        raise MachineError(f"the datagram channel needs 64-bit Linux: {name} is not to be had here")
    function.argtypes = arguments
    function.restype = ctypes.c_int
    return function


def open_socket(host: str, port: int) -> socket.socket:
    """A bound UDP socket that counts its overflows, never fragments, and has as large a receive buffer as it may."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        udp.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        # A datagram in fragments is lost when any of them is: rather an error than 1 % that becomes 36 %.
        udp.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        try:
            udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        except PermissionError:  # then as much as net.core.rmem_max lets us
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        udp.bind((host, port))
    except OSError as exc:
        udp.close()
        raise RankError(
            f"cannot bind UDP {host}:{port}: {exc.strerror}", remedy="choose another port or address"
        ) from exc
    return udp


def receive_buffer_bytes(udp: socket.socket) -> int:
    """What the kernel gave, its own bookkeeping (about half) included."""
    return udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def mtu_of(where: str) -> int:
    """The MTU in bytes of the interface with this name or IPv4 address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            if name == where or _address_of(probe, name) == where:
                return int(struct.unpack_from("i", fcntl.ioctl(probe, SIOCGIFMTU, _ifreq(name)), 16)[0])
    known = ", ".join(name for _, name in socket.if_nameindex())
    raise MachineError(f"no interface is called {where!r} or has that address (there are {known})")


def _ifreq(name: str) -> bytes:
    return struct.pack("16s24x", name.encode())


def _address_of(probe: socket.socket, name: str) -> str | None:
    try:
        return socket.inet_ntoa(fcntl.ioctl(probe, SIOCGIFADDR, _ifreq(name))[20:24])
    except OSError:  # it has none
        return None


def socket_addresses(addresses: list[tuple[str, int]]) -> NDArray[Any]:
    """[n] of dtype ADDRESS. Host names are looked up."""
    table = np.zeros(len(addresses), ADDRESS)
    for row, (host, port) in zip(table, addresses, strict=True):
        try:
            packed = socket.inet_aton(socket.gethostbyname(host))
        except OSError as exc:
            raise RankError(f"no IPv4 address is known for the peer {host!r}: {exc.strerror}") from exc
        row["family"], row["port"], row["host"] = socket.AF_INET, port, packed
    return table


def messages(
    headers: NDArray[Any], payloads: NDArray[np.uint64], addresses: NDArray[Any], receivers: NDArray[np.intp]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Messages [k], and the iovecs [k, 2] that they point into and that must outlive them.

    Datagram i consists of `headers`[i], whose field "payload" says how many bytes follow, and of those bytes at the
    address `payloads`[i]; it goes to `addresses`[`receivers`[i]].
    """
    count = len(headers)
    iovecs = np.empty((count, 2), IOVEC)
    iovecs["base"][:, 0] = headers.ctypes.data + headers.itemsize * np.arange(count)
    iovecs["bytes"][:, 0] = headers.itemsize
    iovecs["base"][:, 1] = payloads
    iovecs["bytes"][:, 1] = headers["payload"]
    table = np.zeros(count, MESSAGE)
    table["name"] = addresses.ctypes.data + ADDRESS.itemsize * receivers
    table["name_bytes"] = ADDRESS.itemsize
    table["iovecs"] = iovecs.ctypes.data + 2 * IOVEC.itemsize * np.arange(count)
    table["iovec_count"] = 2
    return table, iovecs


def send_all(udp: socket.socket, table: NDArray[Any], *, patience_s: float) -> None:
    """Hand all messages of `table` [k] to the kernel, in order.

    A datagram that cannot get out because the way to its peer is gone or barred is passed over: that is loss.
    RankError when the kernel takes nothing for `patience_s`, or a datagram is longer than the interface's MTU.
    """
    sendmmsg = _function("sendmmsg", ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
    fd, address, at, end = udp.fileno(), table.ctypes.data, 0, len(table)
    while at < end:
        sent = sendmmsg(fd, address + at * MESSAGE.itemsize, min(end - at, DATAGRAMS_PER_CALL), socket.MSG_DONTWAIT)
        if sent >= 0:
            at += sent
            continue
        code = ctypes.get_errno()
        if code in _LOST:
            at += 1
        elif code in _FULL:
            _wait_for_room(udp, code, patience_s)
        elif code == errno.EMSGSIZE:
            raise RankError(
                "a datagram is longer than the network's MTU",
                remedy="set network.mtu in the plan to what all nodes have",
            )
        elif code not in _AGAIN:
            raise RankError(f"sending datagrams failed: {os.strerror(code)}")


def _wait_for_room(udp: socket.socket, code: int, patience_s: float) -> None:
    poll = select.poll()
    if code == errno.ENOBUFS:
        poll.poll(_ENOBUFS_PAUSE_MS)
        return
    poll.register(udp, select.POLLOUT)
    if not poll.poll(patience_s * 1000):
        raise RankError(f"the kernel took no datagram for {patience_s:g} s: the send buffer stays full")


@dataclass(frozen=True)
class Batch:
    """Datagrams as they came; views that the next `receive` overwrites."""

    headers: NDArray[Any]  # [k]
    payloads: NDArray[np.float32]  # [k, elements]
    lengths: NDArray[Any]  # [k], bytes of the whole datagram, even where the buffer was too short for it
    overflow: int | None  # datagrams that the socket had no room for since it was opened; None: nothing new is known


class Receiver:
    """Buffers for one batch, laid out once, and the call that fills them."""

    def __init__(self, header: np.dtype[Any], elements: int, capacity: int = DATAGRAMS_PER_CALL) -> None:
        self._headers = np.zeros(capacity, header)
        self._payloads = np.zeros((capacity, elements), np.float32)
        self._control = np.zeros(capacity, CONTROL)
        self._iovecs = np.zeros((capacity, 2), IOVEC)
        self._table = np.zeros(capacity, MESSAGE)
        for column, buffer in enumerate((self._headers, self._payloads)):
            row_bytes = buffer.strides[0]
            self._iovecs["base"][:, column] = buffer.ctypes.data + row_bytes * np.arange(capacity)
            self._iovecs["bytes"][:, column] = row_bytes
        self._table["iovecs"] = self._iovecs.ctypes.data + 2 * IOVEC.itemsize * np.arange(capacity)
        self._table["iovec_count"] = 2
        self._table["control"] = self._control.ctypes.data + CONTROL.itemsize * np.arange(capacity)
        self._address = self._table.ctypes.data
        self._recvmmsg = _function(
            "recvmmsg", ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p
        )

    @property
    def capacity(self) -> int:
        return len(self._table)

    def receive(self, udp: socket.socket) -> Batch | None:
        """What has come, up to the capacity, without waiting; None if there is nothing."""
        self._table["control_bytes"] = CONTROL.itemsize
        flags = socket.MSG_DONTWAIT | socket.MSG_TRUNC
        count = self._recvmmsg(udp.fileno(), self._address, self.capacity, flags, None)
        if count < 0:
            code = ctypes.get_errno()
            if code in _AGAIN or code in _FULL:
                return None
            raise RankError(f"receiving datagrams failed: {os.strerror(code)}")
        table = self._table[:count]
        return Batch(self._headers[:count], self._payloads[:count], table["length"], self._overflow(table))

    def _overflow(self, table: NDArray[Any]) -> int | None:
        told = table["control_bytes"] != 0
        if not told.any():
            return None
        control = self._control[: len(table)][told]
        counters = control["value"][(control["level"] == socket.SOL_SOCKET) & (control["type"] == SO_RXQ_OVFL)]
        return int(counters[-1]) if counters.size else None
