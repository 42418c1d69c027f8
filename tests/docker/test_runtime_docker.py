"""Containers as they are brought up, joined by MPI and put away, on a real engine."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.core.links import LinkState
from testbed.errors import BringUpError
from testbed.plan.model import AlgorithmChoice, Network, NodeSpec, Plan, Run, Task
from testbed.runfolder import RunFolder, tail
from testbed.runtime import labels, leftovers
from testbed.runtime.containers import REGISTERS_FOLDER, Containers, network_name
from testbed.runtime.cpu import Cpu
from testbed.runtime.engine import Engine
from testbed.runtime.images import Images
from testbed.runtime.leftovers import Standing
from testbed.runtime.mpi_job import MpiJob

pytestmark = pytest.mark.docker
DEADLINE_S = 60.0
MIB = 2**20

# every rank's own number, how many there are, where it is, the sum of 0, 1 and 2; then 1 MiB summed over all
PROGRAM = """
import numpy as np
from mpi4py import MPI
world = MPI.COMM_WORLD
print(world.rank, world.size, MPI.Get_processor_name(), world.allreduce(world.rank), flush=True)
mine = np.full(262144, world.rank, np.float32)
world.Allreduce(MPI.IN_PLACE, mine)
"""
STAY = "import time; print('here', flush=True); time.sleep(600)"


def plan(*ranks: int) -> Plan:
    nodes = tuple(NodeSpec(ranks=count, memory_bytes=256 * MIB) for count in ranks)
    network = Network(LinkState.uniform(len(nodes)), mtu=1400, congestion_control="reno")
    return Plan("runtime-test", nodes, network, AlgorithmChoice("rps"), Task(), Run())


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.connect() as engine:
        yield engine


@pytest.fixture(scope="module")
def images(engine: Engine) -> dict[str, str]:
    images = Images(engine.client)
    return {
        "rank_image": images.ensure("rank", progress=print),
        "agent_image": images.ensure("agent", progress=print),
    }


@pytest.fixture(scope="module")
def up(engine: Engine, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """Three nodes, of which the first has two ranks."""
    folder, data = RunFolder(tmp_path_factory.mktemp("run")), tmp_path_factory.mktemp("data")
    (data / "x.npy").write_text("digits")
    with Containers(engine, plan(2, 1, 1), run=secrets.token_hex(4), folder=folder, data=data, **images) as containers:
        yield containers


def until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline_s, f"not so after {DEADLINE_S:g} s"
        time.sleep(0.02)


def things(engine: Engine, run: str) -> list[str]:
    label = f"{labels.RUN}={run}"
    return [thing.name for thing in (*engine.containers(label), *engine.networks(label), *engine.volumes(label))]


def said(containers: Containers, node: int, script: str) -> str:
    done = containers.exec(node, ["sh", "-c", script])
    assert done.status == 0, done.errors
    return done.output.decode()


def test_nodes_know_each_other_by_name_on_networks_that_lead_nowhere(up: Containers) -> None:
    hosts = said(up, 0, "getent hosts node-1")
    assert hosts.split()[0] == str(up.nodes[1].control)
    for role in ("control", "data"):
        assert up.engine.client.api.inspect_network(network_name(up.run, role))["Internal"]


def test_nodes_are_made_as_the_plan_has_them(up: Containers) -> None:
    interface = up.port(1).interface
    assert said(up, 1, f"cat /sys/class/net/{interface}/mtu") == "1400\n"
    assert said(up, 1, "cat /proc/sys/net/ipv4/tcp_congestion_control") == "reno\n"
    assert said(up, 1, "hostname") == "node-1\n"


@pytest.mark.parametrize("in_sight", [True, False], ids=["by its cgroup", "by asking inside"])
def test_a_node_with_little_of_a_core_is_seen_to_stand_still(up: Containers, in_sight: bool) -> None:
    cpu = Cpu.under(up, in_sight=in_sight)
    up.slow(2, 0.03 / int(up.engine.info["NCPU"]))  # little, so that it is throttled on a busy machine as well
    try:
        before = cpu.read(thorough=True)
        up.exec(2, ["timeout", "1", "sh", "-c", "while :; do :; done"])
        after = cpu.read(thorough=True)
    finally:
        up.slow(2, 1)
    assert before is not None
    assert after is not None
    assert after.times.busy_s > before.times.busy_s
    was, now = before.throttled[2], after.throttled[2]
    assert was is not None
    assert now is not None
    # A second has ten periods of 0.1 s. It wants all of each, and gets 3 %: in most it stands still, in some of them it
    # may not get that much.
    assert 3 <= now.throttled - was.throttled <= now.periods - was.periods


def test_data_can_be_read_and_only_the_run_folder_written(up: Containers) -> None:
    assert said(up, 0, "cat /testbed/data/x.npy") == "digits"
    assert up.exec(0, ["touch", "/testbed/data/y"]).status != 0
    said(up, 0, "echo seen > /testbed/run/from-inside")
    assert (up.folder.path / "from-inside").read_text() == "seen\n"


def test_a_command_has_its_input_output_errors_and_status(up: Containers) -> None:
    data = bytes(range(256)) * 4096  # 1 MiB: more than any buffer on the way, both ways at once
    done = up.exec(0, ["sh", "-c", "cat; echo trouble >&2; exit 3"], stdin=data)
    assert (done.status, done.output == data, done.errors) == (3, True, "trouble\n")


def test_what_is_said_at_once_is_not_lost(up: Containers) -> None:
    for _ in range(20):
        assert up.exec(1, ["echo", "first words"]).output == b"first words\n"


def test_ranks_have_no_rights_over_the_network_and_a_privileged_command_has(up: Containers) -> None:
    # changing a setting of an interface is what NET_ADMIN is for (SIOCSIFMTU = 0x8922)
    interface = up.port(2).interface
    script = (
        "import fcntl, socket, struct, sys\n"
        f"request = struct.pack('16si12x', {interface.encode()!r}, 1300)\n"
        "fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8922, request)\n"
    )
    refused = up.exec(2, ["python", "-"], stdin=script.encode())
    assert "PermissionError" in refused.errors
    allowed = up.exec_privileged(2, ["python", "-"], stdin=script.encode())
    assert allowed.status == 0, allowed.errors
    assert said(up, 2, f"cat /sys/class/net/{interface}/mtu") == "1300\n"
    assert not [name for name in things(up.engine, up.run) if "beside" in name]


def test_the_host_end_of_every_data_link_is_on_the_data_bridge(up: Containers) -> None:
    ports = Path(f"/sys/class/net/{up.data_bridge}/brif").iterdir()
    numbers = {int((Path("/sys/class/net") / port.name / "ifindex").read_text()) for port in ports}
    assert {port.host_index for port in up.ports()} == numbers
    assert len(numbers) == 3


def test_the_agent_answers_through_its_stream_and_hears_its_end(up: Containers) -> None:
    with up.agent_stream(["sh", "-c", "while read word; do echo got $word; done; echo end >&2"]) as stream:
        for word in ("one", "two"):
            stream.writer.write(f"{word}\n".encode())
            stream.writer.flush()
            assert stream.reader.readline() == f"got {word}\n".encode()
        stream.close_stdin()
        assert stream.reader.read() == b""
        assert stream.errors == "end\n"


def test_the_agent_sees_the_hosts_interfaces_and_may_do_little_more_than_set_up_networks(up: Containers) -> None:
    script = f"test -e /sys/class/net/{up.data_bridge} && grep CapEff /proc/self/status"
    done = up.engine.exec(up.agent, ["sh", "-c", script])
    assert int(done.output.split()[1], 16) == 1 << 12 | 1 << 13 | 1 << 23  # NET_ADMIN, NET_RAW, SYS_NICE


def test_one_mpi_job_spans_all_containers_and_its_bytes_take_the_data_network(up: Containers) -> None:
    def carried(bridge: str) -> int:
        """Bytes that came into the bridge from the containers' side."""
        ports = Path(f"/sys/class/net/{bridge}/brif").iterdir()
        return sum(int((Path("/sys/class/net") / p.name / "statistics/rx_bytes").read_text()) for p in ports)

    data_before, control_before = carried(up.data_bridge), carried(up.control_bridge)
    with MpiJob(up, ["python", "-c", PROGRAM]) as job:
        until(lambda: job.poll() is not None)
        assert job.poll() == 0, tail(job.log)
    # four ranks, consecutive on their nodes; 0 + 1 + 2 + 3 = 6
    printed = [up.folder.output(rank).read_text() for rank in range(4)]
    assert printed == ["0 4 node-0 6\n", "1 4 node-0 6\n", "2 4 node-1 6\n", "3 4 node-2 6\n"]
    # whatever way the sum takes, each of the two single nodes sends its MiB and gets one
    assert carried(up.data_bridge) - data_before > 2 * MIB
    assert carried(up.control_bridge) - control_before < MIB


