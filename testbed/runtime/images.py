"""The images that containers start from: built when what they are made of has changed, listed, and removed.

What goes in is decided in recipe.py. A layer is built by running a script in a container and committing it, not by a
Dockerfile: wheels that a Dockerfile copies in stay in a layer for good (and `RUN --mount` needs BuildKit, which the
engine in Debian lacks), while a container can delete them before it becomes an image. What fails or is interrupted is a
container that gets removed, never a dangling image.
"""

from __future__ import annotations

import fcntl
import io
import itertools
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from testbed.errors import BringUpError, MachineError
from testbed.runtime import wheels
from testbed.runtime.recipe import SETTINGS, Kind, Layer, find_room, layers, names

LABEL = "org.testbed.image"  # on each of our images; its value is the layer's name without "testbed-"
REGISTRY_BASE = ("python", "3.11-slim-bookworm")
PROBE_DEADLINE_S = 10.0  # for the engine to ask the registry about the base image
PULL_DEADLINE_S = 300.0  # 50 MB
STEP_DEADLINE_S = 1500.0  # for one script in a container: the longest unpacks torch, in about 30 s
LOCK_DEADLINE_S = 1800.0  # for another build of the same user

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """One of our images, as `testbed image ls` shows it."""

    tag: str
    kind: str  # base | torch | pyroute2 | rank | agent
    size_bytes: int  # with the layers below it
    created: str  # ISO 8601
    current: bool  # made of what the sources are now

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        age = "current" if self.current else "of earlier sources"
        return f"{self.tag:30}  {self.size_bytes / 1e9:5.2f} GB  {self.created[:16].replace('T', ' ')}  {age}"


