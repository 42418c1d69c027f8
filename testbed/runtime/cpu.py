"""What the processors of this machine were doing, read off the kernel's own counters: busy, idle and stolen time, how
long somebody waited for a core (PSI), and how often a node had used up its quota.

All counters are cumulative, since boot or since a container's start: whoever wants a share takes two readings. What a
kernel does not tell is None, and no error. Not here: when to read (supervisor/machine.py), what it means
(results/machine.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.errors import BringUpError
from testbed.runtime.containers import Containers
from testbed.runtime.leftovers import THREADS

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
# Where a container sees its own: with cgroup v2, and with v1 by either name of the controller's folder.
INSIDE = ("cpu.stat", "cpu/cpu.stat", "cpu,cpuacct/cpu.stat")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")  # of /proc/stat

Ask = Callable[[int], str]  # cpu.stat of a node, by asking inside it; empty if it cannot be had


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Of all cores together, since boot."""

    busy_s: float
    idle_s: float  # waiting for a disk included
    steal_s: float  # that the machine below this one gave to others


@dataclass(frozen=True, slots=True)
class Throttling:
    """Of one cgroup, since it was made: periods in which something wanted to run, and those in which its quota was
    used up before their end."""

    periods: int
    throttled: int


@dataclass(frozen=True, slots=True)
class Reading:
    cores: int
    times: CpuTimes
    pressure_s: float | None  # for so long somebody waited for a core, since boot
    load: float | None
    throttled: tuple[Throttling | None, ...]  # by node

    def to_json(self) -> dict[str, Any]:
        """As a line of the journal."""
        return {
            "cores": self.cores,
            "busy_s": round(self.times.busy_s, 2),
            "idle_s": round(self.times.idle_s, 2),
            "steal_s": round(self.times.steal_s, 2),
            "pressure_s": None if self.pressure_s is None else round(self.pressure_s, 6),
            "load": self.load,
            "throttled": [None if each is None else [each.periods, each.throttled] for each in self.throttled],
        }


class Cpu:
    """The processors under a run. `cgroups`: the folder of each node's cgroup, None where this process does not see it;
    then `ask` can."""

    def __init__(
        self,
        cores: int,
        *,
        cgroups: Sequence[Path | None] = (),
        ask: Ask | None = None,
        proc: Path = PROC,
    ) -> None:
        self.cores = cores
        self._cgroups = cgroups
        self._ask = ask
        self._proc = proc

    @classmethod
    def here(cls) -> Cpu:
        """For ranks that are processes of this machine, with the cores that this process may use."""
        return cls(len(os.sched_getaffinity(0)))

    @classmethod
    def under(cls, boxes: Containers, *, in_sight: bool = True) -> Cpu:
        """For ranks in containers. The folders of their cgroups stay the same when they are started again. `in_sight`:
        whether to look for them from here at all, and not only from inside."""
        cgroups: list[Path | None] = [None] * len(boxes.nodes)
        if in_sight:
            with ThreadPoolExecutor(THREADS) as pool:
                cgroups = list(pool.map(lambda node: _folder_of(boxes, node), range(len(boxes.nodes))))
        return cls(int(boxes.engine.info["NCPU"]), cgroups=cgroups, ask=lambda node: _ask_inside(boxes, node))

    def read(self, *, thorough: bool = False) -> Reading | None:
        """None on a machine that has no such counters. Nodes whose cgroup this process does not see are asked only
        where `thorough`: that takes a process in each."""
        times = cpu_times(_text(self._proc / "stat"))
        if times is None:
            return None
        return Reading(
            self.cores,
            times,
            pressure_s(_text(self._proc / "pressure" / "cpu")),
            load(_text(self._proc / "loadavg")),
            tuple(throttling(text) for text in self._cpu_stats(thorough)),
        )

    def _cpu_stats(self, thorough: bool) -> list[str]:
        texts = ["" if folder is None else _text(folder / "cpu.stat") for folder in self._cgroups]
        unseen = [node for node, folder in enumerate(self._cgroups) if folder is None]
        if self._ask is not None and thorough and unseen:
            with ThreadPoolExecutor(THREADS) as pool:
                for node, text in zip(unseen, pool.map(self._ask, unseen), strict=True):
                    texts[node] = text
        return texts


def _folder_of(boxes: Containers, node: int) -> Path | None:
    """None where this process sees another tree of processes, or of cgroups, than the engine."""
    container, pid = boxes.process(node)
    within = cgroup_of(_text(PROC / str(pid) / "cgroup"), container)
    if within is None:
        return None
    folder = CGROUPS / within
    return folder if (folder / "cpu.stat").exists() else None


def _ask_inside(boxes: Containers, node: int) -> str:
    files = " ".join(str(CGROUPS / name) for name in INSIDE)
    try:
        return boxes.exec(node, ["sh", "-c", f"cat {files} 2>/dev/null"]).output.decode()
    except BringUpError:  # it is down by now
        return ""


def _text(path: Path) -> str:
    """Empty where there is none, or where the kernel has the file and will not say (PSI that was turned off)."""
    try:
        return path.read_text()
    except OSError:
        return ""


# -- decisions, pure


def cpu_times(stat: str) -> CpuTimes | None:
    """From /proc/stat: "cpu  user nice system idle iowait irq softirq steal guest guest_nice", in ticks. What guests of
    this machine used is in user and nice already."""
    words = stat.partition("\n")[0].split()
    if len(words) < 9 or words[0] != "cpu":
        return None
    user, nice, system, idle, iowait, irq, softirq, steal = (int(word) / _TICKS_PER_S for word in words[1:9])
    return CpuTimes(user + nice + system + irq + softirq, idle + iowait, steal)


def pressure_s(pressure: str) -> float | None:
    """From /proc/pressure/cpu: "some avg10=6.02 avg60=2.15 avg300=1.55 total=21756555", the total in microseconds."""
    for line in pressure.splitlines():
        if line.startswith("some "):
            return int(line.rpartition("total=")[2]) / 1e6
    return None


def load(loadavg: str) -> float | None:
    """From /proc/loadavg: "1.19 0.72 0.48 3/136 16105"."""
    return float(loadavg.split()[0]) if loadavg else None


def throttling(cpu_stat: str) -> Throttling | None:
    """From a cgroup's cpu.stat, of either version; the first counts where there are several after one another."""
    counts: dict[str, int] = {}
    for line in cpu_stat.splitlines():
        name, _, number = line.partition(" ")
        counts.setdefault(name, int(number))
    if "nr_periods" not in counts:
        return None
    return Throttling(counts["nr_periods"], counts["nr_throttled"])


def cgroup_of(cgroups: str, container: str) -> Path | None:
    """Where below /sys/fs/cgroup a container's `cpu.stat` lies, from /proc/PID/cgroup of its first process.

    Lines are "8:cpu,cpuacct:/docker/ID" with version 1, "0::/system.slice/docker-ID.scope" with version 2, and both on
    a machine that has both: there the controller is with version 1. None if these are not the container's, as where the
    pid is one of another machine's.
    """
    found: Path | None = None
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        if container not in path:
            continue
        if "cpu" in controllers.split(","):
            return Path("cpu") / path.lstrip("/")
        if not controllers:
            found = Path(path.lstrip("/"))
    return found
