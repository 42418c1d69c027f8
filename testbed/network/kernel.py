"""The one door to the kernel's network: netlink for traffic control and links, libnftables for nftables.

Traffic control carries our own bytes (netem.py, htb.py) in messages of our own (netlink.py); pyroute2 answers for
interfaces. Errors of netlink, and nft's complaints, leave here as MachineError.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from testbed.core.links import Link
from testbed.errors import MachineError
from testbed.network import libnftables
from testbed.network.backend import Capabilities
from testbed.network.netlink import Refusal, Standing, TrafficControl
from testbed.network.nft import Command, probe_numgen, probe_table
from testbed.network.receiver import AT_ROOT, ROOT, Lane, Request, Shape, changes, foundation
from testbed.network.userspace import process as userspace

LOOPBACK = 1  # the index of `lo`, in every namespace
BRIDGES_SHOWN = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")  # of br_netfilter


@dataclass(frozen=True, slots=True)
class Interface:
    index: int
    name: str
    kind: str | None  # "veth"
    bridge: int | None  # the index of the bridge that it is a port of


class Kernel:
    """An open door; closed by `with`."""

    def __init__(self) -> None:
        self._route = IPRoute()
        self._traffic = TrafficControl()

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._traffic.close()
        self._route.close()

    def capabilities(self) -> Capabilities:
        """What there is, found out without leaving or changing anything."""
        netem, htb = self._knows_qdisc("netem"), self._knows_qdisc("htb")
        return Capabilities(
            kernel=os.uname().release,
            nft=self._nft_would_take(probe_table()),
            numgen=self._nft_would_take(probe_numgen()),
            htb=htb,
            netem=netem,
            duplicates=netem and htb and self._duplicates(),
            nfqueue=userspace.probe() is None,
            injection=userspace.can_duplicate(),
        )

    def nft(self, commands: Sequence[Command]) -> list[Command]:
        """Carry out all of `commands` in one transaction, or none of them; what they printed."""
        if not commands:
            return []
        printed, complaint = libnftables.run(commands)
        if complaint is not None:
            raise MachineError(
                f"nft refused: {_brief(complaint)}",
                remedy="run `testbed doctor`, which says what this kernel has",
            )
        answer: list[Command] = json.loads(printed)["nftables"] if printed.strip() else []
        return answer

    def interface(self, which: int | str) -> Interface:
        """By index or by name."""
        try:
            found = self._route.get_links(which) if isinstance(which, int) else self._route.link("get", ifname=which)
        except NetlinkError as exc:
            raise MachineError(
                f"this network namespace has no interface {which!r}: {_words(exc)}",
                remedy="the agent has to run in the host's network namespace, and the container to be running",
            ) from exc
        link = found[0]
        return Interface(link["index"], link.get("ifname"), link.get(("linkinfo", "kind")), link.get("master"))

    def is_there(self, interface: Interface) -> bool:
        """Whether the interface still is: not so once its container has ended."""
        try:
            return bool(self._route.get_links(interface.index))
        except NetlinkError as exc:
            if exc.code == errno.ENODEV:
                return False
            raise

    def root(self, interface: Interface) -> tuple[str, int]:
        """Kind and handle of the first qdisc; handle 0: the kernel's own default, set by nobody."""
        found = self._traffic.root(interface.index, parent=AT_ROOT)
        return ("noqueue", 0) if found is None else (found.kind, found.handle)

    def replace(self, requests: Sequence[tuple[Interface, Request]]) -> set[int]:
        """Make each of `requests`, or change in place what has its handle, all in one system call.

        Returns the interfaces (by index) that are gone, because their containers have ended. Raises MachineError if
        anything else was refused; what was not refused is in force then.
        """
        refusals = self._traffic.replace([(interface.index, request) for interface, request in requests])
        for refusal in refusals:
            if refusal.code != errno.ENODEV:
                raise _refused(*requests[refusal.number], refusal)
        return {requests[refusal.number][0].index for refusal in refusals}

    @contextmanager
    def shown_to_iptables(self, bridge: int) -> Iterator[None]:
        """Until the end, what the bridge with this index forwards is shown to the hooks of the ip family."""
        if BRIDGES_SHOWN.read_text().strip() != "0":  # all of them are
            yield
            return
        (link,) = self._route.get_links(bridge)
        before = link.get(("linkinfo", "data", "br_nf_call_iptables"))
        self._show_to_iptables(bridge, 1)
        try:
            yield
        finally:
            with suppress(NetlinkError):  # the bridge is gone
                self._show_to_iptables(bridge, before)

    def _show_to_iptables(self, bridge: int, value: int) -> None:
        self._route.link("set", index=bridge, kind="bridge", br_nf_call_iptables=value)

    def remove_root(self, interface: Interface) -> None:
        """Our own root and all below it; nothing happens if the interface or the root is gone."""
        self._traffic.remove_root(interface.index, handle=ROOT, parent=AT_ROOT)

    def standing(self, what: Literal["qdisc", "class"], interface: Interface | None = None) -> Iterator[Standing]:
        """Every qdisc of the namespace, or the classes of one interface; none, if it is gone."""
        return self._traffic.dump(what, 0 if interface is None else interface.index)

    def _knows_qdisc(self, kind: str) -> bool:
        """Asks for one without its options: a kind that the kernel has refuses that, one that it lacks is not found."""
        refusals = self._traffic.replace([(LOOPBACK, Request("qdisc", kind, AT_ROOT, 0, b""))])
        if not refusals:
            raise AssertionError(f"the kernel took a {kind} qdisc without options")
        if refusals[0].code == errno.EPERM:
            raise MachineError("not allowed to set qdiscs", remedy="run the agent with NET_ADMIN")
        return refusals[0].code != errno.ENOENT

    def _duplicates(self) -> bool:
        """Whether netem may duplicate where more than one stands on an interface: tried on one made for the moment."""
        twice = Shape(lanes={sender: Lane(Link(duplicate=0.5)) for sender in (0, 1)})
        requests, _ = changes("netem", Shape(), twice, ["192.0.2.1", "192.0.2.2"])
        with self._passing_veth() as index:
            return not self._traffic.replace([(index, request) for request in (*foundation(), *requests)])

    @contextmanager
    def _passing_veth(self) -> Iterator[int]:
        """The index of an interface that nothing uses; it goes away again."""
        name = f"tbprobe{os.getpid()}"[:14]
        self._route.link("add", ifname=name, kind="veth", peer=f"{name}p")
        try:
            yield self._route.link("get", ifname=name)[0]["index"]
        finally:
            self._route.link("del", ifname=name)

    def _nft_would_take(self, commands: Sequence[Command]) -> bool:
        _, complaint = libnftables.run(commands, only_check=True)
        return complaint is None


def _refused(interface: Interface, request: Request, refusal: Refusal) -> MachineError:
    what = f"{request.kind} {request.what} {request.handle:#010x} on {interface.name}"
    words = f"{os.strerror(refusal.code)}{refusal.words and f' ({refusal.words})'}"
    remedy = "it may lack the kind (sch_htb, sch_netem, cls_u32); run `testbed doctor`"
    if "duplicating netem" in refusal.words:  # Linux 6.16, and older ones that had it ported back
        remedy = "leave `duplicate` out of the plan, or write `backend: userspace`"
    return MachineError(f"the kernel refused {what}: {words}", remedy=remedy)


def _words(exc: NetlinkError) -> str:
    return os.strerror(exc.code) if isinstance(exc.code, int) else str(exc)


def _brief(complaint: str) -> str:
    """nft repeats the whole input after its message; three lines tell enough."""
    return " ".join(line.strip()[:200] for line in complaint.strip().splitlines()[:3])
