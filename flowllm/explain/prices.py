"""What tokens cost, by a few looks at the prices of each model: to look them up takes a millisecond. Pure but for these looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from flowllm.core.records import dataclass
from flowllm.core.types import CACHED_FROM, Usage
from flowllm.steps.base import WorkEstimate

_PROBE: Final = 10_000
_LINEAR: Final = 32_000
"""Tokens of a prompt up to which no model charges more for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """US dollars of a token of one model."""

    read: float
    cached: float
    """Of one that is read from the provider's cache,"""
    kept: float
    """and of one that is put there."""
    written: float
    exactly: Callable[[Usage], float | None]
    """For long prompts."""

    @property
    def free(self) -> bool:
        """Nothing is paid, however much it is."""
        return not (self.read or self.cached or self.kept or self.written)

    def of(self, requests: float, before: float, after: float, *, cached: float = 0.0, dearest: bool = False) -> float:
        """So many requests, with so many tokens in and out in all, of which a share is read from the provider's cache; `dearest`:
        long prompts are put there."""
        each = before / max(1.0, requests)
        kept = dearest and each >= CACHED_FROM
        if each > _LINEAR:
            tokens = int(each)
            usage = Usage(
                input_tokens=tokens,
                cached_input_tokens=int(tokens * cached),
                cache_write_tokens=tokens if kept else 0,
                output_tokens=round(after / max(1.0, requests)),
            )
            return (self.exactly(usage) or 0.0) * max(1.0, requests)
        rate = max(self.kept, self.read) if kept else self.read + (self.cached - self.read) * cached
        return before * rate + after * self.written


class Prices:
    """Those of one plan."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], Rates | None] = {}

    def of(self, work: WorkEstimate) -> Rates | None:
        """None: they are not known."""
        name = (work.provider, work.model, work.tier)
        if name not in self._known:
            self._known[name] = _rates(work.price)
        return self._known[name]


def _rates(price: Callable[[Usage], float | None]) -> Rates | None:
    found = [
        price(usage)
        for usage in (
            Usage(input_tokens=_PROBE),
            Usage(input_tokens=_PROBE, cached_input_tokens=_PROBE),
            Usage(input_tokens=_PROBE, cache_write_tokens=_PROBE),
            Usage(output_tokens=_PROBE),
        )
    ]
    rates = [one / _PROBE for one in found if one is not None]
    if len(rates) < len(found):
        return None
    return Rates(read=rates[0], cached=rates[1], kept=rates[2], written=rates[3], exactly=price)
