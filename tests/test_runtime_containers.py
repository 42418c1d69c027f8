"""What the engine is asked for, and what its answers mean."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from testbed.core.links import LinkState
from testbed.errors import BringUpError
from testbed.plan.model import AlgorithmChoice, Network, NodeSpec, Plan, Run, Task
from testbed.runfolder import RunFolder
from testbed.runtime import labels
from testbed.runtime.containers import (
    Containers,
    Port,
    Subnets,
    find_port,
    folders_of,
    node_specifications,
    nodes_of,
    user_of,
)
from testbed.runtime.engine import Folder, unreachable

SUBNETS = Subnets(IPv4Network("10.213.0.0/24"), IPv4Network("10.213.1.0/24"))
PLAN = Plan(
    "p",
    (NodeSpec(cpus=0.5, memory_bytes=2**30, shared_memory_bytes=2**26), NodeSpec(ranks=2, gpus=("GPU-1",))),
    Network(LinkState.uniform(2), congestion_control="cubic"),
    AlgorithmChoice("rps"),
    Task(),
    Run(),
)
# as a container on both networks has them: eth0 is the data network's here
LISTING = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth1\t0000D50A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth0\t0001D50A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
/sys/class/net/eth0/iflink 21
/sys/class/net/eth1/iflink 19
/sys/class/net/lo/iflink 1
"""


def test_nodes_have_one_number_on_both_networks() -> None:
    first, second = nodes_of(PLAN, "abc", SUBNETS)
    assert (first.name, first.container) == ("node-0", "testbed-abc-node-0")
    assert (second.control, second.data) == (IPv4Address("10.213.0.11"), IPv4Address("10.213.1.11"))


def test_a_node_is_made_as_the_plan_has_it() -> None:
    first, second = node_specifications(
        PLAN,
        nodes_of(PLAN, "abc", SUBNETS),
        run="abc",
        image="rank:1",
        marks={labels.RUN: "abc"},
        user="5:6",
        folders=(),
    )
    assert first.addresses == (("testbed-abc-control", "10.213.0.10"), ("testbed-abc-data", "10.213.1.10"))
    assert (first.cpus, first.memory_bytes, first.shared_memory_bytes, first.gpus) == (0.5, 2**30, 2**26, None)
    assert second.gpus == ("GPU-1",)
    assert first.user == "5:6"
    assert first.sysctls == {"net.ipv4.tcp_congestion_control": "cubic"}
    assert first.hosts == {"node-1": "10.213.0.11"}  # by the network that is never impaired
    assert second.labels == {labels.RUN: "abc", labels.ROLE: "node", labels.NODE: "1"}
    assert first.only_capabilities is None


def test_only_the_run_folder_can_be_written_and_an_own_algorithm_keeps_its_path(tmp_path: Path) -> None:
    plan = replace(PLAN, algorithm=AlgorithmChoice("mine", file="/home/me/mine.py"))
    run, data, own = folders_of(plan, RunFolder(tmp_path / "run"), tmp_path / "data")
    assert run == Folder(str(tmp_path / "run"), "/testbed/run", read_only=False)
    assert data == Folder(str(tmp_path / "data"), "/testbed/data", read_only=True)
    assert own == Folder("/home/me/mine.py", "/home/me/mine.py", read_only=True)


def test_ranks_are_who_started_the_run_also_under_a_rootless_engine() -> None:
    assert user_of({"SecurityOptions": ["name=seccomp,profile=default"]}, uid=1000, gid=100) == "1000:100"
    assert user_of({"SecurityOptions": ["name=rootless"]}, uid=1000, gid=100) == "0:0"


def test_the_data_interface_is_found_by_its_subnet_not_by_its_name() -> None:
    assert find_port(LISTING, SUBNETS.data) == Port("eth0", 21)
    assert find_port(LISTING, SUBNETS.control) == Port("eth1", 19)


def test_a_node_without_the_data_network_is_an_error() -> None:
    with pytest.raises(BringUpError, match=r"10\.9\.0\.0/24"):
        find_port(LISTING, IPv4Network("10.9.0.0/24"))


@pytest.mark.parametrize("run", ["", "elevenchars", "Upper", "a-b"])
def test_an_id_that_cannot_name_a_bridge_is_refused(run: str) -> None:
    no_engine: Any = None
    with pytest.raises(ValueError, match="bridges cannot be named"):
        Containers(no_engine, PLAN, run=run, folder=RunFolder(Path("/r")), rank_image="rank:1", agent_image="agent:1")


def test_an_engine_that_does_not_answer_comes_with_the_remedy_for_its_reason() -> None:
    forbidden = unreachable("('Connection aborted.', PermissionError(13, 'Permission denied'))")
    absent = unreachable("('Connection aborted.', FileNotFoundError(2, 'No such file or directory'))")
    assert "docker" in str(forbidden.remedy)
    assert "usermod" in str(forbidden.remedy)
    assert "make docker-start" in str(absent.remedy)
