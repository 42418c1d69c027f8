"""Who owns a run is told apart from a later process with the same number."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from testbed.runtime.labels import Owner, start_of


def a_process(proc: Path, state: str, start: str) -> None:
    # proc(5): pid (comm) state ppid ...; the start is column 22, so 18 more columns stand between state and it
    (proc / "77").mkdir()
    (proc / "77" / "stat").write_text(f"77 (a ) name) {state} {'0 ' * 18}{start} 4096 5\n")


def test_this_process_is_alive_and_comes_back_from_its_labels() -> None:
    owner = Owner.current()
    assert owner.pid == os.getpid()
    assert owner.is_alive()
    assert Owner.from_labels(owner.labels()) == owner


def test_a_later_process_with_the_same_pid_is_somebody_else() -> None:
    assert not replace(Owner.current(), start="1").is_alive()


def test_the_start_is_found_behind_a_name_with_brackets_and_blanks(tmp_path: Path) -> None:
    a_process(tmp_path, "S", "4711")
    assert start_of(77, tmp_path) == "4711"


def test_a_process_that_only_waits_to_be_reaped_is_dead(tmp_path: Path) -> None:
    a_process(tmp_path, "Z", "4711")
    assert start_of(77, tmp_path) is None
    assert not Owner(77, "4711").is_alive(tmp_path)


def test_labels_of_a_strange_make_belong_to_nobody_alive() -> None:
    assert not Owner.from_labels({}).is_alive()
