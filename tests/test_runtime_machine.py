"""What a machine lacks is said before anything starts, by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from testbed.core.links import LinkState
from testbed.errors import MachineError
from testbed.plan.model import AlgorithmChoice, Network, NodeSpec, Plan, Run, Task
from testbed.runtime.machine import GIB, check_gpus, check_machine

INFO: dict[str, Any] = {"MemTotal": 8 * GIB, "NCPU": 4, "Runtimes": {"runc": {}}}
NOWHERE = Path("/nowhere")


def plan(count: int, spec: NodeSpec) -> Plan:
    nodes = (spec,) * count
    return Plan("p", nodes, Network(LinkState.uniform(count)), AlgorithmChoice("rps"), Task(), Run())


def test_memory_for_all_nodes_together_must_be_there() -> None:
    assert check_machine(plan(4, NodeSpec(memory_bytes=2 * GIB)), INFO) == ()  # 4 · 2 = 8
    with pytest.raises(MachineError, match=r"10\.0 GiB of memory together, this machine has 8\.0 GiB"):
        check_machine(plan(5, NodeSpec(memory_bytes=2 * GIB)), INFO)


def test_nodes_without_a_memory_limit_ask_for_nothing() -> None:
    assert check_machine(plan(4, NodeSpec()), INFO) == ()


def test_more_cpus_than_cores_are_slow_and_not_refused() -> None:
    (warning,) = check_machine(plan(4, NodeSpec(cpus=1.5)), INFO)  # 4 · 1.5 = 6
    assert "6 CPUs together, this machine has 4" in warning


def test_one_node_with_more_cpus_than_there_are_is_refused() -> None:
    with pytest.raises(MachineError, match="a node asks for 5 CPUs, this machine has 4"):
        check_machine(plan(1, NodeSpec(cpus=5)), INFO)


def test_congestion_control_must_be_one_that_containers_may_use(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text("reno bbr\n")
    asks = plan(1, NodeSpec())
    reno = replace(asks, network=replace(asks.network, congestion_control="reno"))
    cubic = replace(asks, network=replace(asks.network, congestion_control="cubic"))
    assert check_machine(reno, INFO, congestion_controls=allowed) == ()
    with pytest.raises(MachineError, match="`cubic`, only reno, bbr") as caught:
        check_machine(cubic, INFO, congestion_controls=allowed)
    assert '"reno bbr cubic"' in str(caught.value.remedy)


def driver(folder: Path, gpus: int) -> Path:
    for number in range(gpus):
        (folder / "gpus" / f"0000:0{number}:00.0").mkdir(parents=True)
    return folder


def test_a_plan_without_gpus_needs_no_driver() -> None:
    check_gpus(plan(2, NodeSpec()), INFO, driver=NOWHERE)


def test_a_missing_driver_is_named() -> None:
    with pytest.raises(MachineError, match="no NVIDIA driver"):
        check_gpus(plan(2, NodeSpec(gpus=1)), INFO, driver=NOWHERE)


def test_a_missing_container_runtime_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # nor is an older engine's hook on it
    with pytest.raises(MachineError, match="Docker engine cannot hand them over"):
        check_gpus(plan(2, NodeSpec(gpus="all")), INFO, driver=driver(tmp_path, 1))


@pytest.mark.parametrize(
    "offers",
    [{"Runtimes": {"runc": {}, "nvidia": {}}}, {"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}],
)
@pytest.mark.parametrize("gpus", [1, "all", ("GPU-1", "GPU-2")])
def test_an_engine_with_a_runtime_or_a_device_list_is_enough(tmp_path: Path, offers: Any, gpus: Any) -> None:
    check_gpus(plan(2, NodeSpec(gpus=gpus)), {**INFO, **offers}, driver=driver(tmp_path, 2))


def test_more_gpus_than_there_are_is_refused(tmp_path: Path) -> None:
    info = {**INFO, "Runtimes": {"nvidia": {}}}
    with pytest.raises(MachineError, match="a node asks for 2 GPUs, this machine has 1"):
        check_gpus(plan(1, NodeSpec(gpus=2)), info, driver=driver(tmp_path, 1))
