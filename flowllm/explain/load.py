"""The requests of a run as its graph has them, and what accounts allow: what a simulation of its time is made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from flowllm.core.records import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Requests that may go at the same time, or work that a step does itself."""

    count: float
    seconds: tuple[float, ...] = ()
    """That earlier ones took, each; none: nobody knows."""
    timed_by: str = ""
    """The other model that these were sent to."""
    provider: str = ""
    """Empty for work of a step's own, which no limits of a provider hold back."""
    model: str = ""
    tokens: float = 0.0
    """That one takes,"""
    reserved: float = 0.0
    """and that are set aside for it before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A graph: parts by name, each after those that it needs."""

    parts: Mapping[str, Load]
    needs: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Many:
    """Items, so many at the same time; the first ones stand for the rest."""

    items: Sequence[Load]
    count: float
    window: int | None = None
    accepts: Accepts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepts:
    """That so many items are carried out as it takes to accept enough."""

    wanted: int
    share: float
    """Of the items that are accepted."""
    overshoot: float
    """How many times those that are still needed may be open."""
    total: int
    """Items that there are."""


Load: TypeAlias = Calls | Parts | Many
IDLE: Final = Calls(count=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """What one account allows, or one model of it."""

    slots: float = math.inf
    grows_to: float = 0.0
    """Where the number of slots is found: each answer adds one, up to here;"""
    opening: float = 0.0
    """and before the first answer time does, so many a second,"""
    unheard: float = 0.0
    """up to here."""
    requests_per_second: float = math.inf
    burst: float = 1.0
    tokens_per_second: float = math.inf
    token_burst: float = 0.0
    charges_usage: bool = False
    """Tokens are charged as they are used, not as they are set aside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """What all of them allow."""

    accounts: Mapping[str, str] = field(default_factory=dict)
    """Of each provider by name: those of one account share its lane."""
    whole: Mapping[str, Lane] = field(default_factory=dict)
    """By account."""
    models: Mapping[tuple[str, str], Lane] = field(default_factory=dict)
    """By account and model; that of the model "" holds for all others of the account."""

    def of_model(self, account: str, model: str) -> Lane:
        """What one model allows."""
        return self.models.get((account, model)) or self.models.get((account, "")) or Lane()


def calls_in(load: Load) -> Iterator[Calls]:
    """All that there are."""
    if isinstance(load, Calls):
        yield load
    else:
        for one in load.parts.values() if isinstance(load, Parts) else load.items:
            yield from calls_in(one)
