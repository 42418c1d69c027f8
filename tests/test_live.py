"""live.py: what is shown while a run goes on; the state by itself, then what a terminal and a pipe get to see."""

from __future__ import annotations

import io
from typing import Any

import pytest
from results_world import plan_of

from testbed.core.faults import Cut, Fault, Heal, Moment
from testbed.journal import Record
from testbed.live import Progress, Screen, footer, plain_line

CUT = Cut(frozenset({(0, 1), (1, 0)}))


def line(event: str, at_s: float, **values: Any) -> Record:
    return {"event": event, "at_s": at_s, **values}


def step(at_s: float, number: int, loss: float | None = 0.5, late: int = 0) -> Record:
    return line("step", at_s, step=number, loss=loss, gradient_s=0.0, wait_s=0.0, late=late)


def traffic(at_s: float, sent: list[int], received: list[int]) -> Record:
    return line("traffic", at_s, sent=sent, received=received, overflow=0, counts={})


def progress_of(size: int = 2, *faults: Fault) -> Progress:
    return Progress(size, 100, faults)


def test_delivered_compares_both_ends_at_one_instant() -> None:
    progress = progress_of()
    progress.feed(0, traffic(1.0, [0, 100], [0, 0]))
    progress.feed(0, traffic(3.0, [0, 300], [0, 0]))
    progress.feed(1, traffic(2.0, [0, 0], [180, 0]))
    # at 2 s rank 0 had sent about 200, of which rank 1 had 180
    rows = progress.rows(3.0)
    assert rows[1].delivered == pytest.approx(0.9)
    assert rows[0].delivered is None  # nothing was sent to it
    assert progress.delivered() == pytest.approx(0.9)


def test_delivered_is_never_more_than_all() -> None:
    progress = progress_of()
    progress.feed(0, traffic(1.0, [0, 100], [0, 0]))
    progress.feed(1, traffic(1.0, [0, 0], [103, 0]))  # counted a moment later
    assert progress.rows(1.0)[1].delivered == 1.0


def test_a_rank_is_in_one_state_at_a_time() -> None:
    progress = progress_of(4)
    assert progress.rows(0.0)[0].state == "starting"
    progress.feed(0, step(1.0, 5))
    progress.feed(1, step(1.0, 5))
    progress.feed(1, line("suspected", 1.1, peer=0))
    progress.feed(2, line("suspected", 1.1, peer=0))
    assert progress.rows(2.0)[0].state == "training, suspected by 1, 2"
    progress.feed(2, line("heard", 1.5, peer=0))
    assert progress.rows(2.0)[0].state == "training, suspected by 1"
    assert progress.rows(21.0)[0].state == "silent for 20 s, suspected by 1"
    progress.feed(0, line("end", 22.0, step=100, reason="steps"))
    assert progress.rows(99.0)[0].state == "done"
    progress.feed(3, line("end", 22.0, step=70, reason="time"))
    assert progress.rows(99.0)[3].state == "done (time)"
    progress.feed(1, line("failed", 22.0, message="ValueError"))
    assert progress.rows(99.0)[1].state == "fell over"


def test_a_rank_that_was_started_again_is_training_again() -> None:
    progress = progress_of()
    progress.feed(0, step(1.0, 50))
    progress.feed(0, line("start", 5.0, rank=0, node=0, dimension=2, device="cpu", step=40))
    row = progress.rows(5.0)[0]
    assert (row.step, row.state) == (40, "training")


def test_late_phases_add_up_and_skips_move_the_step() -> None:
    progress = progress_of()
    progress.feed(0, step(1.0, 1, late=1))
    progress.feed(0, step(2.0, 2, late=2))
    progress.feed(0, line("skip", 2.1, **{"from": 2, "to": 9}))
    row = progress.rows(3.0)[0]
    assert (row.late, row.step) == (3, 9)


