"""A program that uses the library, in virtual time: its store writes without threads."""

from __future__ import annotations

from flowllm.app.flowllm import FlowLLM
from flowllm.calls.batch import Batches
from flowllm.calls.executor import CallExecutor
from flowllm.calls.response_cache import ResponseCache
from flowllm.calls.single_flight import InFlightCalls
from tests.support.stores import InlineStore
from tests.support.virtual import LoopClock


def opened(clock: LoopClock, store: InlineStore | None = None) -> FlowLLM:
    app = FlowLLM(database="memory:", clock=clock, environ={})
    app._store = store = store or InlineStore()
    calls = ResponseCache(Batches(CallExecutor(app._limiter, store, clock), clock), store, clock)
    app._calls = InFlightCalls(calls, clock)
    return app