def test_killing_a_job_ends_every_rank_in_every_container(up: Containers) -> None:
    for rank in range(4):
        up.folder.output(rank).unlink(missing_ok=True)
    job = MpiJob(up, ["python", "-c", STAY])
    with job:
        until(lambda: all(up.folder.output(r).exists() and up.folder.output(r).read_text() for r in range(4)))
        assert job.poll() is None
    until(lambda: job.poll() is not None)
    processes = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done 2>/dev/null"
    until(lambda: all("time.sleep" not in said(up, node, processes) for node in range(3)))
    job.kill()  # twice does no harm


def test_a_container_that_was_started_again_says_so(up: Containers) -> None:
    before = up.started_at(2)
    assert up.started_at(2) == before
    up.engine.client.api.restart(up.nodes[2].container, timeout=0)
    assert up.started_at(2) != before


def test_putting_away_leaves_nothing_and_twice_does_no_harm(
    engine: Engine, images: dict[str, str], tmp_path: Path
) -> None:
    run = secrets.token_hex(4)
    containers = Containers(engine, plan(1, 1), run=run, folder=RunFolder(tmp_path), **images)
    with containers:
        assert len(things(engine, run)) == 5  # two nodes, the agent, two networks
    assert things(engine, run) == []
    assert containers.put_away() == ()
    assert not Path(f"/sys/class/net/{containers.data_bridge}").exists()


