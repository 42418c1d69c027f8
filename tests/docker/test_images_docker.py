"""The images as they are built, and the program that starts an engine: seen from inside containers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from testbed.errors import BringUpError
from testbed.runtime.images import Images
from testbed.runtime.labels import start_of
from testbed.runtime.recipe import Layer

pytestmark = pytest.mark.docker
STRANGER = "12345:12345"  # a user that no image knows


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(scope="module")
def images(client: docker.DockerClient) -> Images:
    return Images(client)


@pytest.fixture(scope="module")
def rank(images: Images) -> str:
    return images.ensure("rank", progress=print)


@pytest.fixture(scope="module")
def agent(images: Images) -> str:
    return images.ensure("agent", progress=print)


def said_by(client: docker.DockerClient, image: str, *command: str, user: str = STRANGER, **settings: object) -> str:
    settings = {"network_mode": "none", **settings}
    output = client.containers.run(image, list(command), user=user, remove=True, stderr=True, **settings)  # type: ignore[call-overload]
    return str(output.decode())


def test_an_image_that_is_there_is_not_built_again(images: Images, rank: str) -> None:
    lines: list[str] = []
    assert images.ensure("rank", progress=lines.append) == rank
    assert lines == []


def test_images_are_listed_as_current_with_all_their_layers(images: Images, rank: str, agent: str) -> None:
    current = {info.kind: info for info in images.list() if info.current}
    assert set(current) == {"base", "torch", "pyroute2", "rank", "agent"}
    assert current["rank"].tag == rank
    assert current["agent"].tag == agent
    # Our modules are small beside torch; torch's wheels alone are 200 MB, and none of them is left in a layer.
    assert current["rank"].size_bytes - current["torch"].size_bytes < 10e6


@pytest.mark.parametrize("user", ["0:0", STRANGER])
def test_mpirun_starts_ranks_whoever_the_user_is(client: docker.DockerClient, rank: str, user: str) -> None:
    program = "from mpi4py import MPI; print('size', MPI.COMM_WORLD.allreduce(1))"
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2", "python", "-c", program]
    assert said_by(client, rank, *mpirun, user=user).count("size 2") == 2


def test_a_rank_container_imports_the_rank_program_and_its_torch_computes(
    client: docker.DockerClient, rank: str
) -> None:
    program = "import testbed.rank, testbed.evaluate, torch; print(float(torch.ones(3) @ torch.ones(3)))"
    assert said_by(client, rank, "python", "-c", program).strip() == "3.0"


def test_a_rank_container_holds_nothing_of_the_host_side(client: docker.DockerClient, rank: str) -> None:
    absent = "click docker yaml sklearn matplotlib rich requests pyroute2 testbed.cli testbed.runtime testbed.network"
    program = f"""
import importlib.util
for name in {absent.split()!r}:
    if importlib.util.find_spec(name) is not None:
        print(name)
"""
    assert said_by(client, rank, "python", "-c", program) == ""


def test_the_agent_speaks_netlink_and_nft_with_one_capability(client: docker.DockerClient, agent: str) -> None:
    program = """
import subprocess, testbed.network.agent
from pyroute2 import IPRoute
with IPRoute() as route:
    print([dict(link["attrs"])["IFLA_IFNAME"] for link in route.get_links()])