class Images:
    """Our images in one Docker engine."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client
        self._numbers = itertools.count(1)

    def ensure(self, kind: Kind, *, progress: Progress) -> str:
        """The tag of the image that the sources of now ask for; it is built if there is none."""
        with _our_errors():
            wanted = self._layers(kind)
            if not self._exists(wanted[-1].tag):
                with _one_build_at_a_time(progress), self._patience(STEP_DEADLINE_S):
                    self._sweep()
                    self._build(wanted, progress)
            return wanted[-1].tag

    def list(self) -> Sequence[ImageInfo]:
        """Every image of ours, the newest first."""
        with _our_errors():
            current = {layer.tag for layer in self._current()}
            found = [
                ImageInfo(
                    tag=tag,
                    kind=image.labels[LABEL],
                    size_bytes=int(image.attrs["Size"]),
                    created=str(image.attrs["Created"]),
                    current=tag in current,
                )
                for image in self._client.images.list(filters={"label": LABEL})
                for tag in image.tags
                if tag.startswith("testbed-")
            ]
        return sorted(found, key=lambda info: info.created, reverse=True)

    def remove_all(self) -> Sequence[str]:
        """Removes every image of ours that no container uses, and the wheels; returns the tags that are gone."""
        wheels.forget()
        return self._remove([info.tag for info in self.list()])

    def remove_leftovers(self) -> None:
        """Removes what a killed build of this user left behind; while another one builds, nothing."""
        with suppress(BringUpError), _our_errors(), _one_build_at_a_time(lambda line: None, patience_s=0):
            self._sweep()

    def remove_stale(self) -> Sequence[str]:
        """Removes images (and wheels) of earlier sources that no container uses; returns the tags that are gone."""
        with _our_errors():
            wheels.forget(keep=[self._wheels_of(layer) for layer in self._current() if layer.requirements])
        return self._remove([info.tag for info in self.list() if not info.current])

    # ---- what there should be

    def _layers(self, kind: Kind) -> tuple[Layer, ...]:
        return layers(kind, room=find_room(), architecture=self._architecture(), torch_index=_insisted_index())

    def _architecture(self) -> str:
        return str(self._client.version()["Arch"])  # the engine's, which need not be this process's

    def _wheels_of(self, layer: Layer) -> Path:
        return wheels.folder_of(layer.requirements, self._architecture(), _insisted_index())

    def _current(self) -> Sequence[Layer]:
        return (*self._layers("rank"), *self._layers("agent"))

    def _exists(self, tag: str) -> bool:
        try:
            self._client.images.get(tag)
        except ImageNotFound:
            return False
        return True

    # ---- building

    def _build(self, wanted: Sequence[Layer], progress: Progress) -> None:
        # From the top down to the first layer that exists, then up again.
        missing: list[Layer] = []
        for layer in reversed(wanted):
            if self._exists(layer.tag):
                break
            missing.insert(0, layer)
        for layer in missing:
            begin = time.monotonic()
            if layer.parent is None:
                self._base(layer, progress)
            else:
                self._on_top(layer, layer.parent.tag, progress)
            progress(f"image: {layer.tag} is ready ({time.monotonic() - begin:.0f} s)")

    def _base(self, layer: Layer, progress: Progress) -> None:
        packages = names(find_room() / "images" / "packages.txt")
        if self._registry_answers():
            progress(f"image: starting from the registry's {':'.join(REGISTRY_BASE)}")
            try:
                with self._registry_image() as image:
                    # That image has a Python of its own.
                    extra = [name for name in packages if not name.startswith("python3")]
                    self._step(layer, image, arguments=extra, network="bridge")
                return
            except (APIError, BringUpError) as exc:
                progress(f"image: not from the registry ({str(exc).splitlines()[0]})")
        progress("image: building Debian bookworm from its packages (about half a minute)")
        with tempfile.TemporaryDirectory(prefix="testbed-base-") as folder:
            archive = Path(folder) / "base.tar"
            _debian_base(archive)
            changes = [*SETTINGS, f"LABEL {LABEL}=base"]
            repository, tag = layer.tag.split(":")
            answer = self._client.api.import_image(str(archive), repository=repository, tag=tag, changes=changes)
        if '"error"' in str(answer):
            raise BringUpError(f"the engine did not take the base image: {answer}", remedy="see `docker info`")

    def _registry_answers(self) -> bool:
        """Whether the base image is here already or the engine itself (not we) can reach it."""
        name = ":".join(REGISTRY_BASE)
        if self._exists(name):
            return True
        try:
            with self._patience(PROBE_DEADLINE_S):
                api: Any = self._client.api  # (untyped in docker-py's stubs)
                api.inspect_distribution(name)
        except (DockerException, requests.RequestException):
            return False
        return True

    @contextmanager
    def _registry_image(self) -> Iterator[str]:
        """The registry's image; its name goes again if it was not there before (its layers stay, as part of ours)."""
        name = ":".join(REGISTRY_BASE)
        was_here = self._exists(name)
        if not was_here:
            self._pull()
        try:
            yield name
        finally:
            if not was_here:
                self._client.images.remove(name, noprune=True)

    def _pull(self) -> None:
        # docker-py waits for a pull for ever, hence the thread.
        failures: list[Exception] = []

        def pull() -> None:
            try:
                self._client.images.pull(REGISTRY_BASE[0], tag=REGISTRY_BASE[1])
            except (DockerException, requests.RequestException) as exc:
                failures.append(exc)

        pulling = threading.Thread(target=pull, daemon=True)
        pulling.start()
        pulling.join(PULL_DEADLINE_S)
        if pulling.is_alive():
            raise BringUpError(f"the registry had not delivered the base image after {PULL_DEADLINE_S:.0f} s")
        if failures:
            raise BringUpError(f"the registry did not deliver the base image: {failures[0]}") from failures[0]

    def _on_top(self, layer: Layer, parent: str, progress: Progress) -> None:
        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w") as tar:
                if layer.requirements:
                    folder = self._wheels_of(layer)
                    if not folder.is_dir():
                        progress(f"image: fetching the wheels of {', '.join(layer.requirements)}")
                    wheels.fetch(
                        layer.requirements,
                        architecture=self._architecture(),
                        folder=folder,
                        extra_index=_torch_index,
                    )
                    progress(f"image: installing {layer.requirements[0]} and what it needs (up to a minute)")
                    _add_folder(tar, "tmp/wheels")
                    for wheel in sorted(folder.iterdir()):
                        with wheel.open("rb") as content:
                            _add_file(tar, f"tmp/wheels/{wheel.name}", content, wheel.stat().st_size)
                else:
                    progress("image: putting in our own modules")
                for folder_name in sorted({str(above) for path in layer.files for above in _new_folders(path)}):
                    _add_folder(tar, folder_name)
                for path, content_bytes in layer.files.items():
                    _add_file(tar, path, io.BytesIO(content_bytes), len(content_bytes))
            archive.seek(0)
            self._step(layer, parent, archive=archive)

    def _step(
        self,
        layer: Layer,
        parent: str,
        *,
        archive: IO[bytes] | None = None,
        arguments: Sequence[str] = (),
        network: str = "none",
    ) -> None:
        """Runs the layer's script in a container of `parent` that holds `archive`, and commits it as the layer."""
        container = self._client.containers.create(
            parent,
            # The command alone, which the settings replace again: an entry point, a user or an environment would stay.
            command=["/bin/sh", "-c", layer.script, layer.name, *arguments],
            name=f"{_build_prefix()}{os.getpid()}-{next(self._numbers)}",
            network_mode=network,
        )
        try:
            if archive is not None:
                container.put_archive("/", archive)
            container.start()
            status = container.wait(timeout=STEP_DEADLINE_S)["StatusCode"]
            if status:
                said = container.logs(tail=15).decode(errors="replace")
                raise BringUpError(
                    f"building {layer.tag} failed with status {status}:\n{wheels.last_lines(said)}",
                    remedy="see that Docker's data folder has 4 GB left (docker system df), then try again",
                )
            repository, tag = layer.tag.split(":")
            label = layer.name.removeprefix("testbed-")
            container.commit(repository=repository, tag=tag, changes=[*SETTINGS, f"LABEL {LABEL}={label}"])
        finally:
            container.remove(force=True, v=True)

    def _sweep(self) -> None:
        """Removes what a killed build of the same user left behind. Call it under the lock, when nobody else builds."""
        for container in self._client.containers.list(all=True, filters={"name": f"^/?{_build_prefix()}"}):
            with suppress(NotFound):
                container.remove(force=True, v=True)

    @contextmanager
    def _patience(self, timeout_s: float) -> Iterator[None]:
        """How long the engine may take for one answer; docker-py's 60 s are too short for committing a gigabyte."""
        api: Any = self._client.api
        before = api.timeout
        api.timeout = timeout_s
        try:
            yield
        finally:
            api.timeout = before

    # ---- removing

    def _remove(self, tags: Sequence[str]) -> Sequence[str]:
        gone: list[str] = []
        with _our_errors():
            # Newest first: what stands on another image goes before it.
            for tag in tags:
                try:
                    self._client.images.remove(tag)
                    gone.append(tag)
                except NotFound:
                    pass
                except APIError as exc:
                    if exc.status_code != 409:  # 409: a container uses it, so it stays
                        raise
        return gone


