"""Time, passed in, so that a test can own it."""

from __future__ import annotations

import asyncio
import math
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """Two readings and a wait. Everything in flowllm that asks for the time asks one of these."""

    def now(self) -> float:
        """Wall clock, seconds since 1970 UTC. For records only: it may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back. For every interval."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; 0 or less only yields to other tasks."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        """Seconds since 1970 UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds from an arbitrary start."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for that many seconds."""
        await asyncio.sleep(max(0.0, seconds))


def timestamp(seconds: float | None) -> str | None:
    """A wall clock time as ISO 8601 in UTC, to the millisecond."""
    if seconds is None:
        return None
    fraction, whole = math.modf(seconds)
    microseconds = round(fraction * 1_000_000)
    if not 0 <= microseconds < 1_000_000:  # noqa: PLR2004 - before 1970, or rounded up to a second
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"{_second(whole)}.{microseconds // 1000:03d}Z"


@lru_cache(maxsize=100)
def _second(whole: float) -> str:
    """Most of a timestamp, which the nodes of a run that are many share."""
    return datetime.fromtimestamp(whole, UTC).isoformat(timespec="seconds").removesuffix("+00:00")
