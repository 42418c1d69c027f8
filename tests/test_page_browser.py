"""The report in headless Chromium: as a file, and served while a run goes on."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from results_world import World, plan_of
from test_page import HOSTILE, finished

from testbed import page
from testbed.errors import MachineError
from testbed.page import live
from testbed.results import summarise, write_summary

pytestmark = pytest.mark.browser
SIZES = [(1280, 900), (390, 844)]
FIGURES = ("accuracy", "whereabouts", "delivered", "links", "step-times")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    finished(folder, name=HOSTILE)
    page.write(folder, folder / "report.html")
    return (folder / "report.html").as_uri()


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_loads_in_silence_and_shows_its_figures(
    browser: Browser, address: str, width: int, height: int, dark: bool
) -> None:
    browser.open(address, width=width, height=height, dark=dark)
    assert browser.errors == []
    assert [asked for asked in browser.asked_for if not asked.startswith(("file:", "data:"))] == []
    for name in FIGURES:  # one of two renderings of those that are as wide as the page
        shown = f"[...document.querySelectorAll('#figure-{name} svg.figure')].map((each) => each.clientWidth)"
        widths = [found for found in browser.value(shown) if found > 0]
        assert len(widths) == 1, name
        assert widths[0] > 0.6 * min(width, 560) * 0.9, name
    # Nothing sticks out sideways; what is too wide scrolls within its place.
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value("[...document.querySelectorAll('.scroll')].every((each) => each.clientWidth < innerWidth)")


@pytest.mark.parametrize("dark", [False, True])
def test_ink_is_told_from_paper_in_both_schemes(browser: Browser, address: str, dark: bool) -> None:
    browser.open(address, dark=dark)
    paper = _lightness(browser.value("getComputedStyle(document.body).backgroundColor"))
    for element in ("body", "figcaption", "#figure-accuracy svg text"):
        text = f"document.querySelector({json.dumps(element)})"
        colour = "fill" if "svg" in element else "color"
        ink = _lightness(browser.value(f"getComputedStyle({text}).{colour}"))
        brighter, darker = max(ink, paper), min(ink, paper)
        assert (brighter + 0.05) / (darker + 0.05) > 4.5, element  # WCAG 2, level AA
    assert (paper < 0.2) == dark


def _lightness(colour: str) -> float:
    """Relative luminance of rgb(r, g, b), by WCAG 2."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_hostile_names_do_nothing(browser: Browser, address: str) -> None:
    browser.open(address)
    assert browser.value("document.querySelector('h1').textContent") == HOSTILE
    assert browser.value("document.scripts.length") == 1


# ---- live


def begin(home: Path) -> World:
    """A run that has just begun, where one looks for the latest."""
    run = home / "2026-01-01_00-00-00"
    run.mkdir(parents=True)
    world = World(run, plan_of())
    (run / "plan.yaml").write_text("name: by-hand\n")
    (home / "latest").symlink_to(run.name)
    for rank in (0, 1):
        world.start(rank)
    return world


def go_on(world: World, first: int, last: int) -> None:
    for step in range(first, last + 1):
        for rank in (0, 1):
            world.step(rank, step / 10, step)
            if step % 5 == 0:
                world.rank(rank, "evaluation", step / 10, step=step, loss=10 / step, accuracy=0.9)


def end(world: World) -> None:
    for rank in (0, 1):
        world.end(rank, 10.0, 100)
    write_summary(world.folder, summarise(world.folder, world.plan, arm="docker"))


def test_the_served_page_follows_the_run_to_its_end(browser: Browser, tmp_path: Path) -> None:
    home = tmp_path / "by-hand"
    with live.serving(home) as address:
        browser.open(address)
        browser.until("document.getElementById('state').textContent.includes('being brought up')")
        world = begin(home)
        go_on(world, 1, 20)
        browser.until("document.getElementById('state').textContent.includes('step 20/100')")
        browser.until("document.querySelector('#figure-accuracy svg')")
        browser.value("document.getElementById('understood').open = true")
        go_on(world, 21, 100)
        browser.until("document.getElementById('state').textContent.includes('step 100/100')")
        assert browser.value("document.getElementById('understood').open")  # what one has opened stays open
        end(world)
        # The block is left while the browser goes on asking: it has the last state before the server goes.
    browser.until("document.documentElement.dataset.over === 'yes'")
    assert "100 of 100 steps" in browser.value("document.getElementById('summary').textContent")
    assert browser.value("document.getElementById('now')") is None
    assert browser.errors == []
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=5)


def test_a_page_of_another_name_may_not_read_the_served_one(tmp_path: Path) -> None:
    # A name that somebody else's page had made point to this machine comes in the Host header.
    with live.serving(tmp_path / "by-hand") as address:
        asked = urllib.request.Request(address, headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(asked, timeout=10)
        assert refused.value.code == 403


def test_a_port_that_is_taken_is_refused_with_what_to_try(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refusal = pytest.raises(MachineError, match=rf"port {port} of 127.0.0.1 cannot be had")
        with refusal as refused, live.serving(tmp_path / "by-hand", port):
            pytest.fail("it was served")
    assert "--web-port" in (refused.value.remedy or "")


def test_the_server_goes_with_whoever_started_it(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from testbed.page import live\n"
        "with live.serving(pathlib.Path(sys.argv[1])) as address:\n"
        "    print(address, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "by-hand")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        address = parent.stdout.readline().strip()
        assert urllib.request.urlopen(address, timeout=10).status == 200
        parent.kill()
        parent.wait()
    deadline_s = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(address, timeout=5)
        except OSError:
            break
        assert time.monotonic() < deadline_s, "it is still there"
