"""A Docker engine inside the guest, with this machine's testbed images, before one command.

The images are not copied: the layers that this machine's engine has unpacked are read through hostfs, where they lie,
and only what the engine knows about them is written anew (half a second; `docker save | docker load` of the same takes
two minutes). It presupposes how Docker's overlay2 driver lays out its folder, which the guest's engine agrees with
because both run the same dockerd; with another storage driver there is no engine in the guest, and the error says so.

Not here: booting the guest (machine.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from . import machine
from .machine import GuestError, search_path

OURS = "testbed-"  # what the names of our images begin with
DATA, LAYERS, LOG = Path("/scratch/docker"), Path("/scratch/layers"), Path("/scratch/dockerd.log")
SOCKET = "unix:///run/docker.sock"
DEADLINE_S = 120.0  # for dockerd; 4 to 12 s are usual
POLL_S = 0.1


# ---- on this machine


def with_engine(command: Sequence[str]) -> list[str]:
    """`command`, to be run in the guest with an engine there. Raises GuestError where there can be none."""
    return [sys.executable, "-m", "tests.guest.engine", str(storage()), *command]


def check() -> None:
    """Raises GuestError where there can be no guest, or no engine in it."""
    machine.check()
    storage()


def storage() -> Path:
    """Where this machine's engine keeps its images. Raises GuestError where the guest cannot read them."""
    import docker

    try:
        client = docker.from_env(timeout=10)
        try:
            info = client.info()
        finally:
            client.close()
    except Exception as error:
        raise GuestError(f"no Docker engine answers ({error}): `make docker-start`") from error
    folder = Path(info["DockerRootDir"])
    if info["Driver"] != "overlay2" or not (folder / "image" / "overlay2").is_dir():
        raise GuestError(
            f"this machine's Docker keeps its images in {folder} by the driver {info['Driver']}, which a guest cannot "
            'read: {"features": {"containerd-snapshotter": false}} in /etc/docker/daemon.json makes that overlay2'
        )
    if not shutil.which("dockerd", path=search_path()):
        raise GuestError("there is no dockerd on this machine: apt-get install docker.io")
    return folder


# ---- in the guest


def main(theirs: str, *command: str) -> None:
    """`theirs`: where this machine's engine keeps its images."""
    LAYERS.mkdir()
    subprocess.run(["mount", "-t", "hostfs", "none", LAYERS, "-o", f"{theirs}/overlay2"], check=True)
    adopt_images(Path(theirs) / "image" / "overlay2", LAYERS, DATA)
    os.environ |= {"PATH": search_path(), "DOCKER_HOST": SOCKET}
    _start()
    os.execvp(command[0], command)  # the engine ends with the guest


def adopt_images(known: Path, layers: Path, data: Path) -> None:
    """Makes `data` the folder of an engine that has our images.

    `known` is what another engine knows about images (…/image/overlay2), `layers` what it has unpacked (…/overlay2);
    this engine will read it there.
    """
    ours = data / "image" / "overlay2"
    for folder in ("imagedb/content/sha256", "imagedb/metadata/sha256", "layerdb/sha256"):
        (ours / folder).mkdir(parents=True)
    (data / "overlay2" / "l").mkdir(parents=True)
    repositories = json.loads((known / "repositories.json").read_text())["Repositories"]
    adopted: dict[str, Mapping[str, str]] = {}
    for name, tags in repositories.items():
        if name.startswith(OURS):
            adopted[name] = {tag: image for tag, image in tags.items() if _adopt(image, known, layers, data)}
    (ours / "repositories.json").write_text(json.dumps({"Repositories": adopted}))


def _adopt(image: str, known: Path, layers: Path, data: Path) -> bool:
    """False where it is being removed at this moment."""
    with suppress(FileNotFoundError):
        content = known / "imagedb" / "content" / "sha256" / _hex(image)
        for chain in _chains(json.loads(content.read_text())["rootfs"]["diff_ids"]):
            _adopt_layer(_hex(chain), known, layers, data)
        shutil.copy(content, data / "image" / "overlay2" / "imagedb" / "content" / "sha256")
        return True
    return False


def _adopt_layer(chain: str, known: Path, layers: Path, data: Path) -> None:
    meta = data / "image" / "overlay2" / "layerdb" / "sha256" / chain
    if meta.exists():
        return
    layer = (known / "layerdb" / "sha256" / chain / "cache-id").read_text()
    folder = data / "overlay2" / layer
    folder.mkdir()
    for name in ("link", "lower", "committed"):
        with suppress(FileNotFoundError):  # the lowest has no `lower`, the highest of a container no `committed`
            shutil.copy(layers / layer / name, folder)
    (folder / "work").mkdir()
    (folder / "diff").symlink_to(layers / layer / "diff")
    # The engine mounts layers by these short names, because mount's options have to fit into a page.
    (data / "overlay2" / "l" / (folder / "link").read_text()).symlink_to(f"../{layer}/diff")
    shutil.copytree(known / "layerdb" / "sha256" / chain, meta)


def _chains(diffs: Sequence[str]) -> Iterator[str]:
    """A layer's name says what is below it too (OCI image specification, "Layer ChainID")."""
    chain = ""
    for diff in diffs:
        chain = f"sha256:{hashlib.sha256(f'{chain} {diff}'.encode()).hexdigest()}" if chain else diff
        yield chain


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _start() -> None:
    """Returns when the engine answers."""
    words = ["dockerd", "--data-root", str(DATA), "--exec-root", "/run/docker", "--host", SOCKET]
    with LOG.open("wb") as log:
        process = subprocess.Popen([*words, "--pidfile", "/run/docker.pid"], stdout=log, stderr=log)
    end_s = time.monotonic() + DEADLINE_S
    while subprocess.run(["docker", "version"], capture_output=True).returncode:
        if process.poll() is not None or time.monotonic() > end_s:
            last = LOG.read_text(errors="replace").splitlines()[-15:]
            sys.exit("\n".join([f"guest: dockerd did not come up within {DEADLINE_S:g} s; the end of its log:", *last]))
        time.sleep(POLL_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
