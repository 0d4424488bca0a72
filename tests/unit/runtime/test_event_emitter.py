"""The share of nodes that fail: told once, and, where the author says so, the end of the run."""

from __future__ import annotations

import itertools
import random

import pytest

from flowllm.core.errors import RequestRejected
from flowllm.core.events import FailuresHigh
from flowllm.core.types import Limits, NodeStatus, RunStatus
from flowllm.runtime.run_context import ALERT_SHARE, LEAST, FailureShare
from tests.support.run_attempts import PreparedAttempt, Stage
from tests.support.virtual import run_virtual


def _alerts(outcomes: str) -> list[int]:
    """After how many nodes it was told; `x` is a node that failed."""
    share, told = FailureShare(), []
    for number, outcome in enumerate(outcomes, start=1):
        share.count(failed=outcome == "x")
        if share.alert():
            told.append(number)
    return told


@pytest.mark.parametrize(
    ("outcomes", "told"),
    [
        ("x" * (LEAST - 1), []),
        ("x" * LEAST, [LEAST]),
        ("x" * 100, [LEAST]),
        ("x" + "." * 19, []),  # exactly 5 %
        ("x" + "." * 18 + "x", [20]),
        ("." * 37 + "xxx", [39]),  # 2 of 39 are 5.1 %
        ("xx" + "." * 38 + "x" * 20, [20]),
        ("." * 1000 + "x" * 52, []),
        ("." * 1000 + "x" * 53, [1053]),
    ],
)
def test_it_is_told_once_above_five_of_a_hundred_and_never_of_fewer_than_twenty(outcomes: str, told: list[int]) -> None:
    assert _alerts(outcomes) == told


@pytest.mark.parametrize("seed", range(50))
def test_three_of_forty_are_told_once_in_whatever_order_they_end(seed: int) -> None:
    order = list("x" * 3 + "." * 37)
    random.Random(seed).shuffle(order)
    told = _alerts("".join(order))
    assert len(told) == 1
    failed = order[: told[0]].count("x")
    assert told[0] >= LEAST
    assert failed / told[0] > ALERT_SHARE


@pytest.mark.parametrize(("stop_at", "after"), [(None, None), (0.0, 20), (0.5, 41), (1.0, None)])
def test_the_run_is_to_end_once_above_the_share_that_it_allows(stop_at: float | None, after: int | None) -> None:
    """Twenty that succeed, then failures only."""
    share, told = FailureShare(stop_at=stop_at), []
    outcomes = itertools.chain([True] * 20, [False] * 80) if stop_at else itertools.repeat(False, 100)
    for number, succeeded in enumerate(outcomes, start=1):
        share.count(failed=not succeeded)
        if share.stop():
            told.append(number)
    assert told == ([] if after is None else [after])


def test_a_share_of_nothing_is_none() -> None:
    assert FailureShare().share == 0.0


# in a run


def _flow(count: int, *, top: str = "", options: str = "") -> str:
    steps = "".join(f"  s{n}: {{prompt: 'ask {n}', retry: {{max_attempts: 1}}{options}}}\n" for n in range(count))
    return f"{top}steps:\n{steps}"


async def _run(text: str, *, failing: set[int]) -> tuple[Stage, PreparedAttempt, RunStatus]:
    stage = Stage()
    stage.provider.latency = 0.1
    stage.provider.script = [
        RequestRejected("no such thing", status=400) if n in failing else "fine" for n in range(200)
    ]
    ready = await stage.prepare(text)
    ending = await ready.attempt()
    return stage, ready, ending.status


def _told(ready: PreparedAttempt) -> list[FailuresHigh]:
    return [event for event in ready.events if isinstance(event, FailuresHigh)]


def test_failures_that_are_let_pass_count_too() -> None:
    async def main() -> None:
        text = _flow(40, options=", on_error: continue")
        _, ready, status = await _run(text, failing={0, 1, 2})
        assert status is RunStatus.SUCCEEDED
        (told,) = _told(ready)
        assert (told.failed, told.ended) == (3, 20)
        assert told.share == pytest.approx(0.15)

    run_virtual(main())


def test_nodes_that_are_blocked_or_skipped_do_not_count() -> None:
    """Nineteen asked, all of them failed, and each blocked another."""

    async def main() -> None:
        below = "".join(f"  b{n}: {{prompt: 'below {{{{ s{n} }}}}'}}\n" for n in range(19))
        _, ready, status = await _run(_flow(19) + below, failing=set(range(200)))
        assert status is RunStatus.FAILED
        assert len(ready.ended) == 38
        assert _told(ready) == []

    run_virtual(main())


@pytest.mark.parametrize("concurrent", [1, 10])
def test_a_run_that_goes_wrong_as_a_whole_ends_and_sends_nothing_more(concurrent: int) -> None:
    async def main() -> None:
        stage = Stage()
        stage.provider.latency = 0.1
        stage.provider.script = [RequestRejected("no", status=400) for _ in range(200)]
        ready = await stage.prepare(_flow(100, top="limits: {stop_at_error_rate: 50%}\n"))
        stage.limiter.configure(stage.provider.account, Limits(max_concurrent=concurrent), holder="r1")
        ending = await ready.attempt()
        assert ending.status is RunStatus.FAILED
        assert ending.error is not None
        assert ending.error["type"] == "TooManyFailures"
        assert LEAST <= len(stage.provider.sent) <= LEAST + concurrent
        statuses = [node.status for node in (await stage.nodes()).values()]
        assert statuses.count(NodeStatus.FAILED) == len(stage.provider.sent)

    run_virtual(main())


def test_what_workers_counted_is_added_up_once() -> None:
    here, there = FailureShare(stop_at=0.5), FailureShare()
    for number in range(30):
        there.count(failed=number % 2 == 0, item=True)
    here.add(**there.take())
    here.add(**there.take())
    assert (here.ended, here.failed, here.items, here.share) == (30, 15, 30, 0.5)
    assert not here.stop()
    here.add(ended=1, failed=1, items=0)
    assert here.stop()
