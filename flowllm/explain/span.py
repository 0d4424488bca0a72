"""Figures that are known only within bounds, and their sums. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Final

from flowllm.core.records import dataclass
from flowllm.core.types import Json

_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From the least to the most that something may take."""

    low: float = 0.0
    expected: float | None = 0.0
    """Between both; None: nothing says."""
    high_once: float | None = 0.0
    """The most while no answer has to be asked for again; None: nothing bounds it."""
    high: float | None = 0.0
    """The most in any case."""

    @classmethod
    def of(cls, number: float) -> Span:
        """What is known exactly."""
        return cls.between(number, number, number)

    @classmethod
    def between(cls, low: float, expected: float | None, high: float | None) -> Span:
        """What does not depend on whether answers have to be asked for again."""
        return cls(low=low, expected=expected, high_once=high, high=high)

    def __add__(self, other: Span) -> Span:
        return Span(
            low=self.low + other.low,
            expected=_sum(self.expected, other.expected),
            high_once=_sum(self.high_once, other.high_once),
            high=_sum(self.high, other.high),
        )

    def times(self, factor: Span) -> Span:
        """The same of so many; none of what nothing bounds is nothing."""
        return Span(
            low=self.low * factor.low,
            expected=_product(self.expected, factor.expected),
            high_once=_product(self.high_once, factor.high_once),
            high=_product(self.high, factor.high),
        )

    @property
    def is_zero(self) -> bool:
        """Certainly nothing."""
        return self.high == 0

    def as_dict(self, *, whole: bool) -> dict[str, Json]:
        """The four by name; `whole`: as whole numbers."""
        if not whole:
            return {name: getattr(self, name) for name in self.__slots__}
        middle = None if self.expected is None else round(self.expected)
        low = math.floor(self.low + _ROUNDING)
        return {"low": low, "expected": middle, "high_once": rounded_up(self.high_once), "high": rounded_up(self.high)}


NONE = Span()
ANY = Span.between(0.0, None, None)
"""Nobody knows."""


def rounded_up(most: float | None) -> int | None:
    """A whole number that it does not pass."""
    return None if most is None else math.ceil(most - _ROUNDING)


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _product(one: float | None, other: float | None) -> float | None:
    if 0 in (one, other):
        return 0.0
    return None if one is None or other is None else one * other


@dataclass(frozen=True, slots=True, kw_only=True)
class Takes:
    """What a node, or many together, would take."""

    requests: Span = NONE
    """Those that servers refuse (429, 5xx) not counted: they cost nothing."""
    input_tokens: Span = NONE
    output_tokens: Span = NONE
    cost_usd: Span | None = NONE
    """None: a price is unknown."""

    @classmethod
    def made(cls, make: Callable[[Callable[[Takes], Span | None]], Span | None]) -> Takes:
        """Each figure by a function, which is handed another that gets this figure of some `Takes`."""
        spans = (make(attrgetter(name)) for name in _FIGURES)
        figures: dict[str, Any] = dict(zip(_FIGURES, spans, strict=True))
        return cls(**figures)

    def times(self, factor: Span) -> Takes:
        """The same of so many."""
        return self.made(lambda get: None if (span := get(self)) is None else span.times(factor))

    def as_dict(self) -> dict[str, Json]:
        """The ranges by name."""
        spans = ((name, getattr(self, name)) for name in _FIGURES)
        return {name: None if span is None else span.as_dict(whole=name != "cost_usd") for name, span in spans}


_FIGURES: Final = ("requests", "input_tokens", "output_tokens", "cost_usd")
NOTHING = Takes()


def all_of(parts: Iterable[Takes]) -> Takes:
    """The sums of several; the cost is unknown as soon as one of theirs is."""
    found = [part for part in parts if not part.requests.is_zero]

    def sums(get: Callable[[Takes], Span | None]) -> Span | None:
        spans = [span for part in found if (span := get(part)) is not None]
        return sum(spans, start=NONE) if len(spans) == len(found) else None

    return Takes.made(sums)
