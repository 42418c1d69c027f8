"""The README does what it says: its plan is a plan, its commands run, its table of refusals quotes the program."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.errors import PlanError
from testbed.plan.reader import load_plan, read_plan

REPOSITORY = Path(__file__).parent.parent
TEXT = (REPOSITORY / "README.md").read_text()
COMMANDS = [
    line.removeprefix("$ testbed ").partition("#")[0].partition(">")[0].strip()
    for line in TEXT.splitlines()
    if line.startswith("$ testbed ")
]
NEEDS = {"local": pytest.mark.mpi} | dict.fromkeys(("up", "verify", "doctor"), pytest.mark.docker)


def test_the_plan_of_the_readme_is_a_plan() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert text == (REPOSITORY / "topologies" / "rps-rough-weather.yaml").read_text()
    assert read_plan(text, file="README.md").size == 8


@pytest.mark.parametrize(
    "command", [pytest.param(each, marks=NEEDS.get(each.split()[0], ())) for each in COMMANDS], ids=lambda each: each
)
def test_the_commands_of_the_readme_run(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)
    if words[0] in ("up", "local", "simulate"):
        words += ["--runs", str(tmp_path)]
        words = [word for word in words if word != "--strict"]  # which one honest network in a hundred fails
        if "topologies/quickstart.yaml" in words:
            words += ["--set", "run.steps=50"]  # fewer than a reader would have
    if words[0] == "sweep":  # fewer points than a reader would have, of fewer ranks
        words += ["--runs", str(tmp_path), "--seeds=1", "--set=nodes.count=4", "--set=run.steps=5", "--no-figures"]
    done = subprocess.run([sys.executable, "-m", "testbed.cli", *words], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_script_of_the_readme_draws_its_picture(tmp_path: Path) -> None:
    (script,) = re.findall(r'```python\n(""".*?)```', TEXT, re.DOTALL)
    assert len(script.splitlines()) < 30
    shorter = {
        'load("topologies/': f'load("{REPOSITORY}/topologies/',
        '.yaml")': '.yaml").vary({"nodes.count": 4, "run.steps": 5})',
        '"0%", "1%", "5%", "10%", "20%", "40%"': '"0%", "20%"',
        "seeds=5": "seeds=2",
    }
    for whole, less in shorter.items():
        assert script.count(whole) == 1
        script = script.replace(whole, less)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "gradient-averaging" in done.stdout
    assert (tmp_path / "drift.svg").stat().st_size > 1000


def test_there_are_commands_in_the_readme() -> None:
    assert {"check", "simulate", "local", "up", "doctor", "schema"} <= {each.split()[0] for each in COMMANDS}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("network={defualt: {loss: 10%}}", "`defualt` is not a key of `network` (did you mean `default`?"),
        ("network.default.delay=20", "`delay: 20` has no unit (write `20ms` or `20s`)"),
        ("network.default.loss=150%", "`loss: 150%` is not between 0% and 100%"),
        ("network.links=[{from: 0, to: 9, loss: 1%}]", "node 9 does not exist (this plan has nodes 0 to 3)"),
        ("faults=[{at: step 400, heal: true}]", "step 400"),
    ],
)
def test_refusals_are_those_of_the_readme(change: str, sentence: str) -> None:
    with pytest.raises(PlanError) as refused:
        load_plan(REPOSITORY / "topologies" / "quickstart.yaml", overrides=[change])
    assert sentence in str(refused.value)
    assert sentence.split("(")[0].strip() in TEXT


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)h][^)]*)\)", TEXT))
def test_what_the_readme_links_to_is_there(link: str) -> None:
    assert (REPOSITORY / link).exists()
