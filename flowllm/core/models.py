"""What a run took of one model."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from flowllm.core.money import Spend, rounded
from flowllm.core.records import dataclass, field
from flowllm.core.types import NO_USAGE, Json, Usage, add


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTotals:
    """What a run took of one model: sums over its attempts on record, of all attempts at the run."""

    model: str
    provider: str
    spend: Spend = field(default_factory=Spend)
    failed: int = 0
    """Requests that no usable answer came of."""
    rate_limited: int = 0
    """Those of them that the server refused with a 429."""
    p50_s: float | None = None
    p99_s: float | None = None
    """Seconds that answered requests took, half of them and 99 % at most; None without any."""
    throttled_s: float = 0.0
    """Seconds that nodes waited for this model's limits, added up (`types.THROTTLED`)."""
    cached: int = 0
    """Nodes that the response cache answered."""
    cached_usage: Usage = NO_USAGE
    """What their answers took when they were asked for."""
    response_cache_usd: float | None = None
    """US dollars that this saved; None: not known."""
    prompt_cache_usd: float | None = None
    """US dollars that the tokens which the provider read from its cache would have cost more; None: not known."""

    def as_dict(self) -> dict[str, Json]:
        """As it stands in the record of a run and in JSON output."""
        answers = {
            "answers": self.cached,
            "usage": self.cached_usage.as_dict(),
            "saved_usd": rounded(self.response_cache_usd),
        }
        return {
            "model": self.model,
            "provider": self.provider,
            "requests": self.spend.requests,
            "failed": self.failed,
            "rate_limited": self.rate_limited,
            **self.spend.as_dict(),
            "latency_s": {"p50": rounded(self.p50_s, 4), "p99": rounded(self.p99_s, 4)},
            "throttled_s": round(self.throttled_s, 3),
            "prompt_cache": {"saved_usd": rounded(self.prompt_cache_usd)},
            "response_cache": answers,
        }


Table = Sequence[Mapping[str, Json]]
"""A row a model, as `ModelTotals.as_dict` gives it."""
MODELS: Final = "models"
"""The entry of a run's figures that has such a table of all attempts at the run; it goes when one ends without."""


def with_savings(models: Iterable[ModelTotals], attempts: Sequence[Table | None]) -> Table:
    """The table of a whole run, with what caches saved in each of its attempts (None: one that left no table), which no other
    record has."""
    return [{**row, **_savings(row, attempts)} for row in (model.as_dict() for model in models)]


def _savings(row: Mapping[str, Json], attempts: Sequence[Table | None]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for cache in ("prompt_cache", "response_cache"):
        saved: float | None = 0.0
        for attempt in attempts:
            parts = [one for one in attempt or () if all(one[name] == row[name] for name in ("model", "provider"))]
            saved = (
                None if attempt is None else functools.reduce(add, (one[cache]["saved_usd"] for one in parts), saved)
            )
        found[cache] = {**row[cache], "saved_usd": rounded(saved)}
    return found


def asked_model(answered: str, asked: Iterable[str]) -> str:
    """Which of the models that were asked answers under that name: servers add a version to what they are asked for, such as
    `gpt-4o-mini-2024-07-18`. The name itself where it is none of these."""
    return max((name for name in asked if f"{answered}-".startswith(f"{name}-")), default=answered)
