"""How long a database is waited for that is away: a server that is started anew, or has failed over to another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from flowllm.storage.sql.engine import Engine

T = TypeVar("T")

LONGEST: Final = 300.0
"""Seconds that a process waits which carries out runs,"""
BRIEFLY: Final = 10.0
"""one that only reads,"""
HURRIED: Final = 5.0
"""and one that is being stopped."""
SLOWEST: Final = 2.0
"""Seconds between two tries at most."""
QUIET: Final = 1.0
"""Seconds after which somebody is told."""
_FIRST: Final = 0.02


class Patience:
    """Of one store. Writes are tried in one thread; reads in any."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.told: Callable[[str], object] = lambda _: None
        """Hears, in the writer's thread, that the database is waited for, and that it is back."""
        self._hurried = threading.Event()
        self._since: float | None = None
        """When the writer began to wait, monotonic seconds; None once it has written again."""
        self._told = False
        self._pause = _FIRST

    def outlasts(self, attempt: Callable[[bool], Exception | None]) -> Exception | None:
        """The error that an attempt has come to, once it has gone through or there is no use in waiting; it is told whether it
        is made again."""
        error = attempt(False)
        while error is not None and self._waits(error):
            error = attempt(True)
        if error is None and self._since is not None:
            self._is_back(time.monotonic() - self._since)
        return error

    def reads(self, read: Callable[[], T], longest: float) -> T:
        """What it gives, tried so many seconds while the database is away. Raises the engine's errors."""
        begun, pause = time.monotonic(), _FIRST
        while True:
            try:
                return read()
            except self._engine.errors as error:
                if not self._engine.passes(error) or time.monotonic() - begun > (
                    HURRIED if self._hurried.is_set() else longest
                ):
                    raise
            self._rest(pause)
            pause = min(SLOWEST, 2 * pause)

    def hurry(self) -> None:
        """The process is being stopped. From any thread."""
        self._hurried.set()

    def _waits(self, error: Exception) -> bool:
        """Whether to try again, after a pause; once it has waited in vain, not until something was written."""
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
            what = getattr(self._engine.explain(error), "message", str(error))
            self.told(f"{what} Waiting for it, up to {LONGEST / 60:.0f} minutes; nothing is sent meanwhile")
        self._rest(self._pause)
        self._pause = min(SLOWEST, 2 * self._pause)
        return True

    def _is_back(self, waited: float) -> None:
        if self._told:
            self.told(f"the database {self._engine.name} is back, after {waited:.0f} s")
        self._since, self._told = None, False

    def _rest(self, pause: float) -> None:
        if self._hurried.is_set():
            time.sleep(pause)
        else:
            self._hurried.wait(pause)
