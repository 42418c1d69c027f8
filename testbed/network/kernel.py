"""The one door to the kernel's network: pyroute2 for links and traffic control, the `nft` program for nftables.

pyroute2 carries our own bytes (netem.py, htb.py): its codecs for the kinds that we use are replaced below by one that
leaves options alone. Its exceptions, and nft's complaints, leave here as MachineError.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace, TracebackType
from typing import Any, Literal

from pyroute2 import IPRoute
from pyroute2.netlink import nla
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import tcmsg

from testbed.errors import MachineError
from testbed.network.backend import Capabilities
from testbed.network.nft import Command, probe_numgen, probe_table
from testbed.network.receiver import AT_ROOT, ROOT, Request

NFT_TIMEOUT_S = 30.0
LOOPBACK = 1  # the index of `lo`, in every namespace

_AS_THEY_ARE = SimpleNamespace(
    options=nla.cdata,
    stats=nla.cdata,
    get_parameters=lambda request: request["options"],
    get_class_parameters=lambda request: request["options"],
)
tcmsg.plugins.update(dict.fromkeys(("htb", "netem", "pfifo", "u32"), _AS_THEY_ARE))


class InterfaceGone(MachineError):
    """The interface is no longer there: its container has ended."""


@dataclass(frozen=True, slots=True)
class Interface:
    index: int
    name: str
    kind: str | None  # "veth"
    bridge: int | None  # the index of the bridge that it is a port of


@dataclass(frozen=True, slots=True)
class Standing:
    """A qdisc or class as the kernel shows it."""

    what: Literal["qdisc", "class"]
    kind: str
    handle: int
    options: bytes
    drops: int  # packets


class Kernel:
    """An open door; closed by `with`."""

    def __init__(self) -> None:
        self._route = IPRoute()

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._route.close()

    def capabilities(self) -> Capabilities:
        """What there is, found out without leaving or changing anything."""
        return Capabilities(
            kernel=os.uname().release,
            nft=self._nft_would_take(probe_table()),
            numgen=self._nft_would_take(probe_numgen()),
            htb=self._knows_qdisc("htb"),
            netem=self._knows_qdisc("netem"),
        )

    def nft(self, commands: Sequence[Command]) -> list[Command]:
        """Carry out all of `commands` in one transaction, or none of them; what they printed."""
        if not commands:
            return []
        done = _run_nft(commands)
        if done.returncode:
            raise MachineError(
                f"nft refused: {_brief(done.stderr)}",
                remedy="run `testbed doctor`, which says what this kernel has",
            )
        answer: list[Command] = json.loads(done.stdout)["nftables"] if done.stdout.strip() else []
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

    def root(self, interface: Interface) -> tuple[str, int]:
        """Kind and handle of the first qdisc; handle 0: the kernel's own default, set by nobody."""
        for found in self._dump("qdisc", interface):
            if found["parent"] == AT_ROOT:
                return found.get("kind"), found["handle"]
        return "noqueue", 0

    def replace(self, interface: Interface, requests: Iterable[Request]) -> None:
        """Make each of `requests`, or change in place what has its handle."""
        for request in requests:
            verb = "replace" if request.what == "qdisc" else f"replace-{request.what}"
            with _as_machine_error(request, interface):
                self._route.tc(
                    verb,
                    request.kind,
                    index=interface.index,
                    parent=request.parent,
                    handle=request.handle,
                    info=request.info,
                    options=request.options,
                )

    def remove_root(self, interface: Interface) -> None:
        """Our own root and all below it; nothing happens if the interface or the root is gone."""
        with suppress(NetlinkError):
            self._route.tc("del", index=interface.index, parent=AT_ROOT, handle=ROOT)

    def standing(self, interface: Interface) -> list[Standing]:
        """Every qdisc and class on the interface; none, if it is gone."""
        return [
            Standing(what, found.get("kind"), found["handle"], found.get("options") or b"", _drops(found))
            for what in ("qdisc", "class")
            for found in self._dump(what, interface)
        ]

    def _dump(self, what: Literal["qdisc", "class"], interface: Interface) -> list[Any]:
        # ("get" is pyroute2's word here for a dump that comes as a list)
        try:
            if what == "class":
                found = self._route.tc("get-class", index=interface.index)
            else:
                found = self._route.tc("dump", index=interface.index)
        except NetlinkError as exc:
            if exc.code == errno.ENODEV:
                return []
            raise MachineError(f"cannot read the {what}es of {interface.name}: {_words(exc)}") from exc
        return [each for each in found if each["index"] == interface.index]

    def _knows_qdisc(self, kind: str) -> bool:
        """Asks for one without its options: a kind that the kernel has refuses that, one that it lacks is not found."""
        try:
            self._route.tc("replace", kind, index=LOOPBACK, parent=AT_ROOT, options=b"")
        except NetlinkError as exc:
            if exc.code == errno.EPERM:
                raise MachineError("not allowed to set qdiscs", remedy="run the agent with NET_ADMIN") from exc
            return bool(exc.code != errno.ENOENT)
        raise AssertionError(f"the kernel took a {kind} qdisc without options")

    def _nft_would_take(self, commands: Sequence[Command]) -> bool:
        return _run_nft(commands, "--check").returncode == 0


def _run_nft(commands: Sequence[Command], *options: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["nft", "--json", *options, "--file", "-"],
            input=json.dumps({"nftables": list(commands)}),
            capture_output=True,
            text=True,
            timeout=NFT_TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as exc:
        raise MachineError("there is no program `nft`", remedy="apt-get install nftables") from exc
    except subprocess.TimeoutExpired as exc:
        raise MachineError(f"nft did not end within {NFT_TIMEOUT_S:g} s") from exc


@contextmanager
def _as_machine_error(request: Request, interface: Interface) -> Iterator[None]:
    try:
        yield
    except NetlinkError as exc:
        if exc.code == errno.ENODEV:
            raise InterfaceGone(f"{interface.name} is gone", remedy="is its container still running?") from exc
        what = f"{request.kind} {request.what} {request.handle:#010x} on {interface.name}"
        raise MachineError(
            f"the kernel refused {what}: {_words(exc)}",
            remedy="it may lack the kind (sch_htb, sch_netem, cls_u32); run `testbed doctor`",
        ) from exc


def _words(exc: NetlinkError) -> str:
    return os.strerror(exc.code) if isinstance(exc.code, int) else str(exc)


def _brief(complaint: str) -> str:
    """nft repeats the whole input after its message; three lines tell enough."""
    return " ".join(line.strip()[:200] for line in complaint.strip().splitlines()[:3])


def _drops(found: Any) -> int:
    return int(found.get_attr("TCA_STATS2").get_attr("TCA_STATS_QUEUE")["drops"])
