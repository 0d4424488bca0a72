"""A run as OpenTelemetry sees it: spans run → node → request, and metrics. Names are in telemetry_names.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from flowllm.core.events import (
    Event,
    NodeEnded,
    NodeRetrying,
    NodeStarted,
    RequestEnded,
    RequestJoined,
    RequestSent,
    RunEnded,
    RunStarted,
)
from flowllm.core.records import dataclass
from flowllm.core.types import REQUEST_KINDS, Json, NodeId, NodeStatus, RunId, RunStatus, StepKind, Usage, step_path
from flowllm.reporting import telemetry_names as names

Content = Callable[[RunId, NodeId], Mapping[str, str]]
"""What a node has asked and was answered, as attributes of its span, for whoever has switched that on."""
_Attributes = dict[str, Any]
_USAGE: Final = (
    (names.INPUT_TOKENS, "input_tokens"),
    (names.OUTPUT_TOKENS, "output_tokens"),
    (names.CACHED_TOKENS, "cached_input_tokens"),
    (names.CACHE_WRITE_TOKENS, "cache_write_tokens"),
    (names.REASONING_TOKENS, "reasoning_tokens"),
)
_UNENDED: Final = "cancelled"


class Instruments:
    """What is counted, over all runs of a process."""

    def __init__(self, meter: Any) -> None:
        """`meter` is one of OpenTelemetry's."""
        seconds = {"unit": "s", "explicit_bucket_boundaries_advisory": names.DURATIONS}
        tokens = {"unit": "{token}", "explicit_bucket_boundaries_advisory": names.TOKENS}
        self.run = meter.create_histogram(names.RUN_DURATION, description="Attempts at runs", **seconds)
        self.node = meter.create_histogram(names.NODE_DURATION, description="Nodes, with what they waited", **seconds)
        self.request = meter.create_histogram(names.OPERATION_DURATION, description="Requests to models", **seconds)
        self.tokens = meter.create_histogram(names.TOKEN_USAGE, description="Tokens of requests", **tokens)
        self.wait = meter.create_counter(names.WAIT_TIME, unit="s", description="What nodes waited for")
        self.cost = meter.create_counter(names.COST_TOTAL, unit="{USD}", description="Requests whose price is known")
        self.cache = meter.create_counter(
            names.CACHE_LOOKUPS, unit="{node}", description="Nodes that the cache answered, or did not"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
    """A span that has not ended."""

    span: Any
    at: float
    kind: StepKind | None = None


class Telemetry:
    """An observer of one run."""

    def __init__(
        self, api: Any, tracer: Any, instruments: Instruments, *, around: Any = None, content: Content | None = None
    ) -> None:
        """`api` is the module `opentelemetry.trace`, `around` the context that the run's span is in."""
        self._api = api
        self._tracer = tracer
        self._meters = instruments
        self._content = content
        self._around = around
        self._run: _Open | None = None
        self._workflow = ""
        self._started: dict[str, NodeStarted] = {}
        """Nodes that have no span yet: they get one when something happens within them, or at their end, unless they are reused."""
        self._nodes: dict[str, _Open] = {}
        self._requests: dict[tuple[NodeId, int], _Open] = {}
        self._answered: dict[NodeId, tuple[Any, int]] = {}
        """Spans of requests, and when they end, that get what was said once their nodes have ended."""
        self._handlers: dict[type, Callable[[Any], None]] = {
            RunStarted: self._run_started,
            NodeStarted: self._node_started,
            RequestSent: self._request_sent,
            RequestEnded: self._request_ended,
            RequestJoined: self._request_joined,
            NodeRetrying: self._retrying,
            NodeEnded: self._node_ended,
            RunEnded: self._run_ended,
        }

    def handle(self, event: Event) -> None:
        """See `Observer`."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def close(self) -> None:
        """See `Closable`. A run whose end could not be kept has none."""
        if self._run is not None:
            self._end_all(self._run.at)
            self._run.span.end()
            self._run = None

    # runs

    def _run_started(self, event: RunStarted) -> None:
        self._workflow = event.workflow
        attributes = {
            names.OPERATION: names.INVOKE_WORKFLOW,
            names.WORKFLOW: event.workflow,
            names.RUN_ID: event.run_id,
            names.RESUMED: event.resumed,
        }
        name = f"{names.INVOKE_WORKFLOW} {event.workflow}"
        span = self._tracer.start_span(name, self._around, attributes=attributes, start_time=_nanoseconds(event.at))
        self._run = _Open(span=span, at=event.at)

    def _run_ended(self, event: RunEnded) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        self._end_all(event.at)
        attributes = {names.WORKFLOW: self._workflow, names.RUN_STATUS: event.status.value}
        self._meters.run.record(event.duration_s, attributes)
        run.span.set_attribute(names.RUN_STATUS, event.status.value)
        if event.status is RunStatus.FAILED:
            self._failed(run.span, event.error)
        run.span.end(_nanoseconds(event.at))

    def _end_all(self, at: float) -> None:
        """What was cut off, the innermost first."""
        for node_id in list(self._started):
            self._node(node_id)
        for node_id in list(self._answered):
            self._end_answered(node_id, {})
        for open_span in (*reversed(self._requests.values()), *reversed(self._nodes.values())):
            open_span.span.set_attribute(names.NODE_STATUS, _UNENDED)
            open_span.span.end(_nanoseconds(max(at, open_span.at)))
        self._requests.clear()
        self._nodes.clear()

    # nodes

    def _node_started(self, event: NodeStarted) -> None:
        if event.node_id not in self._nodes:
            self._started[event.node_id] = event

    def _node(self, node_id: str) -> _Open | None:
        """The open span of a node that has started."""
        started = self._started.pop(node_id, None)
        if started is not None:
            self._nodes[node_id] = self._opened(started)
        return self._nodes.get(node_id)

    def _opened(self, event: NodeStarted | NodeEnded) -> _Open:
        step, kind = step_path(event.node_id), event.kind
        attributes: _Attributes = {names.NODE_ID: event.node_id, names.STEP: step, names.KIND: kind.value}
        if event.place is not None:
            attributes[names.INDEX] = event.place
        around = self._node(event.parent) or self._run
        context = self._around if around is None else self._api.set_span_in_context(around.span)
        span = self._tracer.start_span(step, context, attributes=attributes, start_time=_nanoseconds(event.at))
        return _Open(span=span, at=event.at, kind=kind)

    def _node_ended(self, event: NodeEnded) -> None:
        if event.reused:
            self._started.pop(event.node_id, None)
        node = self._node(event.node_id)
        self._nodes.pop(event.node_id, None)
        if event.reused or (node is None and not event.cached):  # it was not executed
            if node is not None:
                node.span.end(_nanoseconds(event.at))
            return
        node = node or self._opened(event)
        self._count(event, node)
        attributes: _Attributes = {names.NODE_STATUS: event.status.value, names.CACHED: event.cached}
        if event.cost_usd is not None:
            attributes[names.COST] = event.cost_usd
        for reason, seconds in event.waits.items():
            attributes[f"{names.WAITED}.{reason}"] = seconds
        if self._content is not None and event.kind in REQUEST_KINDS and event.counts is None:
            said = self._content(event.run_id, event.node_id)
            if not self._end_answered(event.node_id, said):
                attributes |= said
        node.span.set_attributes(attributes)
        if event.status is NodeStatus.FAILED:
            self._failed(node.span, event.error)
        node.span.end(_nanoseconds(event.at))

    def _count(self, event: NodeEnded, node: _Open) -> None:
        step = {names.WORKFLOW: self._workflow, names.STEP: step_path(event.node_id)}
        outcome = {names.KIND: event.kind.value, names.NODE_STATUS: event.status.value}
        self._meters.node.record(max(0.0, event.at - node.at), step | outcome)
        if event.counts is not None or event.kind is StepKind.WORKFLOW:  # the sum of what is within
            return
        for reason, seconds in event.waits.items():
            self._meters.wait.add(seconds, step | {names.WAIT_REASON: str(reason)})
        if event.kind in REQUEST_KINDS:
            self._meters.cache.add(1, step | {names.CACHE_RESULT: "hit" if event.cached else "miss"})

    def _retrying(self, event: NodeRetrying) -> None:
        node = self._node(event.node_id)
        if node is not None:
            attributes = {names.ATTEMPT: event.attempt, names.ERROR_TYPE: str(event.error.get("type"))}
            node.span.add_event(names.RETRY, attributes, _nanoseconds(event.at))

    # requests

    def _request_sent(self, event: RequestSent) -> None:
        node = self._node(event.node_id) or self._run
        kind = None if node is None else node.kind
        attributes = {
            **_of_request(event, kind),
            names.NODE_ID: event.node_id,
            names.ATTEMPT: event.attempt,
            names.QUEUED: event.queue_s,
        }
        if event.hedge:
            attributes[names.HEDGE] = True
        name = f"{attributes[names.OPERATION]} {event.model}"
        context = self._around if node is None else self._api.set_span_in_context(node.span)
        client = self._api.SpanKind.CLIENT
        span = self._tracer.start_span(
            name, context, kind=client, attributes=attributes, start_time=_nanoseconds(event.at)
        )
        self._requests[event.node_id, event.attempt] = _Open(span=span, at=event.at, kind=kind)

    def _request_ended(self, event: RequestEnded) -> None:
        request = self._requests.pop((event.node_id, event.attempt), None)
        attributes = _of_request(event, None if request is None else request.kind)
        if event.error is not None:
            attributes[names.ERROR_TYPE] = str(event.error.get("type"))
        self._meters.request.record(event.call_s, attributes)
        for kind, count in (("input", event.usage.input_tokens), ("output", event.usage.output_tokens)):
            if count:
                self._meters.tokens.record(count, attributes | {names.TOKEN_TYPE: kind})
        if event.cost_usd:
            self._meters.cost.add(event.cost_usd, attributes | {names.WORKFLOW: self._workflow})
        if request is None:
            return
        request.span.set_attributes(_of_usage(event.usage))
        if event.cost_usd is not None:
            request.span.set_attribute(names.COST, event.cost_usd)
        if event.error is not None:
            self._failed(request.span, event.error)
        elif self._content is not None:
            self._end_answered(event.node_id, {})
            self._answered[event.node_id] = request.span, _nanoseconds(event.at)
            return
        request.span.end(_nanoseconds(event.at))

    def _end_answered(self, node_id: NodeId, said: Mapping[str, str]) -> bool:
        """End the span of the node's last request that was answered, if there is one that has not ended."""
        span, at = self._answered.pop(node_id, (None, 0))
        if span is None:
            return False
        span.set_attributes(said)
        span.end(at)
        return True

    def _request_joined(self, event: RequestJoined) -> None:
        node = self._node(event.node_id)
        if node is not None:
            node.span.add_event(names.JOINED, timestamp=_nanoseconds(event.at))

    def _failed(self, span: Any, error: Mapping[str, Json] | None) -> None:
        found = error or {}
        span.set_attribute(names.ERROR_TYPE, str(found.get("type") or "_OTHER"))
        message = str(found.get("message") or "")
        span.set_status(self._api.Status(self._api.StatusCode.ERROR, message))


def _of_request(event: RequestSent | RequestEnded, kind: StepKind | None) -> _Attributes:
    operation = names.operation_of(kind)
    return {names.OPERATION: operation, names.PROVIDER: event.provider, names.MODEL: event.model}


def _of_usage(usage: Usage) -> _Attributes:
    """What is known of it, and is not nothing."""
    found = {name: getattr(usage, field) for name, field in _USAGE}
    return {name: count for name, count in found.items() if count}


def _nanoseconds(at: float) -> int:
    return round(at * 1e9)


def content_of(request: Mapping[str, Json], output: Json) -> dict[str, str]:
    """A node's messages in the form of the conventions; `request` is what its record keeps of it."""
    body = request.get("body")
    asked = (body.get("messages") or body.get("input")) if isinstance(body, dict) else None
    messages = asked if isinstance(asked, list) else [{"role": "user", "content": asked}]
    found = {names.INPUT_MESSAGES: [_message(one) for one in messages if isinstance(one, dict)]} if asked else {}
    if output is not None:
        found[names.OUTPUT_MESSAGES] = [_message({"role": "assistant", "content": output})]
    return {name: json.dumps(value, ensure_ascii=False) for name, value in found.items()}


def _message(message: Mapping[str, Json]) -> Json:
    content = message.get("content")
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return {"role": message.get("role", "user"), "parts": [{"type": "text", "content": text}]}
