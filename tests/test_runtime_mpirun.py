"""mpirun's words, and what our two small shell scripts do."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from testbed.runtime.mpirun import (
    LAUNCH_SCRIPT,
    containers_argv,
    local_argv,
    node_argv,
    rank_command,
    rank_environment,
    watched_command,
)


def over_containers(ranks: dict[str, int]) -> list[str]:
    return containers_argv(
        ["program"],
        ranks=ranks,
        control="10.213.0.0/24",
        data="10.213.1.0/24",
        launch_agent="/bin/sh agent.sh /folder",
        environment={"OMP_NUM_THREADS": "1"},
    )


def value(argv: list[str], *names: str) -> str:
    """The word after `names` in `argv`."""
    (place,) = [k for k in range(len(argv)) if tuple(argv[k : k + len(names)]) == names]
    return argv[place + len(names)]


def test_ranks_follow_the_order_of_the_nodes() -> None:
    argv = over_containers({"node-0": 2, "node-1": 1})
    assert value(argv, "--host") == "node-0:2,node-1:1"
    assert value(argv, "-n") == "3"
    assert value(argv, "--map-by") == "slot:OVERSUBSCRIBE"  # one node's slots are filled before the next one's
    assert argv[-1] == "program"


def test_training_takes_the_data_network_and_mpiruns_own_talk_the_control_network() -> None:
    argv = over_containers({"node-0": 1, "node-1": 1})
    assert value(argv, "--mca", "btl_tcp_if_include") == "10.213.1.0/24"
    assert value(argv, "--prtemca", "oob_tcp_if_include") == "10.213.0.0/24"
    assert value(argv, "--prtemca", "plm_ssh_agent") == "/bin/sh agent.sh /folder"


@pytest.mark.parametrize(("second", "transports"), [(1, "tcp,self"), (2, "tcp,self,sm")])
def test_shared_memory_is_for_nodes_with_several_ranks(second: int, transports: str) -> None:
    assert value(over_containers({"node-0": 1, "node-1": second}), "--mca", "btl") == transports


def test_ranks_of_this_machine_keep_to_its_loopback_and_yield() -> None:
    argv = local_argv(["program"], mpirun=Path("/venv/bin/mpirun"), size=4, environment={"A": "b"})
    assert argv[0] == "/venv/bin/mpirun"
    assert value(argv, "--host") == "localhost:4"
    assert value(argv, "--mca", "btl_tcp_if_include") == "127.0.0.0/8"
    assert value(argv, "--mca", "mpi_yield_when_idle") == "1"
    assert value(argv, "-x") == "A=b"


def test_threads_are_the_same_for_all_that_compute() -> None:
    environment = rank_environment(2)
    assert {environment[name] for name in environment if name.endswith("_THREADS")} == {"2"}


def test_what_a_rank_prints_lies_with_it_and_its_exit_status_is_kept(tmp_path: Path) -> None:
    argv = rank_command(["/bin/sh", "-c", 'echo "$1"; echo last words >&2; exit 3', "-", "a b"], run_folder=tmp_path)
    for _ in range(2):  # a rank that was started again writes on
        done = subprocess.run(argv, env={"OMPI_COMM_WORLD_RANK": "5", "PATH": "/usr/bin:/bin"}, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (3, b"", b"")
    assert (tmp_path / "ranks" / "5" / "output.log").read_text() == "a b\nlast words\n" * 2


def test_the_launch_agent_writes_its_command_down_and_nothing_else(tmp_path: Path) -> None:
    # mpirun's own quotes belong to the command, for the shell that will run it
    subprocess.run(["/bin/sh", "-c", LAUNCH_SCRIPT, "agent", str(tmp_path), "node-1", "A=b;prted", '"x y"'], check=True)
    (written,) = tmp_path.iterdir()
    assert (written.name, written.read_text()) == ("node-1.command", 'A=b;prted "x y"\n')


def test_ranks_of_a_job_per_node_have_their_numbers_in_the_whole_run() -> None:
    argv = node_argv(["program"], ranks=2, first=6, life=1, environment={})
    assert value(argv, "--host") == "localhost:2"
    assert {"TESTBED_FIRST_RANK=6", "TESTBED_LIFE=1"} <= set(argv)
    assert value(argv, "--rtos") == "recoverable"


def test_a_watched_rank_leaves_its_status_and_does_not_frighten_mpirun(tmp_path: Path) -> None:
    argv = watched_command(["/bin/sh", "-c", "echo words; exit 3"], run_folder=tmp_path, statuses=tmp_path)
    environment = {"OMPI_COMM_WORLD_RANK": "1", "TESTBED_FIRST_RANK": "6", "TESTBED_LIFE": "2", "PATH": "/usr/bin:/bin"}
    assert subprocess.run(argv, env=environment).returncode == 0
    assert (tmp_path / "rank-7.2.status").read_text() == "3\n"
    assert (tmp_path / "ranks" / "7" / "output.log").read_text() == "words\n"
