"""The Docker engine: the one door to docker-py for containers, networks and commands inside containers.

It takes specifications and gives ids; what a testbed consists of is containers.py. Errors of the engine become
BringUpError with what was being done; an engine that cannot be reached becomes MachineError with what to try.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Network
from types import TracebackType
from typing import Any

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.types import DeviceRequest, IPAMConfig, IPAMPool, Mount
from requests.exceptions import RequestException

from testbed.errors import BringUpError, MachineError
from testbed.runtime.exec_stream import ExecStream, open_exec

REQUEST_TIMEOUT_S = 60.0  # one request; the slowest, making a container, takes 2 s on a busy machine
FREEZE_DEADLINE_S = 30.0  # until a container that is to be paused stands still; each attempt takes a second or more
CPU_PERIOD_US = 100_000  # of the kernel's CPU quotas; a quota and not NanoCpus, because that cannot be changed later
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """A bridge with one subnet, from which nothing is forwarded beyond the machine."""

    name: str
    bridge: str  # the interface's name on the host, at most 15 characters
    subnet: IPv4Network
    labels: Labels
    mtu: int | None = None


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """Memory with a name (a tmpfs), that several containers can share. It comes with the first of them that runs, and
    what it holds goes with the last: the engine mounts it for the one and unmounts it after the other."""

    name: str
    labels: Labels
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume, as the container sees it."""

    name: str
    target: str


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder or file of the host's, as the container sees it."""

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container that does nothing until commands are run in it."""

    name: str
    image: str
    labels: Labels
    hostname: str | None = None
    addresses: tuple[tuple[str, str], ...] = ()  # (network's name, address); empty: what `network_mode` says
    network_mode: str = "host"  # or container:NAME, to share that one's network
    user: str = ""
    folders: tuple[Folder, ...] = ()
    volumes: tuple[Volume, ...] = ()
    hosts: Mapping[str, str] = field(default_factory=dict)  # name -> address, for /etc/hosts
    environment: Mapping[str, str] = field(default_factory=dict)
    cpus: float | None = None
    memory_bytes: int | None = None
    shared_memory_bytes: int | None = None
    gpus: int | str | tuple[str, ...] | None = None
    sysctls: Mapping[str, str] = field(default_factory=dict)
    only_capabilities: tuple[str, ...] | None = None  # all others are dropped; None: Docker's usual ones
    cpu_shares: int | None = None  # of the cores that many want, against the 1024 of others


@dataclass(frozen=True, slots=True)
class Thing:
    """A container, a network or a volume, as the engine lists it."""

    id: str
    name: str
    labels: Labels
    state: str = ""  # of a container: running, exited, created ...


@dataclass(frozen=True, slots=True)
class Done:
    """How a command inside a container ended."""

    status: int
    output: bytes
    errors: str


class Engine:
    """The engine that the `docker` command line would speak to. A context manager."""

    def __init__(self, client: docker.DockerClient) -> None:
        self.client = client
        self._api = client.api
        adapter: Any = self._api.get_adapter(self._api.base_url)
        self._socket_path = str(adapter.socket_path)

    @classmethod
    def connect(cls) -> Engine:
        """Follows DOCKER_HOST and `docker context`, as the command line does."""
        try:
            client = docker.from_env(timeout=int(REQUEST_TIMEOUT_S), version="auto")
        except (DockerException, RequestException) as exc:
            raise unreachable(str(exc)) from exc
        if client.api.base_url != "http+docker://localhost":  # docker-py's name for every Unix socket
            address = client.api.base_url
            client.close()
            raise MachineError(
                f"the Docker engine at {address} is not one of this machine's own: it cannot see the run's folder",
                remedy="unset DOCKER_HOST, or `docker context use default`",
            )
        return cls(client)

    def close(self) -> None:
        self.client.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @cached_property
    def info(self) -> dict[str, Any]:
        with translated("asking the Docker engine what it is"):
            info: dict[str, Any] = self.client.info()
        return info

    @property
    def version(self) -> str:
        return str(self.info["ServerVersion"])

    # -- networks

    def subnets(self) -> tuple[str, ...]:
        """Of every network of the engine, also those without a bridge at the moment."""
        with translated("listing networks"):
            rows = self._api.networks()
        pools = [pool for row in rows for pool in (row.get("IPAM") or {}).get("Config") or ()]
        return tuple(pool["Subnet"] for pool in pools if pool.get("Subnet"))

    def networks(self, label: str) -> tuple[Thing, ...]:
        """Those with `label`, a name or name=value."""
        with translated("listing networks"):
            rows = self._api.networks(filters={"label": label})
        return tuple(Thing(row["Id"], row["Name"], row.get("Labels") or {}) for row in rows)

    def create_network(self, spec: NetworkSpec) -> None:
        options = {"com.docker.network.bridge.name": spec.bridge}
        if spec.mtu is not None:
            options["com.docker.network.driver.mtu"] = str(spec.mtu)
        with translated(f"making network {spec.name} ({spec.subnet})"):
            self._api.create_network(
                spec.name,
                driver="bridge",
                options=options,
                ipam=IPAMConfig(pool_configs=[IPAMPool(subnet=str(spec.subnet))]),
                internal=True,
                labels=dict(spec.labels),
                check_duplicate=True,
            )

    def remove_network(self, network: str) -> None:
        """Also with containers still in it; no harm where it is gone.

        Raises StuckNetworkError where the engine says that there are some, and cannot say which.
        """
        with translated(f"removing network {network}"), suppressed_gone():
            for container in self._api.inspect_network(network).get("Containers") or {}:
                with suppressed_gone():
                    self._api.disconnect_container_from_network(container, network, force=True)
            try:
                self._api.remove_network(network)
            except APIError as error:
                if "active endpoints" not in str(error.explanation):
                    raise
                raise StuckNetworkError(
                    f"the engine keeps the network {network[:12]}: it counts containers in it that are no more",
                    remedy="restart the Docker engine, then `testbed down`: it counts anew when it starts",
                ) from error

    # -- volumes

    def volumes(self, label: str) -> tuple[Thing, ...]:
        """Those with `label`, a name or name=value."""
        with translated("listing volumes"):
            rows = self._api.volumes(filters={"label": label})["Volumes"] or ()
        return tuple(Thing(row["Name"], row["Name"], row.get("Labels") or {}) for row in rows)

    def create_volume(self, spec: VolumeSpec) -> None:
        options = {"type": "tmpfs", "device": "tmpfs", "o": f"uid={spec.uid},gid={spec.gid},mode=0700"}
        with translated(f"making volume {spec.name}"):
            self._api.create_volume(spec.name, driver="local", driver_opts=options, labels=dict(spec.labels))

    def remove_volume(self, volume: str) -> None:
        """No harm where it is gone; it stays where a container has it, so look again."""
        with translated(f"removing volume {volume}"), suppressed_gone():
            try:
                self._api.remove_volume(volume)
            except APIError as exc:
                if exc.status_code != 409 or "in use" not in str(exc.explanation):
                    raise

    # -- containers

    def containers(self, label: str) -> tuple[Thing, ...]:
        """Those with `label`, a name or name=value, whether they run or not."""
        with translated("listing containers"):
            rows = self._api.containers(all=True, filters={"label": label})
        return tuple(
            Thing(row["Id"], row["Names"][0].lstrip("/") if row["Names"] else row["Id"], row["Labels"], row["State"])
            for row in rows
        )

    def start_container(self, spec: ContainerSpec) -> str:
        """Make it, join it to its networks, start it. Its id."""
        with translated(f"starting container {spec.name} from {spec.image}"):
            container = str(self._api.create_container(**_creation(self._api, spec))["Id"])
            for network, address in spec.addresses[1:]:  # engines before API 1.44 join only one when making it
                self._api.connect_container_to_network(container, network, ipv4_address=address)
            self._api.start(container)
        return container

    def remove_container(self, container: str) -> None:
        """Also while it runs; no harm where it is gone."""
        with translated(f"removing container {container}"), suppressed_gone():
            self._api.remove_container(container, force=True, v=True)

    def state(self, container: str) -> tuple[bool, str]:
        """Whether it runs (or is paused), and when it was last started, as the engine writes it: a container that was
        killed and started has another time."""
        with translated(f"looking at container {container}"):
            state = self._api.inspect_container(container)["State"]
        return bool(state["Running"]), str(state["StartedAt"])

    def process(self, container: str) -> tuple[str, int]:
        """Its whole id, and the pid of its first process on the engine's machine; 0 where it does not run."""
        with translated(f"looking at container {container}"):
            found = self._api.inspect_container(container)
        return str(found["Id"]), int(found["State"]["Pid"])

    def kill_container(self, container: str) -> None:
        """SIGKILL to everything in it, also while it is paused. It can be started again."""
        with translated(f"killing container {container}"):
            try:
                self._api.kill(container, signal="SIGKILL")
            except APIError as exc:
                if exc.status_code != 409:  # it is dead already
                    raise
            self._api.wait(container, condition="not-running")

    def start_again(self, container: str) -> None:
        """One that was killed: the same file system, limits and addresses, in new namespaces."""
        with translated(f"starting container {container} again"):
            self._api.start(container)

    def pause_container(self, container: str) -> None:
        """A process that gets no CPU time cannot be frozen at once, and the container runtime soon gives up: for some
        time it is asked again."""
        deadline_s = time.monotonic() + FREEZE_DEADLINE_S
        with translated(f"pausing container {container}, for {FREEZE_DEADLINE_S:g} s"):
            while True:
                try:
                    self._api.pause(container)
                    return
                except APIError as exc:
                    if "unable to freeze" not in str(exc.explanation) or time.monotonic() > deadline_s:
                        raise

    def resume_container(self, container: str) -> None:
        with translated(f"resuming container {container}"):
            self._api.unpause(container)

    def limit_cpus(self, container: str, cpus: float | None) -> None:
        """From now on, also when it is started again; None: no limit."""
        with translated(f"limiting the CPUs of container {container}"):
            self._api.update_container(container, cpu_period=CPU_PERIOD_US, cpu_quota=quota_us(cpus))

    def follow(self, label: str, tell: Callable[[str, str], None]) -> Following:
        """Calls `tell(container's name, "start" | "die")` from a thread, for containers with `label`, until closed."""
        with translated("listening to the engine's events"):
            stream = self._api.events(decode=True, filters={"label": label, "event": ["start", "die"]})
        return Following(stream, tell)

    # -- commands inside a container

    def exec(
        self,
        container: str,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        user: str = "",
        privileged: bool = False,
        timeout_s: float = 60.0,
    ) -> Done:
        """Run `argv` to its end. `user` is the container's own if not given."""
        exec_id, stream = self._open(
            container, argv, user=user, privileged=privileged, timeout_s=timeout_s, stdin=bool(stdin)
        )
        with stream:
            feeder = threading.Thread(target=_feed, args=(stream, stdin), daemon=True)
            if stdin:  # from beside, so that a command that answers while it still reads cannot lock both sides
                feeder.start()
            output = stream.reader.read()
            with translated(f"looking at {argv[0]} in {container}"):
                status = self._api.exec_inspect(exec_id)["ExitCode"]
            return Done(int(status), output, stream.errors)

    def exec_stream(self, container: str, argv: Sequence[str], *, timeout_s: float | None = 60.0) -> ExecStream:
        """`argv` with its stdin and stdout open to us; it reads the end of its input when we close them, or die."""
        return self._open(container, argv, user="", privileged=False, timeout_s=timeout_s, stdin=True)[1]

    def exec_detached(self, container: str, argv: Sequence[str], *, environment: Mapping[str, str]) -> str:
        """Start `argv` and leave it alone. What `exec_status` wants to know it by."""
        with translated(f"starting {argv[0]} in {container}"):
            exec_id = str(self._api.exec_create(container, list(argv), environment=dict(environment))["Id"])
            self._api.exec_start(exec_id, detach=True)
        return exec_id

    def exec_status(self, exec_id: str) -> int | None:
        """The exit status of a detached command, None while it runs; 255 where its container has gone with it."""
        with translated("looking at a command"):
            try:
                row = self._api.exec_inspect(exec_id)
            except NotFound:
                return 255
        return None if row["Running"] else int(255 if row["ExitCode"] is None else row["ExitCode"])

    def _open(
        self, container: str, argv: Sequence[str], *, user: str, privileged: bool, timeout_s: float | None, stdin: bool
    ) -> tuple[str, ExecStream]:
        what = f"`{argv[0]}` in {container}"
        with translated(f"starting {what}"):
            created = self._api.exec_create(container, list(argv), stdin=stdin, user=user, privileged=privileged)
        exec_id = str(created["Id"])
        stream = open_exec(
            self._socket_path,
            api_version=self._api.api_version,
            exec_id=exec_id,
            what=what,
            start_timeout_s=REQUEST_TIMEOUT_S,
            timeout_s=timeout_s,
        )
        return exec_id, stream


