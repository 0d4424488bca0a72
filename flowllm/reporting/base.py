"""What reads the events of a run, and the simplest reader: every event as a line of JSON in a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TextIO, runtime_checkable

from flowllm.core.errors import UsageError
from flowllm.core.events import Event
from flowllm.core.records import dataclass
from flowllm.reporting.followed import READ
from flowllm.reporting.text import json_text


class Observer(Protocol):
    """Reads events as they happen; it changes nothing and must not wait."""

    def handle(self, event: Event) -> None:
        """Take note of one event. Called on the loop, in the order of the events."""
        ...


@runtime_checkable
class Closable(Protocol):
    """An observer that holds something open."""

    def close(self) -> None:
        """Called once, when the run is over."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState:
    """How an account stands, as observers see it. None: not limited, or not known."""

    address: str = ""
    """Host and port, without credentials."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    """What is allowed now."""
    pause_s: float = 0.0
    """Seconds for which its server wants no requests."""
    in_flight: int | None = None
    waits: Mapping[str, int] | None = None
    """How many wait for which `WaitReason`."""
    requests_sent: int | None = None
    tokens_used: int | None = None
    """In the last minute."""


@runtime_checkable
class Watching(Protocol):
    """An observer that has something to say also when nothing happens."""

    def look(self, now: float, accounts: Mapping[str, AccountState]) -> None:
        """Called once a second while a run goes on. `now` is the wall clock's time, as in events; `accounts` are those of
        the run's providers, by their names."""
        ...


class EventsFile:
    """Appends to the file; each line is there as soon as its event happened.

    A file that can no longer be written (a full disk) is given up with one warning: it is no reason to stop a run.
    """

    def __init__(self, path: Path, *, warn: Callable[[str], None]) -> None:
        """Raises UsageError if the file cannot be opened; a new one is made with the first event."""
        self._path = path
        self._warn = warn
        self._failed = False
        self._file: TextIO | None = None
        if path.exists() or not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            try:
                self._file = _opened(path)
            except OSError as error:
                raise UsageError(
                    f"cannot write events to {path}: {error.strerror or error}",
                    hint="name a file in a folder that exists and that you may write to",
                ) from error

    def handle(self, event: Event) -> None:
        """Write one event, unless it is a sum that was read from the record."""
        if self._failed or isinstance(event, READ):
            return
        try:
            self._file = self._file or _opened(self._path)
            self._file.write(json_text(event.as_dict(), indent=None, ascii_only=True) + "\n")
            self._file.flush()
        except OSError as error:
            self._failed = True
            self._warn(f"no more events are written to {self._path}: {error.strerror or error}")

    def close(self) -> None:
        """Close the file."""
        try:
            if self._file is not None:
                self._file.close()
        except OSError as error:
            if not self._failed:
                self._warn(f"the last events are not in {self._path}: {error.strerror or error}")


def _opened(path: Path) -> TextIO:
    return path.open("a", encoding="ascii", newline="\n")
