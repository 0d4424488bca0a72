from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowllm.core.errors import UsageError
from flowllm.reporting.base import Closable, EventsFile
from tests.support.events import node_ended, request_ended, run_started


def no_warning(line: str) -> None:
    raise AssertionError(line)


def test_each_event_is_a_line_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = EventsFile(path, warn=no_warning)
    events.handle(run_started())
    assert json.loads(path.read_text())["event"] == "RunStarted"
    events.handle(request_ended("a", error={"type": "Refused", "message": "\x1b é \ud800"}))
    events.handle(node_ended("a"))
    events.close()
    lines = path.read_bytes().splitlines()
    assert len(lines) == 3
    assert path.read_bytes().isascii()
    second, third = json.loads(lines[1]), json.loads(lines[2])
    assert second["error"]["message"] == "\x1b é \ud800"
    assert second["usage"]["output_tokens"] == 60
    assert third["status"] == "succeeded"


def test_it_appends(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for _ in range(2):
        events = EventsFile(path, warn=no_warning)
        events.handle(run_started())
        events.close()
    assert len(path.read_text().splitlines()) == 2


def test_a_file_that_cannot_be_opened_is_an_error_in_plain_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write events to .*: No such file or directory"):
        EventsFile(tmp_path / "nowhere" / "events.jsonl", warn=no_warning)


def test_a_full_disk_is_told_once_and_stops_nothing() -> None:
    warnings: list[str] = []
    events = EventsFile(Path("/dev/full"), warn=warnings.append)
    events.handle(run_started())
    events.handle(run_started())
    events.close()
    assert len(warnings) == 1
    assert warnings[0].startswith("no more events are written to /dev/full: No space left")


def test_it_is_closable(tmp_path: Path) -> None:
    events = EventsFile(tmp_path / "e", warn=no_warning)
    assert isinstance(events, Closable)
    events.close()
    events.close()
