"""Figures that are known only within bounds, and their sums. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable

from flowllm.core.records import dataclass
from flowllm.core.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From the least to the most that something may take."""

    low: float = 0.0
    expected: float | None = 0.0
    """Between both; None: nothing says."""
    high: float | None = 0.0
    """None: nothing bounds it."""

    @classmethod
    def of(cls, number: float) -> Span:
        """What is known exactly."""
        return cls(low=number, expected=number, high=number)

    def __add__(self, other: Span) -> Span:
        return Span(
            low=self.low + other.low,
            expected=None if self.expected is None or other.expected is None else self.expected + other.expected,
            high=None if self.high is None or other.high is None else self.high + other.high,
        )

    def times(self, factor: Span) -> Span:
        """The same of so many; none of what nothing bounds is nothing."""
        return Span(
            low=self.low * factor.low,
            expected=_product(self.expected, factor.expected),
            high=_product(self.high, factor.high),
        )

    @property
    def is_zero(self) -> bool:
        """Certainly nothing."""
        return self.high == 0

    def as_dict(self, *, whole: bool) -> dict[str, Json]:
        """The three by name; `whole`: as whole numbers."""
        if not whole:
            return {"low": self.low, "expected": self.expected, "high": self.high}
        middle = None if self.expected is None else round(self.expected)
        return {"low": math.floor(self.low + _ROUNDING), "expected": middle, "high": whole_high(self)}


NONE = Span()
ANY = Span(expected=None, high=None)
"""Nobody knows."""
_ROUNDING = 1e-6


def whole_high(span: Span) -> int | None:
    """The most, rounded up."""
    return None if span.high is None else math.ceil(span.high - _ROUNDING)


def _product(one: float | None, other: float | None) -> float | None:
    if 0 in (one, other):
        return 0.0
    return None if one is None or other is None else one * other


def total(spans: Iterable[Span]) -> Span:
    """Their sum."""
    return sum(spans, start=NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Takes:
    """What a node, or many together, would take."""

    requests: Span = NONE
    """Retries, repairs and fallbacks not counted."""
    input_tokens: Span = NONE
    output_tokens: Span = NONE
    cost_usd: Span | None = NONE
    """None: a price is unknown."""

    def times(self, factor: Span) -> Takes:
        """The same of so many."""
        return Takes(
            requests=self.requests.times(factor),
            input_tokens=self.input_tokens.times(factor),
            output_tokens=self.output_tokens.times(factor),
            cost_usd=None if self.cost_usd is None else self.cost_usd.times(factor),
        )

    def as_dict(self) -> dict[str, Json]:
        """The ranges by name."""
        return {
            "requests": self.requests.as_dict(whole=True),
            "input_tokens": self.input_tokens.as_dict(whole=True),
            "output_tokens": self.output_tokens.as_dict(whole=True),
            "cost_usd": None if self.cost_usd is None else self.cost_usd.as_dict(whole=False),
        }


NOTHING = Takes()


def all_of(parts: Iterable[Takes]) -> Takes:
    """The sums of several; the cost is unknown as soon as one of theirs is."""
    found = [part for part in parts if not part.requests.is_zero]
    costs = [part.cost_usd for part in found]
    known = [cost for cost in costs if cost is not None]
    return Takes(
        requests=total(part.requests for part in found),
        input_tokens=total(part.input_tokens for part in found),
        output_tokens=total(part.output_tokens for part in found),
        cost_usd=total(known) if len(known) == len(costs) else None,
    )
