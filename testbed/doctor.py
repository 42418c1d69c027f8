"""What this machine can do for a testbed, finding by finding, each with the remedy for what it cannot.

Looks and changes nothing; what the kernel can do to packets is asked of an agent, in a container made for the moment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from testbed.errors import MachineError, TestbedError
from testbed.network.backend import Capabilities
from testbed.network.client import AgentClient
from testbed.network.userspace.load import STEADY_PACKETS_PER_S
from testbed.runtime.engine import Engine
from testbed.runtime.images import Images
from testbed.runtime.local import find_mpirun
from testbed.runtime.machine import NVIDIA_DRIVER, gpu_runtime
from testbed.supervisor.containers import AGENT
from testbed.supervisor.standing import agent_container

GIB = 2**30
WANTED_BUFFER_BYTES = 4 * 2**20  # of a socket: a burst of four peers with a million parameters each fits


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    well: bool
    detail: str
    remedy: str | None = None
    needed: bool = False  # `testbed up` cannot do without

    def __str__(self) -> str:
        sign = "ok " if self.well else ("NO " if self.needed else "-  ")
        line = f"{sign} {self.name}: {self.detail}"
        return line if self.well or not self.remedy else f"{line}\n      try: {self.remedy}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> list[Finding]:
    return list(_examine())


def _examine() -> Iterator[Finding]:
    yield Finding("python", True, ".".join(map(str, sys.version_info[:3])))
    yield _cores()
    yield _receive_buffer()
    yield _mpi()
    try:
        engine = Engine.connect()
    except MachineError as error:
        yield Finding("docker", False, str(error), error.remedy, needed=True)
        return
    with engine:
        yield from _docker(engine)
        yield from _kernel(engine)


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0))
    return Finding("cores", True, f"{cores}; more ranks than that share them, and their step times show it")


def _receive_buffer() -> Finding:
    """A socket's buffer is bounded by a setting of the whole machine; what overflows it is loss nobody asked for."""
    allowed = int(Path("/proc/sys/net/core/rmem_max").read_text())
    return Finding(
        "socket buffers",
        allowed >= WANTED_BUFFER_BYTES,
        f"net.core.rmem_max is {allowed / 2**20:.1f} MiB; ranks in containers get more where they need it, those of "
        "`testbed local` do not (what overflows is counted apart from network loss)",
        f"sudo sysctl net.core.rmem_max={8 * WANTED_BUFFER_BYTES}",
    )


def _mpi() -> Finding:
    try:
        return Finding("mpi on this machine", True, f"{find_mpirun()} (for `testbed local`)")
    except MachineError as error:
        return Finding("mpi on this machine", False, f"{error} (only `testbed local` needs it)", error.remedy)


def _docker(engine: Engine) -> Iterator[Finding]:
    info = engine.info
    cgroup = info.get("CgroupVersion", "1")
    yield Finding(
        "docker",
        True,
        f"engine {engine.version}, API {engine.client.api.api_version}, cgroup v{cgroup}, {info.get('Driver')}, "
        f"{info['NCPU']} cores, {info['MemTotal'] / GIB:.1f} GiB",
    )
    for limit, key in (("CPU", "CpuCfsQuota"), ("memory", "MemoryLimit")):
        if not info.get(key, True):
            yield Finding(f"{limit} limits", False, "the engine cannot limit it", "enable its cgroup controller")
    if not NVIDIA_DRIVER.exists():
        yield Finding("gpus", False, f"no NVIDIA driver ({NVIDIA_DRIVER} is missing); plans without `gpus` do not care")
    elif not gpu_runtime(info):
        yield Finding(
            "gpus", False, "a driver, but the engine cannot hand GPUs over", "install the NVIDIA Container Toolkit"
        )
    else:
        yield Finding("gpus", True, f"{len(list((NVIDIA_DRIVER / 'gpus').glob('*')))}")
    current = {image.kind for image in Images(engine.client).list() if image.current}
    missing = [kind for kind in ("rank", "agent") if kind not in current]
    detail = "built" if not missing else f"not built yet: {', '.join(missing)} (`testbed up` builds them)"
    yield Finding("images", not missing, detail, "testbed image build")


def _kernel(engine: Engine) -> Iterator[Finding]:
    try:
        can = _capabilities(engine)
    except TestbedError as error:
        yield Finding("kernel", False, f"could not be asked: {error}", error.remedy, needed=True)
        return
    if can is None:
        yield Finding("kernel", False, "not asked: that needs the agent's image", "testbed image build")
        return
    yield Finding(
        "cuts and counters",
        can.nft,
        f"nftables in the bridge family, kernel {can.kernel}",
        "modprobe nf_tables nft_meta_bridge, or boot a distribution's own kernel",
        needed=True,
    )
    yield Finding(
        "loss", can.numgen or can.netem, "nftables' dice" if can.numgen else "", "modprobe nft_numgen", needed=True
    )
    yield Finding("rate", can.htb, "HTB" if can.htb else "no sch_htb: links cannot be slow", "modprobe sch_htb")
    yield Finding(
        "delay and jitter",
        can.netem or can.nfqueue,
        _delays(can),
        "install linux-modules-extra-$(uname -r) (Ubuntu) or kernel-modules-extra (Fedora); Debian's kernel has it",
    )


def _delays(can: Capabilities) -> str:
    if can.netem:
        return "netem"
    if not can.nfqueue:
        return "no sch_netem, and no packets handed to processes (NFQUEUE): plans that ask for delay are refused"
    rate = f"{STEADY_PACKETS_PER_S:,}".replace(",", " ")
    return (
        f"no sch_netem; a process delays (back end userspace), true to half a millisecond up to about {rate} delayed "
        "packets a second over all links of a run, as measured on two cores (`make bench` measures this machine)"
    )


def _capabilities(engine: Engine) -> Capabilities | None:
    with agent_container(engine, "doctor") as container:
        if container is None:
            return None
        with engine.exec_stream(container, AGENT) as stream:
            return AgentClient(stream.reader, stream.writer).probe()
