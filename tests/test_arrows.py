"""Who may import whom: the house's arrows, read from the import statements of every file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "testbed"

# room -> the rooms of ours that it may import (itself always)
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "core": set(),
    "journal": set(),
    "runfolder": set(),
    "algorithms": {"core"},
    "plan": {"core"},
    "plan.reader": {"core", "plan", "algorithms", "errors"},
    "channels": {"core", "algorithms", "errors"},
    "learning": {"core", "plan", "errors"},
    "datasets": {"core", "errors"},
    "network": {"core", "errors"},
    "runtime": {"core", "plan", "errors", "runfolder"},
    "simulate": {"core", "algorithms", "learning", "plan", "journal", "runfolder", "errors"},
    "prober": set(),
    "rank": {"core", "algorithms", "channels", "learning", "plan", "journal", "runfolder", "errors"},
    "evaluate": {"core", "learning", "plan", "journal", "runfolder", "errors"},
    "results": {"core", "algorithms", "plan", "journal", "runfolder", "errors"},
    "figures": {"core", "plan", "journal", "runfolder", "results", "errors"},
    "page": {"figures", "journal", "live", "plan", "results", "runfolder", "sweep", "errors"},
    "graph": {"core", "plan", "errors"},
    "live": {"core", "plan", "journal", "errors"},
    "sweep": {"plan", "runfolder", "results", "figures", "live", "supervisor", "errors"},
    "experiment": {"live", "plan", "results", "runfolder", "supervisor", "sweep"},
}
RANK_SIDE_OF_PLAN = {"__init__", "model"}  # what ranks have of it

# library -> the rooms that may import it: one front door each, and two halves of the house that do without the other's
DOORS: dict[str, set[str]] = {
    "docker": {"runtime"},
    "pyroute2": {"network"},
    "mpi4py": {"channels"},
    "zmq": {"channels"},
    "safetensors": {"channels"},
    "torch": {"learning"},
    "sklearn": {"datasets"},
    "matplotlib": {"figures", "graph"},
    "yaml": {"plan"},
    "click": {"cli"},
    "rich": {"live", "cli", "results", "sweep"},
    "pandas": {"sweep", "experiment"},
    "pyarrow": {"sweep"},
}
RANK_SIDE = ("algorithms", "channels", "core", "learning", "prober", "rank", "evaluate", "journal", "runfolder")
HOST_LIBRARIES = {"docker", "pyroute2", "sklearn", "matplotlib", "yaml", "click", "rich", "pandas", "pyarrow"}


def _files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _room(file: Path) -> str:
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def _imports(file: Path) -> set[str]:
    """Every absolute module name that `file` imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute here"
            names.add(node.module or "")
            if node.module == "testbed":
                names.update(f"testbed.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("file", _files(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_rooms_import_only_the_rooms_below_them(file: Path) -> None:
    room = _room(file)
    if room in ("cli", "doctor", "supervisor", "soak", "__init__", "__main__"):
        return  # the top of the house
    key = "plan.reader" if room == "plan" and file.stem not in RANK_SIDE_OF_PLAN else room
    allowed = ROOMS[key] | {room}
    used = {name.split(".")[1] for name in _imports(file) if name.startswith("testbed.") and name.count(".") >= 1}
    used -= {"__version__"}
    assert used <= allowed, f"{room} may not import {sorted(used - allowed)}"


@pytest.mark.parametrize("file", _files(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_every_library_has_one_front_door(file: Path) -> None:
    room = _room(file)
    for library in {name.split(".")[0] for name in _imports(file)} & set(DOORS):
        assert room in DOORS[library], f"{room} may not import {library}: only {sorted(DOORS[library])} may"


@pytest.mark.parametrize("file", _files(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_what_runs_in_a_container_needs_nothing_of_the_host_side(file: Path) -> None:
    if _room(file) in RANK_SIDE or (_room(file) == "plan" and file.stem in RANK_SIDE_OF_PLAN):
        modules = _imports(file)
        assert not {name.split(".")[0] for name in modules} & HOST_LIBRARIES
        assert not {name for name in modules if name.startswith("testbed.plan.") and name != "testbed.plan.model"}


def test_the_rooms_of_the_map_exist() -> None:
    for room in ROOMS:
        place = PACKAGE / room.replace(".", "/")
        assert place.is_dir() or place.with_suffix(".py").is_file(), f"the map names {room}, which is not there"
