"""What goes into each image, as data: layers of files and scripts, each named by the hash of all that made it.

Nothing is built here, and nothing asks Docker; images.py does both. An image is made of three layers, so that editing
our own modules rebuilds only the last and smallest:

    testbed-base  Debian bookworm with Python 3.11 and nft
      testbed-torch      torch, NumPy, MPI       testbed-pyroute2   pyroute2
        testbed-rank       the rank side           testbed-agent      the agent side
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from testbed.errors import MachineError

Kind = Literal["rank", "agent"]

PACKAGE = Path(__file__).resolve().parents[1]  # the folder of our own modules

# What of our package a container sees. Nothing of the host side: no Docker, no YAML, no command line.
CODE: dict[Kind, tuple[str, ...]] = {
    "rank": (
        "__init__.py",
        "errors.py",
        "journal.py",
        "runfolder.py",
        "rank.py",
        "evaluate.py",
        "prober.py",
        "plan/__init__.py",
        "plan/model.py",
        "core",
        "algorithms",
        "channels",
        "learning",
    ),
    "agent": ("__init__.py", "errors.py", "core", "network"),
}
WHEELS: dict[Kind, str] = {"rank": "torch", "agent": "pyroute2"}  # the layer below the code, and its list of names

SITE_PACKAGES = "opt/venv/lib/python3.11/site-packages"
SETTINGS = (
    "ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "ENV HOME=/tmp",  # containers run as whoever started the testbed, who has no home in there
    "ENV LANG=C.UTF-8",
    "WORKDIR /",
    'CMD ["/bin/bash"]',
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One tagged image on top of another: `script` is run in a container of the parent that holds `files`."""

    name: str  # "testbed-torch"
    parent: Layer | None
    script: str
    requirements: tuple[str, ...] = ()  # "torch==2.13.0": wheels that the script finds in /tmp/wheels
    files: dict[str, bytes] = field(default_factory=dict)  # path without the leading slash -> content
    extra: str = ""  # whatever else makes a difference: architecture, index, host-side script

    @property
    def tag(self) -> str:
        """testbed-torch:0123456789ab, the hash of everything that went in, the parent's tag included."""
        made_of = {
            "parent": self.parent.tag if self.parent else None,
            "script": self.script,
            "requirements": self.requirements,
            "files": {path: hashlib.sha256(content).hexdigest() for path, content in sorted(self.files.items())},
            "extra": self.extra,
            "settings": SETTINGS,
        }
        digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
        return f"{self.name}:{digest[:12]}"


def layers(kind: Kind, *, room: Path, architecture: str, torch_index: str = "") -> tuple[Layer, ...]:
    """The layers of an image from the base up. `room` holds images/ and constraints.txt (see `find_room`).

    `torch_index` is the one that the user insists on, or "": the choice that we make ourselves leaves the hash alone.
    """
    images = room / "images"
    base = Layer(
        "testbed-base",
        None,
        (images / "registry-base.sh").read_text(),
        extra="\n".join([architecture, (images / "packages.txt").read_text(), (images / "debian-base").read_text()]),
    )
    wheels = Layer(
        f"testbed-{WHEELS[kind]}",
        base,
        (images / "install-wheels.sh").read_text(),
        requirements=pinned(names(images / f"{WHEELS[kind]}.txt"), (room / "constraints.txt").read_text()),
        extra=torch_index,
    )
    code = Layer(f"testbed-{kind}", wheels, (images / "install-code.sh").read_text(), files=modules(kind, PACKAGE))
    return base, wheels, code


def find_room() -> Path:
    """The folder that holds images/ and constraints.txt: the checkout, or where an installed package put them."""
    for room in (PACKAGE.parent, Path(sysconfig.get_path("data")) / "share" / "testbed"):
        if (room / "images" / "install-wheels.sh").is_file() and (room / "constraints.txt").is_file():
            return room
    raise MachineError(
        "the scripts that build images are not beside this installation of testbed",
        remedy="run it from a checkout: git clone, then make image",
    )


def modules(kind: Kind, package: Path) -> dict[str, bytes]:
    """Our modules that such a container sees: path inside the image -> source."""
    found: list[Path] = []
    for entry in CODE[kind]:
        path = package / entry
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return {
        f"{SITE_PACKAGES}/testbed/{path.relative_to(package)}": path.read_bytes() for path in found if path.is_file()
    }


def names(listing: Path) -> list[str]:
    """The lines of a list that are not comments."""
    lines = (line.strip() for line in listing.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def pinned(wanted: list[str], constraints: str) -> tuple[str, ...]:
    """("torch", …) -> ("torch==2.13.0", …), only the lines that matter here, so that no other one rebuilds an image."""
    lines = (line.strip() for line in constraints.splitlines() if "==" in line)
    versions = {_normal(line.split("==")[0]): line for line in lines}
    missing = [name for name in wanted if _normal(name) not in versions]
    if missing:
        raise MachineError(
            f"constraints.txt pins no version of {', '.join(missing)}", remedy="add the version that was tested"
        )
    return tuple(versions[_normal(name)] for name in wanted)


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")
