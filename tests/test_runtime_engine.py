"""What the engine is asked again, and what is an error at once; its answers are those that a real one gave."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError

from testbed.errors import BringUpError
from testbed.runtime import engine as rooms
from testbed.runtime.engine import Engine

BUSY = (
    "Cannot pause container a03d: OCI runtime pause failed: unable to freeze: unknown"  # at a load of 90 on two cores
)
STOPPED = "Container a03d is not running"


def engine_that_answers(*answers: str | None) -> tuple[Engine, list[str | None]]:
    """One after the other to each request for a pause; None: it is paused."""
    left = list(answers)

    def pause(_container: str) -> None:
        if (explanation := left.pop(0)) is not None:
            raise APIError("409 Client Error", explanation=explanation)

    api: Any = SimpleNamespace(
        pause=pause, base_url="", get_adapter=lambda _url: SimpleNamespace(socket_path="/var/run/docker.sock")
    )
    return Engine(SimpleNamespace(api=api)), left  # type: ignore[arg-type]


def test_a_container_that_gets_no_cpu_time_is_frozen_when_it_gets_some() -> None:
    engine, left = engine_that_answers(BUSY, BUSY, None)
    engine.pause_container("a03d")
    assert left == []


def test_what_cannot_be_paused_is_not_asked_for_again() -> None:
    engine, left = engine_that_answers(STOPPED, None)
    with pytest.raises(BringUpError, match="is not running"):
        engine.pause_container("a03d")
    assert left == [None]


def test_who_never_freezes_is_given_up_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "FREEZE_DEADLINE_S", -1.0)
    engine, _ = engine_that_answers(BUSY, None)
    with pytest.raises(BringUpError, match=r"pausing container a03d.*unable to freeze"):
        engine.pause_container("a03d")


def test_a_network_whose_containers_the_engine_cannot_name_is_told_with_what_helps() -> None:
    def remove(_network: str) -> None:
        raise APIError("403 Client Error", explanation="error while removing network: network x has active endpoints")

    api: Any = SimpleNamespace(
        inspect_network=lambda _network: {"Containers": {}},
        remove_network=remove,
        base_url="",
        get_adapter=lambda _url: SimpleNamespace(socket_path="/var/run/docker.sock"),
    )
    engine = Engine(SimpleNamespace(api=api))  # type: ignore[arg-type]
    with pytest.raises(rooms.StuckNetworkError, match="counts containers in it that are no more") as caught:
        engine.remove_network("9f23c1e69ddc")
    assert "restart the Docker engine" in (caught.value.remedy or "")
