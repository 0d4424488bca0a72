"""What is shown of a run must not cost more memory the more items it has."""

from __future__ import annotations

import gc
import io
import tracemalloc

from flowllm.core.types import NodeStatus, StepKind, WaitReason
from flowllm.reporting.live_model import LiveModel
from flowllm.reporting.progress import Progress
from flowllm.reporting.screen import Screen
from flowllm.reporting.stats import Stats
from flowllm.reporting.summary import Summary
from tests.support.events import (
    ERROR,
    fallback_taken,
    fan_out_started,
    item_ended,
    node_ended,
    node_retrying,
    node_started,
    node_waiting,
    request_ended,
    request_joined,
    request_sent,
    run_ended,
    run_started,
)

FIRST, MORE = 500, 2_000
LEAST = 14 * 1024
"""Bytes that may come and go; one pointer for each of the later items would be more."""


class Nowhere(io.StringIO):
    def write(self, text: str) -> int:
        return len(text)


def item(place: int) -> list:
    """All that may happen to one item that is a graph with a foreach within."""
    name, at = f"posts[{place}]", place / 1000
    bad = {"status": NodeStatus.FAILED, "error": ERROR} if place % 3 == 0 else {}
    return [
        node_started(name, parent="posts", place=place, at=at, kind=StepKind.WORKFLOW),
        node_started(f"{name}.title", parent=name, at=at),
        node_waiting(f"{name}.title", WaitReason.RATE, at=at),
        request_joined(f"{name}.title"),
        request_sent(f"{name}.title", at=at),
        node_retrying(f"{name}.title", at=at),
        fallback_taken(f"{name}.title", "m2"),
        request_ended(f"{name}.title", at=at, cost_usd=None),
        node_ended(f"{name}.title", parent=name, at=at, truncated=True, cost_usd=None, model="m", **bad),
        fan_out_started(f"{name}.parts", 1, at=at),
        item_ended(f"{name}.parts", 0, at=at, **bad),
        node_ended(f"{name}.parts", parent=name, at=at, counts={"total": 1, "succeeded": 1}),
        item_ended("posts", place, at=at, kind=StepKind.WORKFLOW, **bad),
    ]


def test_memory_does_not_grow_with_the_items() -> None:
    observers = [Stats(), Summary(), Progress(Screen(Nowhere(), colour=False)), LiveModel()]

    def feed(*events: object) -> None:
        for event in events:
            for observer in observers:
                observer.handle(event)

    def feed_items(places: range) -> int:
        for place in places:
            feed(*item(place))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    feed(run_started(nodes=1), fan_out_started("posts", FIRST + MORE))
    tracemalloc.start()
    try:
        before = feed_items(range(FIRST))
        after = feed_items(range(FIRST, FIRST + MORE))
    finally:
        tracemalloc.stop()
    assert after - before < LEAST

    feed(run_ended())
    summary = observers[1]
    assert isinstance(summary, Summary)
    assert any(f"posts {FIRST + MORE:,} items so far" in "".join(map(str, line)) for line in summary.lines())
