"""The page of a run while it goes on, for browsers on this machine: `serving` starts a process that reads what the run
writes, and ends with it.

A process of its own, and not a thread of the supervisor's, whose faults come on time because nothing else keeps its
interpreter busy. It is the last in line for a core, and draws so seldom that this takes less than one twentieth of the
machine: what it shows of ranks is a second old, what it draws may be half a minute old. Not here: what is on the page
(run.py), who looks at the run (onlooker.py).
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from testbed.errors import MachineError

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = (LOOPBACK, "localhost")  # under another name a page of somebody else's could read this one
START_DEADLINE_S = 60.0
LOOK_EVERY_S = 1.0
DRAWING = 0.05 * (os.cpu_count() or 1)  # cores, on average
DRAW_EVERY_S = 2.0  # at least
FAREWELL_S = 6.0  # for browsers to fetch the last state
ASKED_LATELY_S = 4.0  # who has not asked for so long is no longer there
END_DEADLINE_S = 60.0


@contextmanager
def serving(home: Path, port: int = 0) -> Iterator[str]:
    """Answers the address of the page of the next run in `home` (runs/<name>), which is there until the block has been
    left and browsers have had the last state. Raises MachineError where the port is taken."""
    latest = home.absolute() / "latest"
    before = os.readlink(latest) if latest.is_symlink() else ""
    command = [sys.executable, "-m", "testbed.page.live", str(home.absolute()), str(port), before]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            yield _url(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()  # its word that the run is over
            try:
                process.wait(END_DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _url(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], START_DEADLINE_S)[0]:
        raise MachineError(f"the server of the report said nothing for {START_DEADLINE_S:g} s")
    line = process.stdout.readline()
    if not line:
        raise MachineError(f"the server of the report ended with status {process.wait()}")
    answer = json.loads(line)
    if "error" in answer:
        raise MachineError(answer["error"], remedy="name another port: --web-port PORT; or let one be found: --web")
    return str(answer["url"])


# ---- the process


@dataclass
class Board:
    """What browsers are shown: sections, each with the version in which it changed last. Written by one thread."""

    title: str = "testbed"
    subtitle: str = ""
    version: int = 0
    over: bool = False
    sections: dict[str, tuple[int, str]] = field(default_factory=dict)  # in order
    asked_s: float = -1e9  # when a browser asked last
    told: int = -1  # the last version that a browser was told of
    lock: threading.Lock = field(default_factory=threading.Lock)

    def show(self, title: str, subtitle: str, sections: Sequence[tuple[str, str]], *, over: bool = False) -> None:
        with self.lock:
            changed = {
                name: html for name, html in sections if name not in self.sections or self.sections[name][1] != html
            }
            if changed or over != self.over or [name for name, _ in sections] != list(self.sections):
                self.version += 1
            self.sections = {
                name: (self.version, html) if name in changed else self.sections[name] for name, html in sections
            }
            self.title, self.subtitle, self.over = title, subtitle, over

    def changes(self, since: int) -> dict[str, Any]:
        with self.lock:
            self.asked_s, self.told = time.monotonic(), self.version
            return {
                "version": self.version,
                "over": self.over,
                "title": self.title,
                "subtitle": self.subtitle,
                "order": list(self.sections),
                "sections": [
                    {"name": name, "html": html} for name, (version, html) in self.sections.items() if version > since
                ],
            }

    @property
    def is_awaited(self) -> bool:
        """Whether somebody looks on who has not yet been told the last version."""
        with self.lock:
            return time.monotonic() - self.asked_s < ASKED_LATELY_S and self.told < self.version


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
        if host not in LOOPBACK_NAMES:
            self._answer(403, "text/plain", b"this page is for browsers on this machine only\n")
            return
        place = urlsplit(self.path)
        if place.path == "/":
            self._answer(200, "text/html; charset=utf-8", self.server.document())
        elif place.path == "/changes":
            since = parse_qs(place.query).get("since", ["0"])[0]
            news = self.server.board.changes(int(since) if since.isdecimal() else 0)
            self._answer(200, "application/json", json.dumps(news).encode())
        else:
            self._answer(404, "text/plain", b"there is only one page here\n")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):  # whoever asked has gone
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nobody reads it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        self.board = Board()

    def document(self) -> bytes:
        """With nothing in it yet: it asks for its sections at once."""
        from testbed.page.document import render
        from testbed.page.parts import Page, Section

        state = Section("state", "", "<p>One moment ...</p>")
        return render(Page(self.board.title, self.board.subtitle, (state,)), live=True).encode()


def main(home: Path, port: int, before: str) -> None:
    """Until the standard input ends, which it does with whoever started this process, however that ends."""
    os.nice(19)
    try:
        server = _Server(port)
    except OSError as error:
        print(json.dumps({"error": f"port {port} of {LOOPBACK} cannot be had: {error.strerror}"}), flush=True)
        return
    server.board.show("testbed", "", [("state", _state("The run is being brought up."))])
    print(json.dumps({"url": f"http://{LOOPBACK}:{server.server_port}/"}), flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    over = threading.Event()
    threading.Thread(target=_wait_for_the_end, args=(over,), daemon=True).start()
    _keep_current(server.board, home, before, over)


def _wait_for_the_end(over: threading.Event) -> None:
    sys.stdin.buffer.read()
    over.set()


def _keep_current(board: Board, home: Path, before: str, over: threading.Event) -> None:
    from testbed.page.onlooker import Onlooker

    onlooker: Onlooker | None = None
    drawn: list[tuple[str, str]] = []
    draw_at_s = 0.0
    while True:
        is_over = over.wait(LOOK_EVERY_S)
        onlooker = onlooker or Onlooker.of_next(home, before)
        if onlooker is not None:
            onlooker.look()
            if is_over or (onlooker.has_begun and time.monotonic() >= draw_at_s):
                begun_s = time.process_time()
                drawn = onlooker.drawn(is_over=is_over)
                draw_at_s = time.monotonic() + max(DRAW_EVERY_S, (time.process_time() - begun_s) / DRAWING)
            said = [("state", _state(onlooker.state(is_over=is_over)))]
            ranks = [] if is_over else onlooker.ranks()
            board.show(onlooker.title, onlooker.subtitle, [*said, *ranks, *drawn], over=is_over)
        if is_over:
            break
    board.show(board.title, board.subtitle, [(name, html) for name, (_, html) in board.sections.items()], over=True)
    deadline_s = time.monotonic() + FAREWELL_S
    while board.is_awaited and time.monotonic() < deadline_s:
        time.sleep(0.05)


def _state(text: str) -> str:
    return f'<section id="state" class="state" role="status">{escape(text)}</section>'


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
