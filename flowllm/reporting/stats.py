"""The figures of one sitting of a run, gathered from its events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from flowllm.core.events import Event, NodeEnded, NodeRetrying, RequestEnded, RequestJoined, RequestSent
from flowllm.core.money import Spend
from flowllm.core.types import Json, StepKind, step_path
from flowllm.reporting.sketch import Sketch

_ASKING = frozenset({StepKind.PROMPT, StepKind.EMBED})
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


class _Part:
    """The figures of one step, or of one model."""

    def __init__(self) -> None:
        self.requests = 0
        self.spend = Spend()
        self.list_prices: set[str] = set()
        self.latency = Sketch()

    def add(self, event: RequestEnded, spend: Spend) -> None:
        self.requests += 1
        self.spend += spend
        if event.list_price:
            self.list_prices.add(event.list_price)
        if event.error is None:
            self.latency.add(event.call_s)

    def as_dict(self) -> dict[str, Json]:
        told = self.spend.as_dict()
        return {
            "requests": self.requests,
            "input_tokens": self.spend.usage.input_tokens,
            "output_tokens": self.spend.usage.output_tokens,
            "cost_usd": told["cost_usd"],
            "at_least": told["at_least"],
            "unknown": told["unknown"],
            "latency_s": _quantiles(self.latency),
        }


class Stats:
    """Counts requests, tokens, dollars and latencies; memory does not grow with the run."""

    def __init__(self) -> None:
        self._requests = {"sent": 0, "cached": 0, "joined": 0, "retried": 0, "rate_limited": 0}
        self._whole = _Part()
        self._queue = Sketch()
        self._models: defaultdict[str, _Part] = defaultdict(_Part)
        self._steps: defaultdict[str, _Part] = defaultdict(_Part)
        """All items of a foreach are one, under its name."""
        self._counters: dict[type[Event], Callable[[Any], None]] = {
            RequestSent: self._sent,
            RequestEnded: self._ended,
            RequestJoined: self._joined,
            NodeRetrying: self._retried,
            NodeEnded: self._node_ended,
        }

    def handle(self, event: Event) -> None:
        """Count one event."""
        count = self._counters.get(type(event))
        if count is not None:
            count(event)

    def _sent(self, event: RequestSent) -> None:
        self._requests["sent"] += 1
        self._queue.add(event.queue_s)

    def _joined(self, _event: RequestJoined) -> None:
        self._requests["joined"] += 1

    def _retried(self, _event: NodeRetrying) -> None:
        self._requests["retried"] += 1

    def _node_ended(self, event: NodeEnded) -> None:
        """Of a foreach its items have been counted."""
        if event.cached and not event.reused and event.kind in _ASKING and event.counts is None:
            self._requests["cached"] += 1

    def _ended(self, event: RequestEnded) -> None:
        spend = Spend.of(
            event.usage, event.cost_usd, reserved_tokens=event.reserved_tokens, reserved_usd=event.reserved_usd
        )
        self._models[event.model].add(event, spend)
        self._steps[step_path(event.node_id)].add(event, spend)
        self._whole.add(event, spend)
        if event.error is not None and event.error.get("type") == "RateLimited":
            self._requests["rate_limited"] += 1

    def as_dict(self, *, duration_s: float) -> dict[str, Json]:
        """The figures so far.

        Tokens and `cost_usd` are null as soon as those of one request are unknown; `at_least` is what is known, and
        `unknown` how many requests that is not, with what was set aside for them (see `Spend.as_dict`). `latency_s` is of
        the requests that were answered, without time in the queue, within 0.5 %; its figures are null when there were none.
        """
        whole = self._whole
        return {
            "requests": dict(self._requests),
            **whole.spend.as_dict(),
            "list_prices": sorted(whole.list_prices),
            "latency_s": _quantiles(whole.latency),
            "queue_s": _quantiles(self._queue),
            "duration_s": round(duration_s, 3),
            "model_figures": {name: part.as_dict() for name, part in self._models.items()},
            "step_figures": {name: part.as_dict() for name, part in self._steps.items()},
        }


def _quantiles(sketch: Sketch) -> dict[str, float | None]:
    found = {name: sketch.quantile(share) for name, share in QUANTILES.items()}
    return {name: None if s is None else round(s, 4) for name, s in found.items()}