print(subprocess.run(["nft", "-j", "list", "tables"], check=True, capture_output=True, text=True).stdout)
"""
    limits = {"cap_drop": ["ALL"], "cap_add": ["NET_ADMIN"]}
    said = said_by(client, agent, "python", "-c", program, user="0:0", **limits)
    assert "['lo']" in said
    assert '"nftables"' in said


def test_a_build_that_fails_says_why_and_leaves_nothing(
    client: docker.DockerClient, images: Images, agent: str
) -> None:
    base, *_ = images._layers("agent")
    trial = Layer("testbed-trial", base, "echo no luck today >&2; exit 7")
    with pytest.raises(BringUpError, match="status 7") as failure:
        images._build([base, trial], print)
    assert "no luck today" in str(failure.value)
    assert not images._exists(trial.tag)
    assert client.containers.list(all=True, filters={"name": f"testbed-build-{os.getuid()}-"}) == []


def test_a_file_that_goes_into_a_layer_can_be_read_by_everybody(
    client: docker.DockerClient, images: Images, agent: str
) -> None:
    base, *_ = images._layers("agent")
    trial = Layer("testbed-trial", base, "true", files={"opt/testbed-trial/below/note": b"hello\n"})
    try:
        images._build([base, trial], print)
        assert said_by(client, trial.tag, "cat", "/opt/testbed-trial/below/note") == "hello\n"
    finally:
        images._remove([trial.tag])
    assert not images._exists(trial.tag)


def test_what_a_killed_build_left_is_removed(client: docker.DockerClient, images: Images, agent: str) -> None:
    left = client.containers.create(agent, ["true"], name=f"testbed-build-{os.getuid()}-0-{os.getpid()}")
    images.remove_leftovers()
    assert left.id not in [container.id for container in client.containers.list(all=True)]
    images.remove_leftovers()  # twice does no harm


def test_an_image_of_earlier_sources_goes_and_the_current_ones_stay(
    client: docker.DockerClient, images: Images, agent: str
) -> None:
    stale = "testbed-agent:000000000000"
    client.images.get(agent).tag(*stale.split(":"))
    assert stale in images.remove_stale()
    assert agent in [info.tag for info in images.list()]


@pytest.fixture
def second_engine(repository: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    """docker-engine, told to run a daemon of its own beside the machine's, in a network namespace of its own.

    That namespace is needed: with --bridge=none dockerd *deletes* a docker0 that it finds, here the machine's.
    """
    if not (shutil.which("dockerd") or Path("/usr/sbin/dockerd").exists()):
        pytest.skip(
            "no dockerd beside the command line here (Docker Desktop?): the engine cannot be started a second time"
        )
    folder = Path(tempfile.mkdtemp(prefix="testbed-engine-", dir="/tmp"))  # a socket's path must be short
    isolated = f"--data-root {folder}/data --exec-root {folder}/exec --bridge=none --iptables=false --ip6tables=false"
    environment = {
        **os.environ,
        "DOCKER_HOST": f"unix://{folder}/docker.sock",
        "TESTBED_DOCKERD_OPTIONS": isolated,
        "TESTBED_DOCKERD_PIDFILE": f"{folder}/docker.pid",
        "TESTBED_ENGINE_STATE": f"{folder}/state",
    }
    program = ["unshare", "--net", str(repository / "images" / "docker-engine")]
    try:
        yield program, environment
    finally:
        subprocess.run([*program, "stop"], env=environment, check=False, timeout=120)
        # dockerd mounts its data folder on itself, and a killed one's mount survives.
        subprocess.run(["umount", f"{folder}/data"], check=False, capture_output=True)
        shutil.rmtree(folder)


@pytest.mark.root
def test_an_engine_started_for_a_command_ends_with_it(second_engine: tuple[list[str], dict[str, str]]) -> None:
    program, environment = second_engine
    pidfile = Path(environment["TESTBED_DOCKERD_PIDFILE"])
    done = subprocess.run(
        [*program, "run", "sh", "-c", f"cat {pidfile}; exit 7"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 7, done.stderr
    assert start_of(int(done.stdout)) is None
    assert not pidfile.exists()


@pytest.mark.root
def test_an_engine_that_stands_is_used_and_left_alone(second_engine: tuple[list[str], dict[str, str]]) -> None:
    program, environment = second_engine
    subprocess.run([*program, "start"], env=environment, check=True, timeout=200)
    pid = int(Path(environment["TESTBED_DOCKERD_PIDFILE"]).read_text())
    done = subprocess.run([*program, "run", "true"], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert start_of(pid) is not None
    subprocess.run([*program, "stop"], env=environment, check=True, timeout=120)
    assert start_of(pid) is None
    subprocess.run([*program, "stop"], env=environment, check=True, timeout=120)  # twice does no harm


@pytest.mark.root
def test_an_engine_starts_over_what_a_killed_one_left(second_engine: tuple[list[str], dict[str, str]]) -> None:
    program, environment = second_engine
    subprocess.run([*program, "start"], env=environment, check=True, timeout=200)
    pidfile = Path(environment["TESTBED_DOCKERD_PIDFILE"])
    os.kill(int(pidfile.read_text()), signal.SIGKILL)
    done = subprocess.run([*program, "run", "true"], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "removing the pid file of a dockerd that is gone" in done.stderr
    assert not pidfile.exists()


@pytest.mark.root
def test_an_engine_that_cannot_start_says_so_with_its_last_words(
    second_engine: tuple[list[str], dict[str, str]],
) -> None:
    program, environment = second_engine
    environment["TESTBED_DOCKERD_OPTIONS"] += " --no-such-option"
    done = subprocess.run([*program, "run", "true"], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 3
    assert "no-such-option" in done.stderr
