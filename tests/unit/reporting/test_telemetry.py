from __future__ import annotations

from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flowllm.core.events import NodeEnded, NodeStarted, RequestEnded, RequestSent, RunEnded, RunStarted
from flowllm.core.types import NodeId, NodeStatus, RunId, RunStatus, StepKind, Usage
from flowllm.reporting.telemetry import Content, Instruments, Telemetry, content_of

RUN = RunId("r")
MODEL = {"attempt": 1, "model": "m", "provider": "p"}


def told(*events: tuple[type, dict[str, Any]], content: Content | None = None, end: bool = True) -> dict[str, Any]:
    """The spans that come of a run's events, a second apart, by their names."""
    spans, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    meter = metrics.NoOpMeterProvider().get_meter("test")
    observer = Telemetry(trace, provider.get_tracer("test"), Instruments(meter), content=content)
    begun = (RunStarted, {"workflow": "w", "provider": "p", "nodes": 1})
    ended = (RunEnded, {"status": RunStatus.INTERRUPTED, "duration_s": 1.0})
    for at, (kind, values) in enumerate([begun, *events, *([ended] if end else [])]):
        observer.handle(kind(run_id=RUN, at=float(at), **values))
    observer.close()
    return {span.name: span for span in spans.get_finished_spans()}


def node(kind: type = NodeStarted, node_id: str = "a", **more: Any) -> tuple[type, dict[str, Any]]:
    done = {"status": NodeStatus.SUCCEEDED, "done": 1, "total": 1} if kind is NodeEnded else {}
    return kind, {"node_id": NodeId(node_id), "kind": StepKind.PROMPT, **done, **more}


def request(kind: type, **more: Any) -> tuple[type, dict[str, Any]]:
    took: dict[str, Any] = {"queue_s": 0.0} if kind is RequestSent else {"call_s": 1.0}
    return kind, {"node_id": NodeId("a"), **MODEL, **took, **more}


def seconds(span: ReadableSpan) -> tuple[float, float]:
    return (span.start_time or 0) / 1e9, (span.end_time or 0) / 1e9


def test_what_a_stop_cut_off_ends_with_its_run() -> None:
    for end in (True, False):
        spans = told(node(), request(RequestSent), end=end)
        assert set(spans) == {"invoke_workflow w", "a", "chat m"}
        assert spans["a"].attributes["flowllm.node.status"] == "cancelled"
        assert spans["chat m"].parent.span_id == spans["a"].context.span_id
    assert told(node(), request(RequestSent))["invoke_workflow w"].attributes["flowllm.run.status"] == "interrupted"


def test_what_was_not_executed_has_no_span() -> None:
    spans = told(node(), node(NodeEnded, reused=True), node(NodeEnded, "b", status=NodeStatus.SKIPPED))
    assert set(spans) == {"invoke_workflow w"}
    assert seconds(told(node(NodeEnded, cached=True))["a"]) == (1.0, 1.0)


def test_what_was_said_is_told_with_the_last_request_that_was_answered() -> None:
    def content(run_id: RunId, node_id: NodeId) -> dict[str, str]:
        return content_of({"body": {"messages": [{"role": "system", "content": "be brief"}]}}, {"score": 7})

    usage = Usage(input_tokens=3, output_tokens=None, cached_input_tokens=2)
    exchange = (request(RequestSent), request(RequestEnded, usage=usage))
    spans = told(node(), *exchange, node(NodeEnded, waits={"rate": 2.5}), content=content)
    assert seconds(spans["chat m"]) == (2.0, 3.0)
    assert spans["a"].attributes["flowllm.waited_s.rate"] == 2.5
    known = dict(spans["chat m"].attributes)
    assert known["gen_ai.input.messages"] == '[{"role": "system", "parts": [{"type": "text", "content": "be brief"}]}]'
    assert '"content": "{\\"score\\": 7}"' in known["gen_ai.output.messages"]
    assert (known["gen_ai.usage.input_tokens"], known["gen_ai.usage.cache_read.input_tokens"]) == (3, 2)
    assert "gen_ai.usage.output_tokens" not in known
    assert "gen_ai.input.messages" not in told(node(), *exchange, node(NodeEnded))["chat m"].attributes
    assert "chat m" in told(node(), *exchange, content=content), "it ends though its node does not"
