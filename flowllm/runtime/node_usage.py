"""What a node's requests took, added up from its events: a node that fails has no answer that would say so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flowllm.core.events import Event, RequestEnded, RequestSent
from flowllm.core.types import Usage
from flowllm.storage.base import NodeRecord


class NodeUsage:
    """Passes a node's events on and adds up its requests, those of its fallbacks too."""

    def __init__(self, emit: Callable[[Event], None], note_sent: Callable[[], None]) -> None:
        self._emit = emit
        self._note_sent = note_sent
        self._sent: list[RequestSent] = []
        self._ended: list[RequestEnded] = []
        self.waits: dict[str, float] = {}
        """Seconds that the node has waited so far, by reason."""

    def __call__(self, event: Event) -> None:
        """Something happened to the node."""
        if isinstance(event, RequestSent):
            self._sent.append(event)
            self._note_sent()
        elif isinstance(event, RequestEnded):
            self._ended.append(event)
        self._emit(event)

    @property
    def in_flight(self) -> int:
        """Requests that are out."""
        return len(self._sent) - len(self._ended)

    def onto(self, record: NodeRecord) -> NodeRecord:
        """The row of a node that failed, with what was spent on it; one that sent nothing stays as it is."""
        if not self._sent:
            return record
        costs = [event.cost_usd for event in self._ended]
        return replace(
            record,
            attempts=len(self._sent),
            model=self._sent[-1].model,
            provider=self._sent[-1].provider,
            queue_s=sum(event.queue_s for event in self._sent),
            call_s=sum(event.call_s for event in self._ended),
            usage=sum((event.usage for event in self._ended), Usage()),
            cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
        )
