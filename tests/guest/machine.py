"""One boot of the guest, from an empty folder to nothing left.

The folder holds the disc, what the guest is told (`settings`, `command`) and what it says (`out`, `err`, `status`);
both sides see it, the guest through hostfs. Whatever ends this process, the kernel ends the guest with it (a pid
namespace and the parent-death signal), and a child that only waits for our end takes the folder away.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

KERNEL = Path("/usr/bin/linux.uml")
MODULES = Path("/usr/lib/uml/modules")
INIT = Path(__file__).with_name("init.sh")
PROGRAMS = ("setpriv", "taskset", "unshare", "mke2fs", "busybox", "ip", "modprobe")

POLL_S = 0.02
MAX_MAP_COUNT = 1 << 20  # every scattered page of the guest is one mapping of its host process
TIMED_OUT, FAILED = 124, 125
PASSED_ON = ("HOME", "PATH", "LANG", "TERM", "USER")


class GuestError(Exception):
    """There can be no guest here; the message says what to install."""


@dataclass(frozen=True)
class Machine:
    command: Sequence[str]
    memory: str = "4G"
    timeout_s: float = 600.0
    disc_gb: int = 20
    writable: Sequence[Path] = ()  # folders that are written through, besides the current one
    env: Sequence[str] = ()  # names of variables that are passed on, besides PASSED_ON
    large: bool = False

    def run(self) -> int:
        """The command's exit status, or TIMED_OUT, or FAILED."""
        _check()
        if self.large:
            _raise_max_map_count()
        with ExitStack() as stack:
            for number in (signal.SIGTERM, signal.SIGHUP):  # so that `with` gets to put away
                before = signal.signal(number, _leave)
                stack.callback(signal.signal, number, before)
            folder = stack.enter_context(_folder())
            self._prepare(folder)
            process = stack.enter_context(_booted(self._arguments(folder), folder / "console"))
            return self._follow(process, folder)

    def _prepare(self, folder: Path) -> None:
        with (folder / "disc").open("wb") as disc:
            disc.truncate(self.disc_gb << 30)
        _make_file_system(folder / "disc")
        for name in ("scratch", "root", "uml"):
            (folder / name).mkdir()
        for name in ("out", "err", "console"):
            (folder / name).touch()
        writable = {Path.cwd(), *(path.resolve() for path in self.writable)} - {Path("/")}
        settings = {"modules": str(max(MODULES.iterdir())), "writable": " ".join(map(str, sorted(writable)))}
        (folder / "settings").write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items()))
        variables = {name: os.environ[name] for name in (*PASSED_ON, *self.env) if name in os.environ}
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
        (folder / "command").write_text(
            f"{exports}cd {shlex.quote(str(Path.cwd()))} || exit {FAILED}\nexec {shlex.join(self.command)}\n"
        )

    def _arguments(self, folder: Path) -> list[str]:
        return [
            *("setpriv", "--pdeathsig", "KILL"),
            # The guest has one CPU; left to wander over the host's, it runs at a half to a quarter of the speed.
            *("taskset", "--cpu-list", str(_idlest_cpu())),
            *("unshare", "--pid", "--fork", "--kill-child", "sh", "-c", '"$@"; exit $?', "guest"),
            str(KERNEL),
            *(f"mem={self.memory}", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw"),
            *(f"ubd0={folder}/disc", f"uml_dir={folder}/uml/", "umid=guest"),
            *("con=null", "con0=null,fd:1", "ssl=null", "panic=-1", "quiet"),
            *(f"init={INIT}", f"guest={folder}"),  # (the kernel hands a variable that it does not know to init)
        ]

    def _follow(self, process: subprocess.Popen[bytes], folder: Path) -> int:
        """Passes output on until the guest has halted."""
        end_s = time.monotonic() + self.timeout_s
        with (folder / "out").open("rb") as out, (folder / "err").open("rb") as err:
            streams = ((out, sys.stdout.buffer), (err, sys.stderr.buffer))
            while process.poll() is None:
                if time.monotonic() > end_s:
                    print(f"tests.guest: no end after {self.timeout_s:g} s, killed", file=sys.stderr)
                    return TIMED_OUT
                if not _pump(streams):
                    time.sleep(POLL_S)
            _pump(streams)
        try:
            return int((folder / "status").read_text())
        except (FileNotFoundError, ValueError):
            last = (folder / "console").read_text(errors="replace").splitlines()[-30:]
            print("tests.guest: the guest died; the end of its console:", *last, sep="\n", file=sys.stderr)
            return FAILED


def _check() -> None:
    remedy = "apt-get install user-mode-linux e2fsprogs kmod iproute2 iptables busybox-static util-linux"
    if os.geteuid() != 0:
        raise GuestError("needs root, for a pid namespace that ends the guest with us")
    if not KERNEL.exists() or not MODULES.is_dir():
        raise GuestError(f"there is no {KERNEL} or no {MODULES}: {remedy}")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if not any((Path(each) / name).exists() for each in path.split(":"))]
    if missing:
        raise GuestError(f"there is no {', '.join(missing)}: {remedy}")


@contextmanager
def _folder() -> Iterator[Path]:
    """Goes away with the block; and with this process, even if that is killed."""
    folder = tempfile.mkdtemp(prefix="testbed-guest-")
    script = 'cat; until rm -rf "$1"; do sleep 0.1; done'  # (again, while the dying guest still writes into it)
    with subprocess.Popen(["sh", "-c", script, "sweeper", folder], stdin=subprocess.PIPE, start_new_session=True):
        yield Path(folder)  # the end of the block closes the sweeper's input, and waits for it


@contextmanager
def _booted(arguments: list[str], console: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(console.parent)}
    with console.open("wb") as output:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    try:
        yield process
    finally:
        process.kill()  # `unshare`, which takes the whole guest with it
        process.wait()


def _make_file_system(disc: Path) -> None:
    lazy = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    environment = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-E", lazy, disc], check=True, env=environment)


def _pump(streams: Sequence[tuple[BinaryIO, BinaryIO]]) -> int:
    """Copies what is new; how many bytes that were."""
    copied = 0
    for source, target in streams:
        while chunk := source.read(1 << 16):
            target.write(chunk)
            target.flush()
            copied += len(chunk)
    return copied


def _idlest_cpu() -> int:
    """Of those that this process may use, the one that has been idle most, over a moment."""
    before = _idle_ticks()
    time.sleep(0.15)
    after = _idle_ticks()
    return max(os.sched_getaffinity(0), key=lambda cpu: after.get(cpu, 0) - before.get(cpu, 0))


def _idle_ticks() -> dict[int, int]:
    rows = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    return {int(row[0][3:]): int(row[4]) for row in rows if row[0].startswith("cpu") and row[0] != "cpu"}


def _raise_max_map_count() -> None:
    setting = Path("/proc/sys/vm/max_map_count")
    if int(setting.read_text()) < MAX_MAP_COUNT:
        setting.write_text(str(MAX_MAP_COUNT))
        print(f"tests.guest: vm.max_map_count of this machine is {MAX_MAP_COUNT} now", file=sys.stderr)


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
