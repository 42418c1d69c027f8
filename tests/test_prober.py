"""Probers on loopback: real processes, real sockets, no link between them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from testbed.core.links import LinkState, all_pairs
from testbed.errors import BringUpError
from testbed.prober import Flow
from testbed.results.verification import judge
from testbed.supervisor.probers import Prober, ask
from testbed.supervisor.survey import USUAL
from testbed.supervisor.verification import Surveyor, survey_briefly


@dataclass
class Started:
    prober: Prober
    process: subprocess.Popen[bytes]


def start(node: int, stack: ExitStack, address: str = "127.0.0.1") -> Started:
    process = subprocess.Popen(
        [sys.executable, "-m", "testbed.prober", address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    stack.enter_context(process)
    stack.callback(process.kill)
    errors = process.stderr
    prober = Prober(node, address, process.stdout, process.stdin, lambda: errors.read().decode())
    return Started(prober, process)


@pytest.fixture
def started() -> Iterator[list[Started]]:
    with ExitStack() as stack:
        made = [start(node, stack) for node in range(3)]
        for each in made:
            each.prober.greet()
        yield made


@pytest.fixture
def probers(started: list[Started]) -> list[Prober]:
    return [each.prober for each in started]


def test_a_flow_tells_losses_duplicates_and_disorder_apart() -> None:
    flow = Flow()
    for number in (0, 1, 4, 3, 3, 7):  # of 0..9: 2, 5, 6, 8, 9 are missing, in three gaps
        flow.take(number, latency_ns=1000 * number)
    told = flow.report(10, early_s=2e-6)
    assert {name: told[name] for name in ("received", "duplicates", "behind", "early", "gaps")} == {
        "received": 5,
        "duplicates": 1,
        "behind": 1,
        "early": 2,
        "gaps": 3,
    }
    assert told["latencies_s"][2] == 3e-6


def test_over_loopback_nothing_is_lost_and_nothing_takes_time(probers: list[Prober]) -> None:
    state = LinkState.uniform(3)
    (kind,) = survey_briefly(state, probers)
    assert (kind.links, kind.sent, kind.lost, kind.as_asked) == (6, 3000, 0, True)
    told: list[str] = []
    surveyor = Surveyor(state, probers, list, lambda what, done, total: told.append(what))
    found = judge(state, surveyor.measure(USUAL, all_pairs(3), ("loss", "rtt")))
    assert found.as_asked
    assert found.measured == {(0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1)}
    assert list(dict.fromkeys(told)) == ["loss", "round trips"]


def test_what_overflows_a_prober_that_gets_no_time_is_counted_to_the_last_datagram(started: list[Started]) -> None:
    target, flood = started[1], 30_000  # of 2304 bytes each in a buffer of 8 MB at most
    train = {
        "to": target.prober.address,
        "port": target.prober.inbox,
        "flow": 9,
        "count": flood,
        "every_s": 0.0,
        "bytes": 1200,
    }
    target.process.send_signal(signal.SIGSTOP)
    ask([each.prober for each in started], {0: {"do": "send", "trains": [train]}})
    target.process.send_signal(signal.SIGCONT)
    report = {"do": "report", "trains": [{"flow": 9, "sent": flood, "early_s": 0.0}]}
    (answer,) = ask([each.prober for each in started], {1: report}).values()
    assert answer["overflow"] > 0
    assert answer["flows"]["9"]["received"] + answer["overflow"] == flood


def test_a_stream_over_tcp_says_how_many_segments_it_took(probers: list[Prober]) -> None:
    job = {"do": "stream", "to": probers[1].address, "port": probers[1].streams, "for_s": 0.2}
    (answer,) = ask(probers, {0: job}).values()
    assert answer["segments"] > 10
    assert answer["goodput_bps"] > 1e6


def test_a_prober_that_cannot_start_says_why() -> None:
    with ExitStack() as stack, pytest.raises(BringUpError, match=r"no interface here has the address 192\.0\.2\.1"):
        start(0, stack, "192.0.2.1").prober.greet()
