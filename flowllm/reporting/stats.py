"""The figures of one run attempt, gathered from its events."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from flowllm.core.events import Event, NodeEnded, NodeHedged, NodeRetrying, RequestEnded, RequestJoined, RequestSent
from flowllm.core.models import ModelTotals, asked_model
from flowllm.core.money import Spend, rounded
from flowllm.core.records import fields
from flowllm.core.types import ABANDONED, NO_USAGE, REQUEST_KINDS, THROTTLED, Json, Usage, add, step_path

Model: TypeAlias = tuple[str, str]
"""A provider's name and one of its models."""
NO_FAILURE = frozenset({"Stopped", ABANDONED})
"""Types of the errors of requests that were not wanted any more."""

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
ACCURACY = 0.005
"""A quantile is off by at most this share of itself."""
SMALLEST = 1e-4
LARGEST = 1e6
"""Values are clamped to these bounds, which caps the buckets at 2,304."""


class QuantileSketch:
    """Quantiles of a stream of values from SMALLEST to LARGEST, in bounded memory.

    A DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
    guarantees", PVLDB 12(12), 2019): values are counted in buckets whose bounds grow by a constant factor.
    """

    def __init__(self) -> None:
        self._growth = (1 + ACCURACY) / (1 - ACCURACY)
        self._counts: dict[int, int] = {}
        self._total = 0
        self._least = math.inf
        self._most = -math.inf

    def add(self, value: float) -> None:
        """Count one value."""
        clamped = min(max(value, SMALLEST), LARGEST)
        bucket = math.ceil(math.log(clamped, self._growth))
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self._total += 1
        self._least = min(self._least, value)
        self._most = max(self._most, value)

    def merge(self, other: QuantileSketch) -> None:
        """Count the values of another one too."""
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        self._total += other._total
        self._least = min(self._least, other._least)
        self._most = max(self._most, other._most)

    def as_json(self) -> Json:
        """As `of` takes it."""
        return [[*self._counts.items()], self._least, self._most] if self._total else []

    @classmethod
    def of(cls, given: Json) -> QuantileSketch:
        """The sketch that `as_json` gave."""
        sketch = cls()
        if given:
            counts, sketch._least, sketch._most = given
            sketch._counts = dict(counts)
            sketch._total = sum(sketch._counts.values())
        return sketch

    def quantile(self, share: float) -> float | None:
        """The value that the given share (0 to 1) of all values does not exceed; None without values."""
        if not self._total:
            return None
        rank = max(1, math.ceil(share * self._total))
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= rank:
                middle = 2 * self._growth**bucket / (self._growth + 1)
                return min(max(middle, self._least), self._most)
        return self._most


class _Part:
    """The figures of one model in one step, or of several of these."""

    def __init__(self) -> None:
        self.requests = 0
        self.spend = Spend()
        self.failed = 0
        self.rate_limited = 0
        self.saved: float | None = 0.0
        """US dollars, by the provider's cache."""
        self.list_prices: set[str] = set()
        self.latency = QuantileSketch()

    def add(self, event: RequestEnded, spend: Spend) -> None:
        self.requests += 1
        self.spend += spend
        if event.list_price:
            self.list_prices.add(event.list_price)
        self.saved = add(self.saved, event.saved_usd)
        if event.error is None:
            self.latency.add(event.call_s)
        else:
            why = event.error.get("type")
            self.failed += why not in NO_FAILURE
            self.rate_limited += why == "RateLimited"

    def merge(self, other: _Part) -> None:
        self.requests += other.requests
        self.spend += other.spend
        self.failed += other.failed
        self.rate_limited += other.rate_limited
        self.saved = add(self.saved, other.saved)
        self.list_prices |= other.list_prices
        self.latency.merge(other.latency)

    def as_json(self) -> Json:
        spend = {one.name: getattr(self.spend, one.name) for one in fields(Spend)}
        spend["usage"] = self.spend.usage.as_dict()
        names = sorted(self.list_prices)
        return [self.requests, spend, self.failed, self.rate_limited, self.saved, names, self.latency.as_json()]

    @classmethod
    def of(cls, given: Json) -> _Part:
        part = cls()
        part.requests, spend, part.failed, part.rate_limited, part.saved, names, latency = given
        part.spend = Spend(**{**spend, "usage": Usage(**spend["usage"])})
        part.list_prices, part.latency = set(names), QuantileSketch.of(latency)
        return part

    def as_dict(self) -> dict[str, Json]:
        spend = self.spend.as_dict()
        return {
            "requests": self.requests,
            "input_tokens": self.spend.usage.input_tokens,
            "output_tokens": self.spend.usage.output_tokens,
            "cost_usd": spend["cost_usd"],
            "at_least": spend["at_least"],
            "unknown": spend["unknown"],
            "latency_s": _quantiles(self.latency),
        }