def _build_prefix() -> str:
    return f"testbed-build-{os.getuid()}-"


def _insisted_index() -> str:
    return os.environ.get("TESTBED_TORCH_INDEX", "")


def _torch_index() -> str:
    """What images/torch-index says; the Makefile's virtual environment asks the same program."""
    command = [sys.executable, str(find_room() / "images" / "torch-index")]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout.strip()


def _debian_base(archive: Path) -> None:
    program = find_room() / "images" / "debian-base"
    try:
        done = subprocess.run(
            ["bash", str(program), str(archive)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STEP_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise BringUpError(
            f"Debian's packages had not arrived after {STEP_DEADLINE_S:.0f} s", remedy="see that deb.debian.org answers"
        ) from exc
    if done.returncode:
        raise MachineError(
            f"no registry answers, and no base image could be built from Debian's packages:\n"
            f"{wheels.last_lines(done.stderr)}",
            remedy=f"run as root once, or let `docker pull {':'.join(REGISTRY_BASE)}` work",
        )


def _new_folders(path: str) -> list[Path]:
    """The folders above `path` that the layer below may lack: those from our own package on."""
    return [above for above in Path(path).parents if "testbed" in above.parts]


def _add_folder(tar: tarfile.TarFile, name: str) -> None:
    # Explicitly, because the engine would make a missing one unreadable for everybody else.
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    tar.addfile(info)


def _add_file(tar: tarfile.TarFile, name: str, content: IO[bytes], size_bytes: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size_bytes, 0o644
    tar.addfile(info, content)


@contextmanager
def _one_build_at_a_time(progress: Progress, patience_s: float = LOCK_DEADLINE_S) -> Iterator[None]:
    """Two builds of the same tag would leave the slower one's image without a name."""
    path = wheels.cache_folder() / "build.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_s
    with path.open("a") as lock:
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    progress("image: waiting for another build to end")
                    told = True
                if time.monotonic() >= deadline:
                    raise BringUpError(
                        f"another build of an image still runs after {patience_s:.0f} s",
                        remedy=f"end the process that holds {path} (fuser -v {path})",
                    ) from None
                time.sleep(0.3)
        yield


@contextmanager
def _our_errors() -> Iterator[None]:
    """docker-py's and its HTTP library's exceptions become ours."""
    try:
        yield
    except APIError as exc:
        raise BringUpError(
            f"Docker refused while images were handled: {exc.explanation or exc}", remedy="see `docker info`"
        ) from exc
    except (DockerException, requests.RequestException) as exc:
        # Over a Unix socket a time-out of reading comes as a ConnectionError.
        if "timed out" in str(exc):
            raise BringUpError(
                f"Docker did not answer in time while images were handled: {exc}",
                remedy="see `docker info` and its log",
            ) from exc
        raise MachineError(
            f"no Docker daemon answers: {exc}", remedy="make docker-start, or set DOCKER_HOST to one that runs"
        ) from exc