def test_a_bringing_up_that_fails_halfway_leaves_nothing(
    engine: Engine, images: dict[str, str], tmp_path: Path
) -> None:
    run = secrets.token_hex(4)
    broken = {**images, "rank_image": "testbed-nobody-has-this:1"}
    with (
        pytest.raises(BringUpError, match="testbed-nobody-has-this"),
        Containers(engine, plan(1, 1), run=run, folder=RunFolder(tmp_path), **broken),
    ):
        pass
    assert things(engine, run) == []


def test_a_run_that_is_not_admitted_never_has_a_node(engine: Engine, images: dict[str, str], tmp_path: Path) -> None:
    run = secrets.token_hex(4)
    seen: list[list[str]] = []

    def refuse(containers: Containers) -> None:
        seen.append(sorted(things(engine, run)))
        raise BringUpError("not on this kernel")

    with (
        pytest.raises(BringUpError, match="not on this kernel"),
        Containers(engine, plan(1, 1), run=run, folder=RunFolder(tmp_path), admit=refuse, **images),
    ):
        pass
    assert seen == [[f"testbed-{run}-{what}" for what in ("agent", "control", "data")]]
    assert things(engine, run) == []


def test_an_interrupt_while_bringing_up_leaves_nothing(engine: Engine, images: dict[str, str], tmp_path: Path) -> None:
    run = secrets.token_hex(4)
    # A shell's background jobs ignore Ctrl-C, and their children with them.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt(_: Containers) -> None:
        signal.raise_signal(signal.SIGINT)  # as Ctrl-C does, with networks and agent up

    with (
        pytest.raises(KeyboardInterrupt),
        Containers(engine, plan(1, 1), run=run, folder=RunFolder(tmp_path), admit=interrupt, **images),
    ):
        pass
    signal.signal(signal.SIGINT, before)
    assert things(engine, run) == []


