"""What a bar of a timeline is made of: attempts on the wire at their true times, and waits laid into the time between."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from flowllm.core.records import dataclass, replace
from flowllm.core.types import AttemptStatus, WaitReason
from flowllm.storage.base import AttemptRecord

NOTED = 2.5
"""Seconds that a note of what a node waits for may be old."""
SHORTEST = 0.0005
"""Seconds below which a wait is not drawn."""
BETWEEN = frozenset({WaitReason.BACKOFF, WaitReason.BREAKER})
"""Reasons that come of an attempt that failed, so that these waits stand behind one wherever there is room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BarAttempt:
    """One attempt on the wire. Times are wall clock seconds."""

    number: int
    started_at: float
    finished_at: float | None
    status: str
    hedge: bool
    """It was sent beside an earlier one that was not answered yet."""
    error_type: str
    """Empty for one that succeeded; `Abandoned`: another one was answered first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitSegment:
    """A wait as it is drawn: how long it was is on record, when it was within its node is not."""

    reason: str
    started_at: float
    finished_at: float


def with_hedges(attempts: Iterable[AttemptRecord]) -> tuple[BarAttempt, ...]:
    """Attempts in the order in which they were sent; one that was sent before an earlier one had ended is a hedge."""
    found: list[BarAttempt] = []
    busy = -math.inf
    sent = (one for one in attempts if one.status is not AttemptStatus.NOT_SENT)
    for attempt in sorted(sent, key=lambda one: one.started_at):
        end = math.inf if attempt.finished_at is None else attempt.finished_at
        found.append(
            BarAttempt(
                number=attempt.number,
                started_at=attempt.started_at,
                finished_at=attempt.finished_at,
                status=attempt.status.value,
                hedge=attempt.started_at < busy,
                error_type=str((attempt.error or {}).get("type", "")),
            )
        )
        busy = max(busy, end)
    return tuple(found)


def wait_segments(
    waits: Mapping[str, float], attempts: Sequence[BarAttempt], started_at: float, finished_at: float
) -> tuple[WaitSegment, ...]:
    """Lay waits, of which only the sums are known, into the time of a node in which no attempt was on the wire.

    What comes of a failed attempt is laid behind one as long as there is room, all else from the beginning, the longest
    first. What finds no room, as it went on beside an attempt, is not drawn.
    """
    room = gaps(attempts, started_at, finished_at)
    first = attempts[0].started_at if attempts else finished_at
    known = sorted(
        ((reason, seconds) for reason, seconds in waits.items() if reason != WaitReason.DEPENDENCY),
        key=lambda one: (one[0] not in BETWEEN, -one[1]),
    )
    found: list[WaitSegment] = []
    for reason, seconds in known:
        left = seconds
        for number in sorted(range(len(room)), key=lambda n: reason in BETWEEN and room[n][0] < first):
            begin, end = room[number]
            took = min(left, end - begin)
            if took >= SHORTEST:
                found.append(WaitSegment(reason=reason, started_at=begin, finished_at=begin + took))
                room[number] = (begin + took, end)
                left -= took
    return tuple(sorted(found, key=lambda one: one.started_at))


def so_far(
    waits: tuple[WaitSegment, ...], attempts: Sequence[BarAttempt], started_at: float, now: float
) -> tuple[WaitSegment, ...]:
    """The waits of a node that goes on, which are noted about once a second: the last one goes on too where that is not longer
    ago, and all other time in which no attempt was on the wire has no reason."""
    busy: list[BarAttempt | WaitSegment] = sorted([*attempts, *waits], key=lambda one: one.started_at)
    rest = gaps(busy, started_at, now)
    if waits and rest and rest[-1] == (waits[-1].finished_at, now) and now - waits[-1].finished_at <= NOTED:
        del rest[-1]
        waits = (*waits[:-1], replace(waits[-1], finished_at=now))
    return (*waits, *(WaitSegment(reason="", started_at=begin, finished_at=end) for begin, end in rest))


def gaps(attempts: Sequence[BarAttempt | WaitSegment], begin: float, end: float) -> list[tuple[float, float]]:
    """The time from `begin` to `end` in which no attempt was on the wire, and nothing else of these went on."""
    found, at = [], begin
    for attempt in attempts:
        if attempt.started_at > at:
            found.append((at, min(attempt.started_at, end)))
        at = max(at, end if attempt.finished_at is None else attempt.finished_at)
    return [*found, (at, end)] if at < end else found
