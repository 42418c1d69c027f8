"""What a plan asks of the machine against what the machine has; refused before anything starts.

`info` is what the Docker engine says of itself and its machine. What the kernel can do to packets is not asked here.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.errors import MachineError
from testbed.plan.model import NodeSpec, Plan

Info = Mapping[str, Any]

BRIDGE_PORTS = 1023  # a Linux bridge takes no more (BR_MAX_PORTS)
NVIDIA_DRIVER = Path("/proc/driver/nvidia")
CONGESTION_CONTROLS = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
GIB = 2**30


def check_machine(plan: Plan, info: Info, *, congestion_controls: Path = CONGESTION_CONTROLS) -> tuple[str, ...]:
    """MachineError if the nodes cannot all exist on this machine; else warnings, as sentences, of what will be slow."""
    nodes = len(plan.nodes)
    if nodes > BRIDGE_PORTS:
        raise MachineError(
            f"{nodes} nodes on one bridge: Linux takes {BRIDGE_PORTS}",
            remedy="put several ranks into each node (`nodes: {ranks: 4}`), or use the simulated arm",
        )
    _check_memory(plan, info)
    _check_congestion_control(plan.network.congestion_control, congestion_controls)
    return _check_cpus(plan, info)


def _check_memory(plan: Plan, info: Info) -> None:
    asked = sum(spec.memory_bytes or 0 for spec in plan.nodes)
    has = int(info["MemTotal"])
    if asked > has:
        raise MachineError(
            f"the nodes ask for {asked / GIB:.1f} GiB of memory together, this machine has {has / GIB:.1f} GiB",
            remedy="fewer nodes, or less `memory` for each",
        )


def _check_congestion_control(wanted: str | None, allowed: Path) -> None:
    if wanted is None or not allowed.exists():
        return
    names = allowed.read_text().split()
    if wanted not in names:
        raise MachineError(
            f"containers of this machine may not use TCP congestion control `{wanted}`, only {', '.join(names)}",
            remedy=f'as root: `modprobe tcp_{wanted}; sysctl net.ipv4.tcp_allowed_congestion_control="'
            f'{" ".join([*names, wanted])}"`',
        )


def _check_cpus(plan: Plan, info: Info) -> tuple[str, ...]:
    cores = int(info["NCPU"])
    largest = max((spec.cpus or 0.0 for spec in plan.nodes), default=0.0)
    if largest > cores:
        raise MachineError(
            f"a node asks for {largest:g} CPUs, this machine has {cores}: Docker refuses that",
            remedy=f"`cpus: {cores}` or less",
        )
    warnings = []
    asked = sum(spec.cpus or 0.0 for spec in plan.nodes)
    if asked > cores:
        warnings.append(f"the nodes ask for {asked:g} CPUs together, this machine has {cores}: each will get less")
    return tuple(warnings)


def check_gpus(plan: Plan, info: Info, *, driver: Path = NVIDIA_DRIVER) -> None:
    """MachineError naming the missing piece, where the plan gives GPUs to nodes and they could not get them."""
    if all(not spec.gpus for spec in plan.nodes):
        return
    if not driver.exists():
        raise MachineError(
            f"the plan gives GPUs to its nodes, but this machine has no NVIDIA driver ({driver} is missing)",
            remedy="install the driver, or leave `gpus` out of the plan",
        )
    if not gpu_runtime(info):
        raise MachineError(
            "the plan gives GPUs to its nodes, but the Docker engine cannot hand them over: it lists neither a runtime "
            "`nvidia` nor a CDI device nvidia.com/gpu",
            remedy="install the NVIDIA Container Toolkit (`nvidia-ctk runtime configure --runtime=docker`), then "
            "restart the engine",
        )
    present = len(list((driver / "gpus").glob("*")))
    wanted = max(_count(spec) for spec in plan.nodes)
    if wanted > present:
        raise MachineError(
            f"a node asks for {wanted} GPUs, this machine has {present}", remedy=f"`gpus: {present}` or fewer"
        )


def gpu_runtime(info: Info) -> bool:
    """Whether the engine can hand GPUs over to containers."""
    devices = info.get("DiscoveredDevices") or ()
    return (
        "nvidia" in (info.get("Runtimes") or {})
        or any("nvidia.com/gpu" in str(device) for device in devices)
        or shutil.which("nvidia-container-runtime-hook") is not None  # what engines before CDI look for on their PATH
    )


def _count(spec: NodeSpec) -> int:
    """How many GPUs a node cannot do without."""
    if isinstance(spec.gpus, tuple):
        return len(spec.gpus)
    return 1 if spec.gpus == "all" else spec.gpus or 0
