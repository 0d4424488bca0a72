from __future__ import annotations

import asyncio

import pytest

from flowllm.app.observer_hub import ObserverHub
from flowllm.core.events import Event

EVENT = Event(run_id="r1", at=0.0)


class Breaks:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def handle(self, event: Event) -> None:
        raise self.error

    close = handle


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class BreaksAtTheEnd:
    def __init__(self) -> None:
        self.heard: list[Event] = []

    def handle(self, event: Event) -> None:
        self.heard.append(event)

    def close(self) -> None:
        raise OSError("full")


@pytest.mark.parametrize("error", [ValueError("x"), BrokenPipeError(), SystemExit(3), Mute(), asyncio.CancelledError()])
def test_an_observer_that_fails_is_left_out_and_told_once(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    other = BreaksAtTheEnd()
    telling = ObserverHub([Breaks(error), other])
    telling(EVENT)
    telling(EVENT)
    telling.close()
    assert other.heard == [EVENT, EVENT]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("flowllm: Breaks failed and is left out")
    assert second == "flowllm: BreaksAtTheEnd could not be closed: full"


def test_nothing_is_told_where_standard_error_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Breaks(BrokenPipeError()))
    ObserverHub([Breaks(ValueError("x"))])(EVENT)
