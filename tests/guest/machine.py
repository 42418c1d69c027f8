"""One boot of the guest, from an empty folder to nothing left.

The folder holds the disc, what the guest is told (`settings`, `command`) and what it says (`out`, `err`, `status`);
both sides see it, the guest through hostfs. Whatever ends this process, the kernel ends the guest with it (a pid
namespace and the parent-death signal), and a child that only waits for our end takes the folder away.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

KERNEL = Path("/usr/bin/linux.uml")
MODULES = Path("/usr/lib/uml/modules")
INIT = Path(__file__).with_name("init.sh")
PROGRAMS = ("setpriv", "taskset", "unshare", "flock", "mke2fs", "busybox", "ip", "modprobe")

POLL_S = 0.02
MAX_MAP_COUNT = Path("/proc/sys/vm/max_map_count")
ENOUGH_MAPS = 1 << 20  # every scattered page of a guest's process is one mapping of its host process
NOTE = Path("/run/testbed-guest-max-map-count")
# $1: the folder, removed again and again while the dying guest still writes into it. Where vm.max_map_count was raised,
# $2 and $3: the locked note of what it was, as a descriptor and as a path.
SWEEPER = """
cat
until rm -rf "$1"; do sleep 0.1; done
if [ $# -gt 1 ] && flock --nonblock --exclusive "$2"; then cat "$3" >/proc/sys/vm/max_map_count; : >"$3"; fi
"""
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
    large: bool = False  # its processes may be; raises this machine's vm.max_map_count meanwhile

    def run(self) -> int:
        """The command's exit status, or TIMED_OUT, or FAILED."""
        check()
        with ExitStack() as stack:
            for number in (signal.SIGTERM, signal.SIGHUP):  # so that `with` gets to put away
                before = signal.signal(number, _leave)
                stack.callback(signal.signal, number, before)
            folder = stack.enter_context(_folder(large=self.large))
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


def check() -> None:
    """Raises GuestError where there can be no guest."""
    remedy = "apt-get install user-mode-linux e2fsprogs kmod iproute2 iptables busybox-static util-linux"
    if os.geteuid() != 0:
        raise GuestError("needs root, for a pid namespace that ends the guest with us")
    if not KERNEL.exists() or not MODULES.is_dir():
        raise GuestError(f"there is no {KERNEL} or no {MODULES}: {remedy}")
    missing = [name for name in PROGRAMS if not shutil.which(name, path=search_path())]
    if missing:
        raise GuestError(f"there is no {', '.join(missing)}: {remedy}")


def search_path() -> str:
    """PATH, with what only root has on it."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


@contextmanager
def _folder(*, large: bool) -> Iterator[Path]:
    """Goes away with the block, and a raised vm.max_map_count with it; also where this process is killed."""
    folder = tempfile.mkdtemp(prefix="testbed-guest-")
    with ExitStack() as stack:
        note = stack.enter_context(_raised_max_map_count()).fileno() if large else None
        words = ["sh", "-c", SWEEPER, "sweeper", folder, *([str(note), str(NOTE)] if large else [])]
        passed = () if note is None else (note,)
        stack.enter_context(subprocess.Popen(words, stdin=subprocess.PIPE, pass_fds=passed, start_new_session=True))
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
    environment = {**os.environ, "PATH": search_path()}
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


def _raised_max_map_count() -> TextIO:
    """The note of what it was before, locked: whoever of those that share the lock is the last puts it back."""
    note = NOTE.open("a")
    fcntl.flock(note, fcntl.LOCK_SH)
    before = MAX_MAP_COUNT.read_text()
    if int(before) < ENOUGH_MAPS:
        NOTE.write_text(before)
        MAX_MAP_COUNT.write_text(str(ENOUGH_MAPS))
    return note


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