class _Held:
    """What nodes had of one model besides requests of their own."""

    __slots__ = ("cached", "saved", "throttled_s", "tokens_in", "tokens_out")

    def __init__(self) -> None:
        self.cached = 0
        self.tokens_in = 0
        self.tokens_out = 0
        self.saved: float | None = 0.0
        self.throttled_s = 0.0

    def merge(self, other: _Held) -> None:
        self.cached += other.cached
        self.tokens_in += other.tokens_in
        self.tokens_out += other.tokens_out
        self.saved = add(self.saved, other.saved)
        self.throttled_s += other.throttled_s


class Stats:
    """Counts requests, tokens, dollars and latencies; memory does not grow with the run."""

    def __init__(self) -> None:
        self._refused: dict[str, Model] = {}
        """Whom nodes asked that go on without an answer: one that fails names no model."""
        self._begin()

    def _begin(self) -> None:
        self._requests = {"sent": 0, "cached": 0, "joined": 0, "retried": 0, "rate_limited": 0, "hedged": 0}
        self._cached = {"input_tokens": 0, "cached_input_tokens": 0}
        self._queue = QuantileSketch()
        self._parts: defaultdict[tuple[str, str, str], _Part] = defaultdict(_Part)
        """By provider, model and step; all items of a foreach are one, under its name."""
        self._held: defaultdict[Model, _Held] = defaultdict(_Held)
        """By provider and the model that it named in its answer."""

    def take(self) -> dict[str, Json]:
        """All that was counted, as `add` takes it, which is then forgotten."""
        counted = {
            "requests": self._requests,
            "cached": self._cached,
            "queue": self._queue.as_json(),
            "parts": [[*by, part.as_json()] for by, part in self._parts.items()],
            "held": [[*by, [getattr(held, name) for name in _Held.__slots__]] for by, held in self._held.items()],
        }
        self._begin()
        return counted

    def add(self, counted: Mapping[str, Json]) -> None:
        """What another process has counted."""
        for sums, more in ((self._requests, counted["requests"]), (self._cached, counted["cached"])):
            for name in sums:
                sums[name] += more[name]
        self._queue.merge(QuantileSketch.of(counted["queue"]))
        for provider, model, step, part in counted["parts"]:
            self._parts[provider, model, step].merge(_Part.of(part))
        for provider, model, values in counted["held"]:
            held = _Held()
            for name, value in zip(_Held.__slots__, values, strict=True):
                setattr(held, name, value)
            self._held[provider, model].merge(held)

    def handle(self, event: Event) -> None:
        """Count one event."""
        match event:
            case RequestSent():
                self._requests["sent"] += 1
                self._queue.add(event.queue_s)
            case RequestEnded():
                self._ended(event)
            case NodeEnded():
                self._node_ended(event)
            case RequestJoined():
                self._requests["joined"] += 1
            case NodeHedged():
                self._requests["hedged"] += 1
            case NodeRetrying():
                self._requests["retried"] += 1
            case _:
                pass

    def _ended(self, event: RequestEnded) -> None:
        spend = Spend.of(
            event.usage, event.cost_usd, reserved_tokens=event.reserved_tokens, reserved_usd=event.reserved_usd
        )
        self._parts[event.provider, event.model, step_path(event.node_id)].add(event, spend)
        if event.usage.input_tokens is not None and event.usage.cached_input_tokens is not None:
            self._cached["input_tokens"] += event.usage.input_tokens
            self._cached["cached_input_tokens"] += event.usage.cached_input_tokens
        if event.error is not None:
            self._refused[event.node_id] = (event.provider, event.model)

    def _node_ended(self, event: NodeEnded) -> None:
        asked = self._refused.pop(event.node_id, None) if self._refused else None
        if event.elsewhere or event.reused or event.kind not in REQUEST_KINDS or event.counts is not None:
            return  # items count by themselves
        if event.cached:
            self._requests["cached"] += 1
            held = self._held[event.provider, event.model]
            held.cached += 1
            held.tokens_in += event.usage.input_tokens or 0
            held.tokens_out += event.usage.output_tokens or 0
            held.saved = None if held.saved is None or event.saved_usd is None else held.saved + event.saved_usd
        elif event.waits and (seconds := sum(event.waits.get(reason, 0.0) for reason in THROTTLED)):
            self._held[asked or (event.provider, event.model)].throttled_s += seconds

    def models(self) -> list[ModelTotals]:
        """What each model took, by name."""
        parts, held = dict[Model, _Part](), dict[Model, _Held]()
        for (provider, model, _), part in self._parts.items():
            parts.setdefault((provider, model), _Part()).merge(part)
        for (provider, model), one in self._held.items():
            asked = asked_model(model, (name for by, name in parts if by == provider))
            held.setdefault((provider, asked), _Held()).merge(one)
        found = {*parts, *(by for by in held if by[1])}
        return [_totals(by, parts.get(by) or _Part(), held.get(by) or _Held()) for by in sorted(found, key=_by_model)]

    def as_dict(self, *, duration_s: float) -> dict[str, Json]:
        """The figures so far.

        Tokens and `cost_usd` are null as soon as those of one request are unknown; `at_least` is what is known, and
        `unknown` how many requests that is not, with what was set aside for them (see `Spend.as_dict`). `latency_s` is of
        the requests that were answered, without time in the queue, within 0.5 %; its figures are null when there were none.
        `prompt_cache` says how many of the tokens in were read from the provider's cache, as far as that is known, and what
        they would have cost more; null where a price is not known.
        """
        whole = _Part()
        steps: defaultdict[str, _Part] = defaultdict(_Part)
        for (_, _, step), part in self._parts.items():
            for total in (whole, steps[step]):
                total.merge(part)
        models = self.models()
        return {
            "requests": {**self._requests, "rate_limited": whole.rate_limited},
            **whole.spend.as_dict(),
            "prompt_cache": {**self._cached, "saved_usd": rounded(whole.saved)},
            "response_cache": _saved(models),
            "list_prices": sorted(whole.list_prices),
            "latency_s": _quantiles(whole.latency),
            "queue_s": _quantiles(self._queue),
            "duration_s": round(duration_s, 3),
            "models": [model.as_dict() for model in models],
            "step_figures": {name: part.as_dict() for name, part in steps.items()},
        }


