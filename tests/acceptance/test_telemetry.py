"""What a collector of OpenTelemetry gets of a run, over OTLP/HTTP."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry import trace
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flowllm.reporting.telemetry_export import CAPTURE, ENDPOINT, TelemetryExport
from tests.support.project import Project


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: list[dict[str, Any]] = []
        self.metrics: dict[str, list[dict[str, Any]]] = {}
        self.service = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            for resource in MessageToDict(ExportTraceServiceRequest.FromString(body))["resourceSpans"]:
                self.service = attributes(resource["resource"])["service.name"]
                self.spans += [span for scope in resource["scopeSpans"] for span in scope["spans"]]
        elif path == "/v1/metrics":
            for resource in MessageToDict(ExportMetricsServiceRequest.FromString(body))["resourceMetrics"]:
                for scope in resource["scopeMetrics"]:
                    for metric in scope["metrics"]:
                        data = metric.get("histogram") or metric["sum"]
                        self.metrics.setdefault(metric["name"], []).extend(data["dataPoints"])

    def tree(self) -> dict[str, dict[str, Any]]:
        """Each span by the names of all that it is within and its own, numbers of items added."""
        by_id = {span["spanId"]: span for span in self.spans}

        def path(span: dict[str, Any]) -> str:
            around = by_id.get(span.get("parentSpanId", ""))
            own = span["name"] + (f"[{index}]" if (index := attributes(span).get("flowllm.item.index")) else "")
            return f"{path(around)} > {own}" if around else own

        return {path(span): span for span in self.spans}


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def hex_of(encoded: str) -> str:
    return base64.b64decode(encoded).hex()


def attributes(thing: dict[str, Any]) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values())) for one in thing.get("attributes", [])}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def flow(project: Project) -> str:
    posts = {"foreach": ["tea", "bad [status=400]"], "prompt": "About {{ item }}", "on_error": "continue"}
    steps = {"posts": posts, "same": {"prompt": "[text=fine] again", "needs": ["posts"]}}
    prices = {"prices": {"test-model": {"input": 1.0, "output": 2.0}}}
    project.write("flowllm.yaml", prices)
    return project.flow(steps=steps, outputs={"same": "{{ same }}"})


def test_spans_and_metrics_reach_the_collector(project: Project, collector: Collector) -> None:
    file = flow(project)
    outcome = project.cli("run", file, "--quiet", **{ENDPOINT: collector.url})
    assert outcome.code == 0, outcome.said
    found, run = collector.tree(), "invoke_workflow flow"
    assert collector.service == "flowllm"
    assert set(found) == {
        run,
        f"{run} > posts",
        f"{run} > posts > posts[0]",
        f"{run} > posts > posts[0] > chat test-model",
        f"{run} > posts > posts[1]",
        f"{run} > posts > posts[1] > chat test-model",
        f"{run} > same",
        f"{run} > same > chat test-model",
    }
    chat = found[f"{run} > same > chat test-model"]
    known = attributes(chat)
    assert chat["kind"] == "SPAN_KIND_CLIENT"
    assert {
        name: known[name] for name in ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model")
    } == {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "test-model"}
    assert int(known["gen_ai.usage.input_tokens"]) > 0 < int(known["gen_ai.usage.output_tokens"])
    assert known["flowllm.cost_usd"] > 0
    bad = found[f"{run} > posts > posts[1] > chat test-model"]
    assert (bad["status"]["code"], attributes(bad)["error.type"]) == ("STATUS_CODE_ERROR", "RequestRejected")
    assert not [span for span in collector.spans if "fine" in json.dumps(span)], "content was not asked for"
    ids = {span["traceId"] for span in collector.spans}
    assert len(ids) == 1
    assert all(int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]) for span in collector.spans)

    metrics = {name: sum(int(point.get("count", 1)) for point in points) for name, points in collector.metrics.items()}
    assert metrics["gen_ai.client.operation.duration"] == 3
    assert metrics["gen_ai.client.token.usage"] == 4
    assert metrics["flowllm.node.duration"] == 4
    assert metrics["flowllm.run.duration"] == 1
    assert {"flowllm.cost", "flowllm.wait.time"} <= set(metrics)

    collector.spans.clear()
    collector.metrics.clear()
    trace_id, span_id = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    caller = {"TRACEPARENT": f"00-{trace_id}-{span_id}-01"}
    outcome = project.cli("run", file, "--quiet", **{ENDPOINT: collector.url, CAPTURE: "true"}, **caller)
    assert outcome.code == 0, outcome.said
    lookups = collector.metrics["flowllm.response_cache.lookups"]
    results = [attributes(point)["flowllm.response_cache.result"] for point in lookups]
    assert sorted(results) == ["hit", "hit", "miss"], "one for each step and result"
    (whole,) = [span for span in collector.spans if span["name"] == run]
    assert (hex_of(whole["traceId"]), hex_of(whole["parentSpanId"])) == (trace_id, span_id), (
        "that of the caller's process"
    )
    said = attributes(collector.tree()[f"{run} > same"])
    assert said["flowllm.cached"] is True
    assert json.loads(said["gen_ai.output.messages"])[0]["parts"] == [{"type": "text", "content": "fine"}]
    assert json.loads(said["gen_ai.input.messages"])[0]["parts"][0]["content"] == "[text=fine] again"


def test_a_program_that_has_set_a_provider_gets_the_spans_within_its_own(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not TelemetryExport.wanted({})
    assert not TelemetryExport.wanted({ENDPOINT: "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"})
    spans, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    with provider.get_tracer("mine").start_as_current_span("handler") as around:
        assert project.cli("run", flow(project), "--quiet", **{CAPTURE: "span_only"}).code == 0
    found = {span.name: span for span in spans.get_finished_spans()}
    assert found["invoke_workflow flow"].parent == around.get_span_context()
    chats = [span for span in spans.get_finished_spans() if span.name == "chat test-model"]
    assert {"gen_ai.output.messages" in (span.attributes or {}) for span in chats} == {True, False}


def test_what_a_slow_collector_does_not_take_is_left_out_at_the_end(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = TelemetryExport({ENDPOINT: collector.url})
    for name in ("one", "two"):
        export._tracer.start_span(name).end()
    monkeypatch.setattr("flowllm.reporting.telemetry_export._TIMEOUT", -1.0)
    assert export.close() == "the collector took too long: 2 spans left out"
    assert collector.spans == []


def test_a_collector_that_is_not_there_harms_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    file = project.flow(steps={"a": {"value": 1}}, outputs={"a": "{{ a }}"})
    monkeypatch.setattr("flowllm.reporting.telemetry_export._TIMEOUT", 0.05)
    outcome = project.cli("run", file, "--quiet", **{ENDPOINT: "http://127.0.0.1:9"})
    assert outcome.code == 0, outcome.said
    assert outcome.err.startswith("flowllm: OpenTelemetry: "), outcome.said
    assert outcome.err.count("\n") == 1
    monkeypatch.setattr("flowllm.reporting.telemetry_export._protocol", lambda _: "carrier_pigeon")
    outcome = project.cli("run", file, **{ENDPOINT: "http://127.0.0.1:9"})
    assert outcome.code == 0, outcome.said
    assert "pip install 'flowllm[otel]'" in outcome.err