@pytest.fixture
def owner(images: dict[str, str], tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Another process that has brought a run up, with a command in the agent that listens to it; and the run's id."""
    run = secrets.token_hex(4)
    script = f"""
import time
from pathlib import Path
from testbed.core.links import LinkState
from testbed.plan.model import AlgorithmChoice, Network, NodeSpec, Plan, Run, Task
from testbed.runfolder import RunFolder
from testbed.runtime.containers import Containers
from testbed.runtime.engine import Engine
network = Network(LinkState.uniform(1))
plan = Plan("runtime-test", (NodeSpec(),), network, AlgorithmChoice("rps"), Task(), Run())
folder = RunFolder(Path({str(tmp_path)!r}))
with Engine.connect() as engine, Containers(engine, plan, run={run!r}, folder=folder, **{images!r}) as containers:
    stream = containers.agent_stream(["sh", "-c", "cat; echo > /tmp/heard-the-end"])
    print("up", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"up\n"
        yield process, run
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def standing(engine: Engine, run: str) -> list[Standing]:
    return [row for row in leftovers.find(engine) if row.run == run]


def test_what_a_killed_owner_leaves_is_found_dead_and_removed(
    engine: Engine, owner: tuple[subprocess.Popen[bytes], str]
) -> None:
    process, run = owner
    (row,) = standing(engine, run)
    assert (row.alive, row.name) == (True, "runtime-test")
    assert leftovers.condemned([row]) == []
    process.send_signal(signal.SIGKILL)
    process.wait()
    (row,) = leftovers.condemned(standing(engine, run))
    agent = row.agent
    assert agent is not None
    until(lambda: engine.exec(agent.id, ["test", "-e", "/tmp/heard-the-end"]).status == 0)
    cleared: list[tuple[str, bool]] = []

    def clear(row: Standing) -> None:  # comes while the agent can still be asked
        cleared.append((row.run, engine.exec(agent.id, ["true"]).status == 0))

    ((_, gone),) = leftovers.down(engine, [row], clear_links=clear)
    assert cleared == [(run, True)]
    assert set(gone) == {f"testbed-{run}-{what}" for what in ("agent", "node-0", "control", "data")}
    assert standing(engine, run) == []


def test_a_living_owner_is_ended_and_its_run_removed(
    engine: Engine, owner: tuple[subprocess.Popen[bytes], str]
) -> None:
    process, run = owner
    leftovers.down(engine, leftovers.condemned(standing(engine, run), names=[run]), clear_links=lambda row: None)
    assert process.wait(timeout=DEADLINE_S) == -signal.SIGTERM  # this one does not put away itself
    assert things(engine, run) == []


def test_a_run_whose_links_cannot_be_cleared_stays_to_be_found_again(
    engine: Engine, owner: tuple[subprocess.Popen[bytes], str]
) -> None:
    process, run = owner
    process.kill()
    process.wait()

    def fail(row: Standing) -> None:
        raise BringUpError("the agent is confused")

    with pytest.raises(BringUpError, match="the agent is confused"):
        leftovers.down(engine, standing(engine, run), clear_links=fail)
    assert len(standing(engine, run)) == 1
    leftovers.down(engine, standing(engine, run), clear_links=lambda row: None)
    assert standing(engine, run) == []


def test_the_memory_of_a_cluster_lasts_while_one_of_its_nodes_is_up(
    engine: Engine, images: dict[str, str], tmp_path: Path
) -> None:
    run = secrets.token_hex(4)
    shared = replace(plan(1, 1, 1), clusters=((0, 1),))
    with Containers(engine, shared, run=run, folder=RunFolder(tmp_path), **images) as containers:
        written = f"{REGISTERS_FOLDER}/written"

        def sees(node: int) -> bool:
            return containers.exec(node, ["test", "-e", written]).status == 0

        assert containers.exec(0, ["touch", written]).status == 0, "it belongs to the ranks' user"
        assert sees(1)
        assert not sees(2)
        containers.kill(0)
        containers.start_again(0)
        assert sees(0), "node 1 was up all the time"
        containers.kill(0)
        containers.kill(1)
        containers.start_again(0)
        assert not sees(0)
        assert f"testbed-{run}-registers-0" in [volume.name for volume in engine.volumes(labels.RUN)]
    assert things(engine, run) == []
