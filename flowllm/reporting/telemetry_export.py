"""Where OpenTelemetry gets what is observed: the program's own providers, or the collector that the environment names."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final

from flowllm.core.errors import PackageMissing
from flowllm.reporting.telemetry import Content, Instruments, Telemetry
from flowllm.reporting.telemetry_names import SCOPE
from flowllm.reporting.text import plural

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_SIGNALS: Final = {"traces": "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "metrics": "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"}
CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_CAPTURES: Final = frozenset({"true", "1", "span_only", "span_and_event"})
_QUEUE: Final = 1 << 14
"""Spans that wait to be sent at most, some 4 kB each: a run of quick items has thousands a second."""
_TIMEOUT: Final = 3.0
"""Seconds that a collector has to take what it is sent, and then for all that is left when runs are over."""


class _Complaints(logging.Handler):
    """What OpenTelemetry complains of, which would otherwise be written into the live view: the first of it is told at the end."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first = ""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`. Of warnings those of spans that are lost: others are of requests that are sent again."""
        if record.levelno >= logging.ERROR or "dropping" in record.msg:
            self.first = self.first or record.getMessage()


class _Bounded:
    """An exporter of spans with a deadline, once there is one: a processor that is shut down waits for all of its batches."""

    def __init__(self, exporter: Any, failure: object) -> None:
        """`failure` is what tells that spans were not sent."""
        self._exporter = exporter
        self._failure = failure
        self._deadline = math.inf
        self.left_out = 0
        """Spans that were not sent."""

    def close_soon(self) -> None:
        """What is not sent within the next seconds is left out."""
        self._deadline = time.monotonic() + _TIMEOUT

    def export(self, spans: Sequence[Any]) -> Any:
        """See OpenTelemetry's `SpanExporter`."""
        if time.monotonic() < self._deadline:
            return self._exporter.export(spans)
        self.left_out += len(spans)
        return self._failure

    def shutdown(self) -> None:
        """See `SpanExporter`."""
        self._exporter.shutdown()


class TelemetryExport:
    """One for each FlowLLM; its observers share tracer and instruments."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Raises PackageMissing where the environment names a collector and OpenTelemetry is not installed."""
        self._own: list[Any] = []
        self._spans: _Bounded | None = None
        self._complaints = _Complaints()
        self._traceparent = environ.get("TRACEPARENT", "")
        self._capture = environ.get(CAPTURE, "").strip().lower() in _CAPTURES
        try:
            self._api: Any = import_module("opentelemetry.trace")
            meters: Any = import_module("opentelemetry.metrics")
            if _configured():
                tracers, metrics = self._api.get_tracer_provider(), meters.get_meter_provider()
            else:
                tracers, metrics = self._providers(environ)
        except ImportError:
            raise PackageMissing(
                "OpenTelemetry is not installed, so nothing is told to the collector that the environment names",
                hint="pip install 'flowllm[otel]'",
            ) from None
        self._tracer = tracers.get_tracer(SCOPE)
        self._instruments = Instruments(metrics.get_meter(SCOPE))

    @staticmethod
    def wanted(environ: Mapping[str, str]) -> bool:
        """Whether anybody listens. Imports nothing."""
        if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return False
        return _configured() or any(_endpoint(environ, signal) for signal in _SIGNALS)

    def observer(self, content: Content) -> Telemetry:
        """An observer of a run that begins now, within the current span, or that which `TRACEPARENT` names; `content` is asked
        only if messages are to be captured."""
        around = self._api.set_span_in_context(self._api.get_current_span())
        if self._traceparent and not self._api.get_current_span().get_span_context().is_valid:
            tracing: Any = import_module("opentelemetry.trace.propagation.tracecontext")
            around = tracing.TraceContextTextMapPropagator().extract({"traceparent": self._traceparent})
        content_wanted = content if self._capture else None
        return Telemetry(self._api, self._tracer, self._instruments, around=around, content=content_wanted)

    def close(self) -> str:
        """Send what is left, for a few seconds at most, and wait for it; what went wrong."""
        if self._spans is not None:
            self._spans.close_soon()
        closing = [threading.Thread(target=provider.shutdown, daemon=True) for provider in self._own]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
        logging.getLogger("opentelemetry").removeHandler(self._complaints)
        late = 0 if self._spans is None else self._spans.left_out
        return self._complaints.first or (
            f"the collector took too long: {plural(late, 'span')} left out" if late else ""
        )

    def _providers(self, environ: Mapping[str, str]) -> tuple[Any, Any]:
        """Providers of our own, which are nobody else's: what another library observes is not sent by us."""
        resources: Any = import_module("opentelemetry.sdk.resources")
        tracing: Any = import_module("opentelemetry.sdk.trace")
        metering: Any = import_module("opentelemetry.sdk.metrics")
        resource = resources.Resource.create({"service.name": environ.get("OTEL_SERVICE_NAME") or SCOPE})
        tracers = tracing.TracerProvider(resource=resource, shutdown_on_exit=False)
        if endpoint := _endpoint(environ, "traces"):
            exporting: Any = import_module("opentelemetry.sdk.trace.export")
            exporter = _exporter(environ, "trace").OTLPSpanExporter(endpoint=endpoint, timeout=_TIMEOUT)
            self._spans = _Bounded(exporter, exporting.SpanExportResult.FAILURE)
            tracers.add_span_processor(exporting.BatchSpanProcessor(self._spans, max_queue_size=_QUEUE))
        readers = []
        if endpoint := _endpoint(environ, "metrics"):
            exporting = import_module("opentelemetry.sdk.metrics.export")
            exporter = _exporter(environ, "metric").OTLPMetricExporter(endpoint=endpoint, timeout=_TIMEOUT)
            readers.append(exporting.PeriodicExportingMetricReader(exporter))
        metrics = metering.MeterProvider(readers, resource, shutdown_on_exit=False)
        self._own = [tracers, metrics]
        logging.getLogger("opentelemetry").addHandler(self._complaints)
        return tracers, metrics


def _endpoint(environ: Mapping[str, str], signal: str) -> str:
    """The URL that takes a signal; empty: it is not wanted."""
    if environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip().lower() == "none":
        return ""
    own, common = environ.get(_SIGNALS[signal], ""), environ.get(ENDPOINT, "")
    if own or not common:
        return own
    return common if _protocol(environ) == "grpc" else f"{common.rstrip('/')}/v1/{signal}"


def _protocol(environ: Mapping[str, str]) -> str:
    return environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip().lower().partition("/")[0] or "http"


def _exporter(environ: Mapping[str, str], signal: str) -> Any:
    """Raises ImportError: `grpc` has a package of its own."""
    return import_module(f"opentelemetry.exporter.otlp.proto.{_protocol(environ)}.{signal}_exporter")


def _configured() -> bool:
    """Whether the program has set a tracer provider. One that has not imported OpenTelemetry has not."""
    api: Any = sys.modules.get("opentelemetry.trace")
    if api is None:
        return False
    return not isinstance(api.get_tracer_provider(), (api.ProxyTracerProvider, api.NoOpTracerProvider))