class Following:
    """The engine's events, told as they come, by a thread of its own."""

    def __init__(self, stream: Any, tell: Callable[[str, str], None]) -> None:
        self._stream = stream
        self._tell = tell
        self._thread = threading.Thread(target=self._listen, name="engine events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stream.close()
        self._thread.join()

    def _listen(self) -> None:
        try:
            for event in self._stream:
                self._tell(event["Actor"]["Attributes"]["name"], event["Action"])
        except (OSError, ValueError, RequestException, DockerException):
            return  # closed under our hands, or the engine has gone: whoever speaks to it will say so


def quota_us(cpus: float | None) -> int:
    """Of CPU time in each period; the kernel takes no less than 1 ms."""
    return -1 if cpus is None else max(1000, round(cpus * CPU_PERIOD_US))


def _feed(stream: ExecStream, data: bytes) -> None:
    try:
        stream.writer.write(data)
        stream.close_stdin()
    except (OSError, ValueError):  # it ended without reading everything, as it may
        pass


def _creation(api: docker.APIClient, spec: ContainerSpec) -> dict[str, Any]:
    """The arguments of docker-py's `create_container`."""
    limits: dict[str, Any] = {}
    if spec.cpus is not None:
        limits |= {"cpu_period": CPU_PERIOD_US, "cpu_quota": quota_us(spec.cpus)}
    if spec.cpu_shares is not None:
        limits["cpu_shares"] = spec.cpu_shares
    if spec.memory_bytes is not None:
        limits["mem_limit"] = limits["memswap_limit"] = spec.memory_bytes  # no swap: a rank that swaps is measured late
    if spec.shared_memory_bytes is not None:
        limits["shm_size"] = spec.shared_memory_bytes
    if spec.gpus:
        limits["device_requests"] = [_device_request(spec.gpus)]
    if spec.only_capabilities is not None:
        limits |= {"cap_drop": ["ALL"], "cap_add": list(spec.only_capabilities)}
    host_config = api.create_host_config(
        network_mode=spec.addresses[0][0] if spec.addresses else spec.network_mode,
        init=True,
        mounts=[
            *(Mount(f.target, f.source, type="bind", read_only=f.read_only) for f in spec.folders),
            *(Mount(v.target, v.name, type="volume", no_copy=True) for v in spec.volumes),
        ],
        extra_hosts=dict(spec.hosts),
        sysctls=dict(spec.sysctls),
        **limits,
    )
    networking: Any = None
    if spec.addresses:
        network, address = spec.addresses[0]
        endpoints: Any = {network: api.create_endpoint_config(ipv4_address=address)}
        networking = api.create_networking_config(endpoints)
    return {
        "image": spec.image,
        "name": spec.name,
        "entrypoint": ["sleep"],
        "command": ["infinity"],
        "hostname": spec.hostname,
        "user": spec.user,
        "environment": dict(spec.environment),
        "labels": dict(spec.labels),
        "host_config": host_config,
        "networking_config": networking,
    }


def _device_request(gpus: int | str | tuple[str, ...]) -> DeviceRequest:
    """`gpus` is a count, "all", or the ids of devices. Nodes that ask for a count all get the same, first ones."""
    capabilities = [["gpu"]]
    if isinstance(gpus, tuple):
        return DeviceRequest(device_ids=list(gpus), capabilities=capabilities)
    return DeviceRequest(count=-1 if gpus == "all" else int(gpus), capabilities=capabilities)


# -- errors


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """docker-py's errors as ours, with what was being done."""
    try:
        yield
    except APIError as exc:
        raise BringUpError(f"{doing}: {exc.explanation or exc}") from exc
    except RequestException as exc:
        raise MachineError(
            f"{doing}: the Docker engine did not answer ({exc})", remedy="look at its log: `journalctl -u docker`"
        ) from exc
    except DockerException as exc:
        raise BringUpError(f"{doing}: {exc}") from exc


class StuckNetworkError(BringUpError):
    """The engine has lost count of a network's containers (seen with 20.10 after 2 of 19 runs that killed many)."""


@contextmanager
def suppressed_gone() -> Iterator[None]:
    """What is gone, or is being removed by somebody else, need not be removed."""
    try:
        yield
    except NotFound:
        pass
    except APIError as exc:
        if exc.status_code != 409 or "in progress" not in str(exc.explanation):
            raise


def unreachable(reason: str) -> MachineError:
    """Why nobody answers, as far as the words of the error tell, and what to try."""
    if "permission denied" in reason.lower():
        return MachineError(
            "this user may not speak to the Docker engine (permission denied on its socket)",
            remedy="`sudo usermod -aG docker $USER` and log in again, or use sudo",
        )
    return MachineError(
        f"no Docker engine answers ({reason})",
        remedy="`make docker-start` installs and starts one; `docker info` must work",
    )
