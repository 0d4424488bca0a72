"""The figures of one sitting of a run, gathered from its events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowllm.events import Event, NodeEnded, NodeRetrying, RequestEnded, RequestJoined, RequestSent
from flowllm.observers.sketch import Sketch
from flowllm.types import StepKind, Usage

if TYPE_CHECKING:
    from flowllm.types import Json

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


class Stats:
    """Counts requests, tokens, dollars and latencies; memory does not grow with the run."""

    def __init__(self) -> None:
        self._requests = {"sent": 0, "cached": 0, "joined": 0, "retried": 0, "rate_limited": 0}
        self._usage = Usage()
        self._cost: float | None = 0.0
        self._latency = Sketch()

    def handle(self, event: Event) -> None:
        """Count one event."""
        match event:
            case RequestSent():
                self._requests["sent"] += 1
            case RequestJoined():
                self._requests["joined"] += 1
            case NodeRetrying():
                self._requests["retried"] += 1
            case RequestEnded():
                self._ended(event)
            case NodeEnded(cached=True, reused=False, kind=StepKind.PROMPT):
                self._requests["cached"] += 1
            case _:
                pass

    def _ended(self, event: RequestEnded) -> None:
        self._usage += event.usage
        self._cost = None if self._cost is None or event.cost_usd is None else self._cost + event.cost_usd
        if event.error is None:
            self._latency.add(event.call_s)
        elif event.error.get("type") == "RateLimited":
            self._requests["rate_limited"] += 1

    def as_dict(self, *, duration_s: float) -> dict[str, Json]:
        """The figures so far.

        `cost_usd` is null as soon as one request's price is unknown. `latency_s` is of the requests that were
        answered, without time in the queue, within 0.5 %; its figures are null when there were none.
        """
        quantiles = {name: self._latency.quantile(share) for name, share in QUANTILES.items()}
        return {
            "requests": dict(self._requests),
            "usage": self._usage.as_dict(),
            "cost_usd": None if self._cost is None else round(self._cost, 10),
            "latency_s": {name: None if s is None else round(s, 4) for name, s in quantiles.items()},
            "duration_s": round(duration_s, 3),
        }