_NOTHING: float | None = 0.0


def _by_model(by: Model) -> tuple[str, str]:
    return by[1], by[0]


def _totals(by: Model, part: _Part, held: _Held) -> ModelTotals:
    provider, model = by
    return ModelTotals(
        model=model,
        provider=provider,
        spend=part.spend,
        failed=part.failed,
        rate_limited=part.rate_limited,
        p50_s=part.latency.quantile(QUANTILES["p50"]),
        p99_s=part.latency.quantile(QUANTILES["p99"]),
        throttled_s=held.throttled_s,
        cached=held.cached,
        cached_usage=Usage(input_tokens=held.tokens_in, output_tokens=held.tokens_out),
        response_cache_usd=held.saved,
        prompt_cache_usd=part.saved,
    )


def _saved(models: Iterable[ModelTotals]) -> dict[str, Json]:
    """What the response cache answered in all."""
    usage, saved = NO_USAGE, _NOTHING
    for model in models:
        usage += model.cached_usage
        saved = add(saved, model.response_cache_usd)
    return {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens, "saved_usd": rounded(saved)}


def _quantiles(sketch: QuantileSketch) -> dict[str, float | None]:
    found = {name: sketch.quantile(share) for name, share in QUANTILES.items()}
    return {name: None if s is None else round(s, 4) for name, s in found.items()}
