from __future__ import annotations

import io

from flowllm.core.events import Event
from flowllm.core.types import NodeStatus, StepKind, Usage
from flowllm.reporting.progress import Notices, Progress
from flowllm.reporting.screen import Screen, moves_cursor, wants_colour
from tests.support.events import (
    ERROR,
    fallback_taken,
    fan_out_started,
    node_ended,
    node_hedged,
    node_retrying,
    node_started,
    notice,
    request_ended,
    request_joined,
    request_sent,
    run_started,
    stop_requested,
)


def printed(*events: Event, colour: bool = False) -> list[str]:
    stream = io.StringIO()
    progress = Progress(Screen(stream, colour=colour))
    for event in events:
        progress.handle(event)
    return stream.getvalue().splitlines()


def test_a_run_from_start_to_end() -> None:
    assert printed(
        run_started(),
        node_started("headline"),
        request_sent("headline"),
        request_sent("headline", attempt=2),
        node_started("keywords"),
        node_ended("headline", done=1, call_s=1.24, usage=Usage(input_tokens=20, output_tokens=160), attempts=1),
        node_ended("keywords", done=2, cached=True),
        node_ended("intro", done=3, reused=True),
        node_ended("check", done=4, reused=True, status=NodeStatus.FAILED, error=ERROR),
    ) == [
        "run 20261121-abc: blog, 4 steps, provider openai",
        "0 of 4  RUN       headline",
        "1 of 4  OK        headline [1.2s, 180 tokens]",
        "2 of 4  CACHED    keywords",
        "3 of 4  REUSED    intro",
        "4 of 4  REUSED    check failed before: RateLimited: too many requests (--retry-failed runs it again)",
    ]


def test_what_goes_wrong() -> None:
    error = {"type": "ServerFailed", "message": "500:\nupstream \x1b[31mred"}
    assert printed(
        run_started(resumed=True),
        node_retrying("a", delay_s=1.2, error=error),
        fallback_taken("a", "gpt-4o"),
        node_ended("a", status=NodeStatus.FAILED, error=error),
        node_ended("b", done=2, status=NodeStatus.FAILED, error=error, tolerated=True),
        node_ended("c", done=3, status=NodeStatus.BLOCKED, reason="a failed"),
        node_ended("d", done=4, status=NodeStatus.SKIPPED, reason="its `when` was false"),
        node_ended("e", done=4, status=NodeStatus.CANCELLED),
    ) == [
        "resuming 20261121-abc: blog, 4 steps, provider openai",
        r"0 of 4  RETRY     a in 1.2s: ServerFailed: 500: upstream \x1b[31mred",
        "0 of 4  FALLBACK  a to gpt-4o: RateLimited: too many requests",
        r"1 of 4  ERROR     a ServerFailed: 500: upstream \x1b[31mred",
        r"2 of 4  ERROR     b ServerFailed: 500: upstream \x1b[31mred (on_error: continue)",
        "3 of 4  BLOCKED   c because a failed",
        "4 of 4  SKIPPED   d because its `when` was false",
        "4 of 4  CANCELLED e",
    ]


def test_figures() -> None:
    assert printed(
        run_started(nodes=12),
        node_started("v", kind=StepKind.VALUE),
        node_started("p", kind=StepKind.PYTHON),
        node_ended("v", kind=StepKind.VALUE, total=12),
        request_joined("x"),
        node_ended(
            "x", done=2, total=12, attempts=3, truncated=True, cost_usd=0.02, usage=Usage(output_tokens=1), call_s=2
        ),
    )[1:] == [
        " 0 of 12  RUN       p",
        " 1 of 12  OK        v",
        " 1 of 12  JOINED    x waits for an equal request in flight",
        " 2 of 12  OK        x [2.0s, 1 token, $0.02, 3 attempts, truncated]",
    ]


def test_what_is_known_of_tokens_and_cost_is_told_where_a_request_leaves_no_trace_of_its_own() -> None:
    lost = {"usage": Usage.unknown(), "cost_usd": None, "reserved_tokens": 500.0}
    unknown = {"usage": Usage.unknown(), "cost_usd": None}
    counts = {"total": 2, "succeeded": 2}
    assert printed(
        run_started(nodes=3),
        fan_out_started("a", total=2),
        request_sent("a[0]"),
        request_sent("a[1].x"),
        node_hedged("a[0]"),
        request_sent("a[0]", attempt=2, hedge=True),
        request_ended("a[1].x", cost_usd=0.02),
        request_ended("a[0]", attempt=2, cost_usd=0.01),
        request_ended("a[0]", reserved_usd=0.5, **lost),
        node_ended("a[0]", parent="a", place=0, attempts=2, **unknown),
        node_ended("a", done=1, total=3, counts=counts, attempts=3, **unknown),
        request_ended("b", reserved_usd=None, **lost),
        request_ended("b", cost_usd=0.01),
        node_ended("b", done=2, total=3, **unknown),
        request_ended("c", reserved_usd=0.0, **lost | {"cost_usd": 0.0}),
        node_ended("c", done=3, total=3, **unknown | {"cost_usd": 0.0}),
    )[1:] == [
        "0 of 3  RUN       a 2 items",
        "0 of 3  HEDGE     a[0] takes long: sent once more, the first answer counts",
        "0 of 3  OK        a[0] [80 tokens and 1 request of unknown use, $0.01 (at most $0.51), 2 attempts]",
        "1 of 3  OK        a 2 items [160 tokens and 1 request of unknown use, $0.03 (at most $0.53), 3 requests]",
        "2 of 3  OK        b [80 tokens and 1 request of unknown use, at least $0.01]",
        "3 of 3  OK        c [tokens unknown]",
    ]


def test_simulated_answers_are_said_plainly() -> None:
    lines = printed(run_started(simulated=True, provider="simulated"))
    assert lines[1].startswith("simulated answers: no API key was found")


def test_colour_marks_the_word_and_never_reads_markup() -> None:
    error = {"type": "Odd", "message": "[red]x[/y]"}
    lines = printed(run_started(), node_ended("a"), node_ended("b", status=NodeStatus.FAILED, error=error), colour=True)
    assert "\x1b[32mOK" in lines[1]
    assert "[red]x[/y]" in lines[2]


def test_long_lines_are_not_wrapped_on_a_terminal() -> None:
    reason = "word " * 60
    lines = printed(run_started(nodes=1), node_ended("x", status=NodeStatus.BLOCKED, reason=reason), colour=True)
    assert len(lines) == 2


def test_notices_are_told_with_what_happens_next() -> None:
    stream = io.StringIO()
    notices = Notices(Screen(stream, colour=False), grace=60.0)
    for event in (notice("blog.yaml was edited"), stop_requested(), stop_requested(in_flight=0), run_started()):
        notices.handle(event)
    assert stream.getvalue().splitlines() == [
        "notice: blog.yaml was edited",
        (
            "stopping (Ctrl-C): nothing new is sent, waiting for 3 calls in flight (up to 60 s); "
            "press Ctrl-C again to stop at once"
        ),
        "stopping (Ctrl-C): nothing new is sent, nothing is in flight",
    ]


def test_colour_is_for_terminals_whose_user_wants_it() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert wants_colour(Terminal(), {})
    assert not wants_colour(Terminal(), {"NO_COLOR": "1"})
    assert moves_cursor(Terminal(), {"NO_COLOR": "1"})
    assert not moves_cursor(Terminal(), {"TERM": "dumb"})
    assert not wants_colour(Terminal(), {"TERM": "dumb"})
    assert not wants_colour(io.StringIO(), {})