def test_a_dead_rank_does_not_hold_the_run_back() -> None:
    progress = progress_of(3)
    progress.feed(0, step(1.0, 50))
    progress.feed(1, step(1.0, 52))
    assert progress.step == 50


def test_a_plain_line_says_what_is_known_and_no_more() -> None:
    progress = progress_of()
    assert plain_line(progress) == "step 0/100"
    for rank, (loss, accuracy) in enumerate(((0.40, 0.90), (0.42, 0.92))):
        progress.feed(rank, step(1.0, 20, loss=loss))
        progress.feed(rank, line("evaluation", 1.1, step=20, loss=loss, accuracy=accuracy))
    progress.feed(0, traffic(1.2, [0, 1000], [0, 902]))
    progress.feed(1, traffic(1.2, [1000, 0], [900, 0]))
    assert plain_line(progress) == "step 20/100  loss 0.41  accuracy 0.910  delivered 90.1 %"


def test_the_footer_names_what_holds_and_what_comes() -> None:
    faults = (
        Fault(Moment(at_s=5.0), CUT, "partition 0 | 1", 5.0),
        Fault(Moment(step=60), Heal(), "heal"),
        Fault(Moment(at_s=20.0), CUT, "partition 0 | 1", 5.0),
    )
    progress = progress_of(2, *faults)
    assert footer(progress, 1.0) == "1.0 s   next: partition 0 | 1 at 5 s"
    progress.fault("partition 0 | 1", begins=True)
    assert footer(progress, 6.0) == "6.0 s   in force: partition 0 | 1   next: heal at step 60"
    progress.fault("partition 0 | 1", begins=False)
    progress.fault("heal", begins=True, lasts=False)  # takes no time: it is never in force
    assert footer(progress, 12.0) == "12.0 s   next: partition 0 | 1 at 20 s"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_through(screen: Screen) -> None:
    with screen:
        screen.phase("starting 2 containers")
        screen.phase("starting 2 containers")
        for number in range(1, 101):
            for rank in (0, 1):
                screen.record(rank, step(number * 0.1, number))
            screen.draw(number * 0.1)
            if number == 50:
                screen.fault("partition 0 | 1", begins=True)
        screen.phase("evaluating the mean model")


def test_a_pipe_gets_a_line_now_and_then() -> None:
    output = io.StringIO()
    run_through(Screen(plan_of(steps=100), output=output))
    assert output.getvalue().splitlines() == [
        "starting 2 containers",
        "5 s  step 50/100  loss 0.5",
        "5.0 s  partition 0 | 1 begins",
        "10 s  step 100/100  loss 0.5",
        "evaluating the mean model",
    ]


def test_a_program_gets_nothing() -> None:
    output = io.StringIO()
    run_through(Screen(plan_of(steps=100), quiet=True, output=output))
    assert output.getvalue() == ""


def test_a_terminal_gets_a_table_and_its_cursor_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    output = Terminal()
    run_through(Screen(plan_of(steps=100), output=output))
    text = output.getvalue()
    assert "delivered" in text
    assert "100/100" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor was hidden, and is shown again


def test_a_terminal_is_as_it_was_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    output = Terminal()

    def interrupted() -> None:
        with Screen(plan_of(), output=output) as screen:
            screen.record(0, step(1.0, 1))
            screen.draw(1.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert output.getvalue().rindex("\x1b[?25h") > output.getvalue().rindex("\x1b[?25l")


def test_a_terminal_too_small_for_all_ranks_shows_those_furthest_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("LINES", "14")
    monkeypatch.setenv("COLUMNS", "100")
    output = Terminal()
    with Screen(plan_of(20), output=output) as screen:
        for rank in range(20):
            screen.record(rank, step(1.0, 90 - rank))
        screen.draw(1.0)
    # 14 lines leave 8 for ranks: 12 to 19 are the furthest behind
    assert "12 ranks further ahead" in output.getvalue()
    assert "78/100" in output.getvalue()
    assert "79/100" not in output.getvalue()
