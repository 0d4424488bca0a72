"""How much of the prompts a provider would read from its cache, when requests wait for those that lead. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from math import ceil

from flowllm.core.prefix import SIZES
from flowllm.core.records import dataclass
from flowllm.core.types import Json, Usage, add
from flowllm.steps.base import WorkEstimate


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheForecast:
    """Of one node, or of many together."""

    requests: int = 0
    """Whose prompts are long enough to be kept."""
    leaders: int = 0
    """Those of them that find nothing."""
    cached_tokens: int = 0
    """Of those in, as the provider would report them."""
    saved_usd: float | None = 0.0
    """What these would have cost more; None: a price is unknown."""

    def __add__(self, other: CacheForecast) -> CacheForecast:
        return CacheForecast(
            requests=self.requests + other.requests,
            leaders=self.leaders + other.leaders,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            saved_usd=add(self.saved_usd, other.saved_usd),
        )

    def times(self, factor: float) -> CacheForecast:
        """The same of so many times as many items."""
        return CacheForecast(
            requests=ceil(self.requests * factor),
            leaders=ceil(self.leaders * factor),
            cached_tokens=ceil(self.cached_tokens * factor),
            saved_usd=None if self.saved_usd is None else self.saved_usd * factor,
        )

    def as_dict(self) -> dict[str, Json]:
        """The figures by name."""
        return {name: getattr(self, name) for name in ("requests", "leaders", "cached_tokens", "saved_usd")}


def summed(parts: Iterable[CacheForecast]) -> CacheForecast:
    """Of several nodes."""
    return sum(parts, start=CacheForecast())


class ExpectedCache:
    """What the prompts of a run, one after the other, leave in the caches of the models that keep them."""

    def __init__(self, keeps: Callable[[str, str], bool]) -> None:
        """`keeps` says whether requests wait for those that lead, by provider and model."""
        self._keeps = keeps
        self._marks: dict[tuple[str, str], set[int]] = {}

    def add(self, work: WorkEstimate) -> CacheForecast:
        """The requests of one node."""
        prefix, place = work.prefix, (work.provider, work.model)
        if prefix is None or not work.requests or not self._keeps(*place) or not prefix.marks:
            return CacheForecast()
        known = self._marks.setdefault(place, set())
        found = [size for size, mark in zip(SIZES, prefix.marks, strict=False) if mark in known]
        known.update(prefix.marks)
        longest = SIZES[bisect_right(SIZES, prefix.tokens) - 1]
        first = found[-1] if found else 0
        share = (first + (work.requests - 1) * longest) / (prefix.tokens * work.requests)
        cached = int(share * work.input_tokens)
        whole = work.price(Usage(input_tokens=work.input_tokens))
        read = work.price(Usage(input_tokens=work.input_tokens, cached_input_tokens=cached))
        saved = None if whole is None or read is None else whole - read
        return CacheForecast(requests=work.requests, leaders=int(not found), cached_tokens=cached, saved_usd=saved)
