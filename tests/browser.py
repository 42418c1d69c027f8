"""Headless Chromium for tests: opens a page, asks it things, looks at it. Through the DevTools protocol over two
pipes, so that neither a driver nor a WebSocket is needed.

As a program it takes a picture: `python tests/browser.py FILE.html PICTURE.png [WIDTH [HEIGHT [dark]]]`, all of the
page where no height, or 0, is given.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
ANSWER_S = 30.0
LAUNCH = """import os, sys
for number in (1, 2):  # the protocol is spoken over the descriptors 3 and 4
    os.dup2(int(sys.argv[number]), number + 2)
os.execv(sys.argv[3], sys.argv[3:])
"""
OPTIONS = (
    "--headless",
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One browser with one tab. `errors` are the lines that the page's console has in red, `asked_for` all addresses
    that it has asked for. A context manager: at its end nothing of the browser is left."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.asked_for: list[str] = []
        self._number = 0
        self._heard: list[dict[str, Any]] = []
        self._rest = b""
        self._session: str | None = None

    def __enter__(self) -> Browser:
        program = chromium()
        assert program, "the fixture has looked for it"
        self._folder = tempfile.mkdtemp(prefix="testbed-browser-")
        theirs, self._to = os.pipe()
        self._from, theirs_too = os.pipe()
        passed = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in (theirs, theirs_too)]  # neither is 3 or 4
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", LAUNCH, *map(str, passed)),
                *(program, *OPTIONS, f"--user-data-dir={self._folder}", "about:blank"),
            ],
            pass_fds=passed,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for each in (theirs, theirs_too, *passed):
            os.close(each)
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for room in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{room}.enable")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        os.close(self._to)
        os.close(self._from)
        try:  # with its pipe it goes by itself
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def open(self, address: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Until it is loaded. What was said before is forgotten."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.errors, self.asked_for, self._heard = [], [], []
        self.ask("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression: str) -> Any:
        """Of a JavaScript expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str, within_s: float = 20.0) -> None:
        """Waits until a JavaScript expression in the page is true."""
        deadline_s = time.monotonic() + within_s
        while not self.value(f"Boolean({expression})"):
            assert time.monotonic() < deadline_s, f"not within {within_s:g} s: {expression}"
            select.select([], [], [], 0.05)

    def picture(self, path: Path, *, whole: bool = True) -> None:
        data = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def ask(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._hear(f"an answer to {method}")
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _hear(self, what: str) -> dict[str, Any]:
        deadline_s = time.monotonic() + ANSWER_S
        while b"\0" not in self._rest:
            left_s = deadline_s - time.monotonic()
            ready = left_s > 0 and select.select([self._from], [], [], left_s)[0]
            assert ready, f"no {what} within {ANSWER_S:g} s"
            data = os.read(self._from, 1 << 20)
            assert data, f"Chromium ended while {what} was waited for"
            self._rest += data
        line, self._rest = self._rest.split(b"\0", 1)
        heard: dict[str, Any] = json.loads(line)
        return heard

    def _note(self, event: dict[str, Any]) -> None:
        values = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(values["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.errors.append(values["entry"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled" and values["type"] in ("error", "assert"):
            self.errors.append(json.dumps(values["args"]))
        elif event.get("method") == "Network.requestWillBeSent":
            self.asked_for.append(values["request"]["url"])


if __name__ == "__main__":
    source, target, *rest = sys.argv[1:]
    wide, high = (int(value) for value in (*rest[:2], *("1280", "0")[len(rest[:2]) :]))
    with Browser() as browser:
        browser.open(Path(source).absolute().as_uri(), width=wide, height=high or 900, dark="dark" in rest)
        browser.picture(Path(target), whole=not high)
