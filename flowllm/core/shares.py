"""How the processes of a database divide the limits of a scope: what each says, holds and is given.

A scope is an account, or one model of it. Levels of buckets and rates are told as shares of the whole: 1 is a full bucket.
Times are the database's, in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

from flowllm.core.records import dataclass, field

Windows: TypeAlias = Mapping[str, int]
"""Requests of strict windows, by their seconds (as text, as JSON has it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedRate:
    """A rate that was cut, and grows since; of all processes together. See `limits/adaptive.py`."""

    top: float
    floor: float
    cut_at: float
    guessed: bool = False
    undone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What belongs to a scope and to no process."""

    requests: float = 1.0
    tokens: float = 1.0
    """Levels of the buckets."""
    at: float = 0.0
    """When they were so."""
    learned: LearnedRate | None = None
    version: int = 0
    """Of what was learned."""
    paused_until: float = 0.0
    """The server wants to be left alone until then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one process holds of a scope, and what it needs."""

    process: int
    since: float
    until: float
    """It is over then, unless it is renewed."""
    fraction: float = 0.0
    """Of the rates, and of the buckets."""
    slots: int = 0
    windows: Windows = field(default_factory=dict)
    """With what is in flight, or was sent, beyond what it may use."""
    need: float = 0.0
    """Fraction that it could use; 1: more than it has."""
    need_slots: int = 0
    minimum: float = 0.0
    """Fraction below which it can send nothing."""
    pace: float = 0.0
    """Requests a second that the server lately accepted of it."""
    can_send: bool = False
    """It has enough for a request."""
    turn: float = 0.0
    """When that changed last."""
    number: int = 0
    """Of the report that it rests on."""
    ended: bool = False
    """The process is gone; what it sent counts in strict windows until it is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a process says of a scope when shares are balanced."""

    number: int = 0
    """Another one for each: a transaction of which nobody knows whether it was committed is carried out once more."""
    fraction: float = 0.0
    slots: int = 0
    windows: Windows = field(default_factory=dict)
    """What it may use until it is told otherwise."""
    in_flight: int = 0
    sent: Windows = field(default_factory=dict)
    """Within each strict window."""
    requests: float = 0.0
    tokens: float = 0.0
    """Levels that it gives back."""
    need: float = 0.0
    need_slots: int = 0
    minimum: float = 0.0
    pace: float = 0.0
    most_slots: int | None = None
    """Of all processes; None: any number."""
    most: Windows = field(default_factory=dict)
    """Limits of strict windows, of all processes."""
    requests_refill: float | None = None
    tokens_refill: float | None = None
    """Buckets that fill in a second; None: not limited."""
    learned: LearnedRate | None = None
    changed: bool = False
    """It learned something since it was told last."""
    version: int = -1
    """Of what it was told last."""
    paused_until: float = 0.0
    leaving: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a process may use of a scope until its share is over."""

    now: float
    until: float
    processes: int
    """That hold a share, with this one."""
    fraction: float
    slots: int
    windows: Windows
    """It is to use no more than that; it still holds what it reported, until it reports less."""
    can_send: bool
    """It has enough for a request."""
    excess: bool
    """It holds more than it is to use: others wait for it to report that."""
    hungry: bool
    """It needs something and has nothing."""
    requests: float
    tokens: float
    """Levels that it gets."""
    learned: LearnedRate | None
    version: int
    others_pace: float
    """Requests a second that the server lately accepted of the others."""
    paused_until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What becomes of a scope's rows."""

    pool: Pool
    write: Sequence[Share]
    remove: Sequence[int]
    """Processes whose shares are over."""
    grant: Grant


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The rows of a scope, as a process finds them."""

    process: int
    """Which one."""
    pool: Pool | None
    """None: the scope is new."""
    shares: Sequence[Share]
    """Of all processes."""
    gone: Collection[int]
    """Processes that are known to have ended."""
    now: float


Decide: TypeAlias = Callable[[Ledger], Balance]
"""Pure, as it may be asked again."""
