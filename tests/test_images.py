"""What images are made of: which files, which versions, and when a change asks for a rebuild. No Docker."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from testbed.errors import MachineError
from testbed.runtime import recipe, wheels
from testbed.runtime.recipe import Kind, layers, modules, names, pinned

KINDS: tuple[Kind, ...] = ("rank", "agent")


@pytest.fixture
def room(tmp_path: Path, repository: Path) -> Path:
    """A copy of what images are made of, to change."""
    shutil.copytree(repository / "images", tmp_path / "images")
    shutil.copy(repository / "constraints.txt", tmp_path)
    return tmp_path


def tags(room: Path, kind: Kind = "rank", architecture: str = "amd64", torch_index: str = "") -> list[str]:
    return [layer.tag for layer in layers(kind, room=room, architecture=architecture, torch_index=torch_index)]


def test_the_same_ingredients_make_the_same_tags(room: Path) -> None:
    assert tags(room) == tags(room)


@pytest.mark.parametrize("kind", KINDS)
def test_tags_name_the_layer_and_twelve_digits_of_its_hash(room: Path, kind: Kind) -> None:
    base, wheels_layer, code = tags(room, kind)
    assert re.fullmatch(r"testbed-base:[0-9a-f]{12}", base)
    assert re.fullmatch(r"testbed-(torch|pyroute2):[0-9a-f]{12}", wheels_layer)
    assert re.fullmatch(rf"testbed-{kind}:[0-9a-f]{{12}}", code)


def test_rank_and_agent_stand_on_the_same_base(room: Path) -> None:
    assert tags(room, "rank")[0] == tags(room, "agent")[0]


def test_editing_a_module_rebuilds_only_the_last_layer(
    room: Path, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tags(room)
    package = tmp_path / "testbed"
    shutil.copytree(repository / "testbed", package)
    with (package / "errors.py").open("a") as module:
        module.write("# one more line\n")
    monkeypatch.setattr(recipe, "PACKAGE", package)
    after = tags(room)
    assert after[:2] == before[:2]
    assert after[2] != before[2]


def test_editing_the_host_side_rebuilds_nothing(
    room: Path, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [tags(room, kind) for kind in KINDS]
    package = tmp_path / "testbed"
    shutil.copytree(repository / "testbed", package)
    with (package / "runtime" / "images.py").open("a") as module:
        module.write("# one more line\n")
    monkeypatch.setattr(recipe, "PACKAGE", package)
    assert [tags(room, kind) for kind in KINDS] == before


def test_another_version_of_torch_rebuilds_torch_and_what_stands_on_it(room: Path) -> None:
    before, agent_before = tags(room), tags(room, "agent")
    constraints = room / "constraints.txt"
    constraints.write_text(re.sub(r"(?m)^torch==.*$", "torch==9.9.9", constraints.read_text()))
    after = tags(room)
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert after[2] != before[2]
    assert tags(room, "agent") == agent_before


def test_another_version_of_a_tool_rebuilds_nothing(room: Path) -> None:
    before = tags(room)
    constraints = room / "constraints.txt"
    constraints.write_text(re.sub(r"(?m)^ruff==.*$", "ruff==9.9.9", constraints.read_text()))
    assert tags(room) == before


def test_another_package_of_debian_rebuilds_everything(room: Path) -> None:
    before = tags(room)
    with (room / "images" / "packages.txt").open("a") as packages:
        packages.write("iperf3\n")
    assert not set(tags(room)) & set(before)


def test_machines_and_the_indexes_that_users_insist_on_have_images_of_their_own(room: Path) -> None:
    assert not set(tags(room, architecture="arm64")) & set(tags(room))
    other = tags(room, torch_index="https://download.pytorch.org/whl/cu130")
    assert other[0] == tags(room)[0]
    assert other[1] != tags(room)[1]


def test_every_module_that_a_container_needs_is_there(repository: Path) -> None:
    for kind in KINDS:
        for entry in recipe.CODE[kind]:
            assert (repository / "testbed" / entry).exists(), f"{kind}: testbed/{entry}"


def test_no_module_of_the_host_side_goes_into_an_image(repository: Path) -> None:
    host_only = {"click", "docker", "yaml", "sklearn", "matplotlib", "rich", "requests"}
    absent: dict[Kind, set[str]] = {"rank": host_only | {"pyroute2"}, "agent": host_only | {"torch", "mpi4py"}}
    for kind in KINDS:
        for path, source in modules(kind, repository / "testbed").items():
            imported = _imports_at_the_top(source)
            assert not imported & absent[kind], f"{path} imports {imported & absent[kind]}"


def _imports_at_the_top(source: bytes) -> set[str]:
    """The packages that importing the module imports (those inside functions are for whoever calls them)."""
    found: set[str] = set()
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Import):
            found |= {name.name.split(".")[0] for name in statement.names}
        elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            found.add(statement.module.split(".")[0])
    return found


@pytest.mark.parametrize(("listing", "extra"), [("torch.txt", "rank"), ("pyroute2.txt", "agent")])
def test_images_hold_what_the_extras_of_the_package_name(repository: Path, listing: str, extra: str) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[<>=]", line)[0] for line in project["optional-dependencies"][extra]}
    if extra == "rank":
        needed |= {re.split(r"[<>=]", line)[0] for line in project["dependencies"]}
    assert needed <= set(names(repository / "images" / listing))


def test_names_are_pinned_whatever_their_spelling() -> None:
    assert pinned(["typing-extensions", "numpy"], "# tested\nnumpy==2.4.6\ntyping_extensions==4.16.0\n") == (
        "typing_extensions==4.16.0",
        "numpy==2.4.6",
    )


def test_a_name_without_a_version_is_refused() -> None:
    with pytest.raises(MachineError, match="pins no version of torch"):
        pinned(["numpy", "torch"], "numpy==2.4.6")


def test_every_pin_is_one_exact_version_and_appears_once(repository: Path) -> None:
    lines = names(repository / "constraints.txt")
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []
    assert len({line.split("==")[0].lower() for line in lines}) == len(lines)


def test_wheels_are_asked_for_by_the_python_and_machine_of_the_image() -> None:
    options = wheel_options_of("arm64")
    assert options["--python-version"] == ["3.11"]
    assert "manylinux_2_28_aarch64" in options["--platform"]
    # manylinux1 to 2010 were never defined for ARM.
    assert not any("2010" in platform or "manylinux1_" in platform for platform in options["--platform"])
    assert "manylinux1_x86_64" in wheel_options_of("amd64")["--platform"]


def test_a_machine_without_wheels_is_refused_by_name() -> None:
    with pytest.raises(MachineError, match="riscv64") as refusal:
        wheels.wheel_options("riscv64")
    assert "amd64, arm64" in str(refusal.value.remedy)


def wheel_options_of(architecture: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    words = [word for word in wheels.wheel_options(architecture) if word != "--only-binary=:all:"]
    for option, value in zip(words[::2], words[1::2], strict=True):
        found.setdefault(option, []).append(value)
    return found


def test_wheels_are_kept_apart_by_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one = wheels.folder_of(["numpy==2.4.6"], "amd64", "")
    assert one.parent == tmp_path / "testbed" / "wheels"
    assert one == wheels.folder_of(["numpy==2.4.6"], "amd64", "")
    others = [
        wheels.folder_of(["numpy==2.4.7"], "amd64", ""),
        wheels.folder_of(["numpy==2.4.6"], "arm64", ""),
        wheels.folder_of(["numpy==2.4.6"], "amd64", "https://example.org"),
    ]
    assert len({one, *others}) == 4


def test_forgetting_wheels_spares_those_to_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept, stale = (wheels.folder_of([name], "amd64", "") for name in ("numpy==2.4.6", "numpy==2.4.5"))
    kept.mkdir(parents=True)
    stale.mkdir()
    wheels.forget(keep=[kept])
    assert kept.is_dir()
    assert not stale.exists()


def test_the_index_that_a_user_names_is_taken_unasked(repository: Path) -> None:
    for named in ("https://example.org/simple", ""):
        said = subprocess.run(
            [sys.executable, str(repository / "images" / "torch-index")],
            env={"TESTBED_TORCH_INDEX": named},
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.strip() == named


def test_an_image_program_that_is_missing_is_named_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "PACKAGE", tmp_path / "testbed")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(MachineError, match="images") as refusal:
        recipe.find_room()
    assert "make image" in str(refusal.value.remedy)
