"""How long the writer waits for a database that is away: a server that is started anew, or has failed over to another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from flowllm.storage.sql.engine import Engine

LONGEST: Final = 300.0
"""Seconds that it waits in all,"""
HURRIED: Final = 5.0
"""and when the run is being stopped."""
SLOWEST: Final = 5.0
"""Seconds between two tries at most."""
QUIET: Final = 1.0
"""Seconds after which somebody is told."""
_FIRST: Final = 0.02


class Patience:
    """Of one writer, in whose thread all but `hurry` is called."""

    def __init__(self, engine: Engine, told: Callable[[str], object] | None) -> None:
        self._engine = engine
        self._tell = told or (lambda _: None)
        self._hurried = threading.Event()
        self._since: float | None = None
        self._told = False
        self._pause = _FIRST

    def outlasts(self, attempt: Callable[[bool], Exception | None]) -> Exception | None:
        """The error that an attempt has come to, once it has gone through or there is no use in waiting; it is told whether it
        is made again."""
        error = attempt(False)
        if error is None:
            return None
        self._since = None
        while error is not None and self._waits(error):
            error = attempt(True)
        self._end(error)
        return error

    def _waits(self, error: BaseException) -> bool:
        """Whether to try again, after a pause."""
        if not self._engine.passes(error):
            return False
        now = time.monotonic()
        if self._since is None:
            self._since, self._told, self._pause = now, False, _FIRST
        waited = now - self._since
        if waited > (HURRIED if self._hurried.is_set() else LONGEST):
            return False
        if waited > QUIET and not self._told:
            self._told = True
            self._tell(
                f"{self._engine.explain(error)} Waiting for it, up to {LONGEST / 60:.0f} minutes; nothing is sent meanwhile"
            )
        if self._hurried.is_set():
            time.sleep(self._pause)
        else:
            self._hurried.wait(self._pause)
        self._pause = min(SLOWEST, 2 * self._pause)
        return True

    def _end(self, error: BaseException | None) -> None:
        """It has gone through, or failed for good."""
        if self._told and self._since is not None and error is None:
            self._tell(f"the database {self._engine.name} is back, after {time.monotonic() - self._since:.0f} s")
        self._told = False

    def hurry(self) -> None:
        """The run is being stopped."""
        self._hurried.set()
