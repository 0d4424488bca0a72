from __future__ import annotations

import asyncio
import textwrap

import pytest

from flowllm.core.cancel import StopSignal
from flowllm.core.errors import NodeTimedOut
from flowllm.core.types import RunStatus
from flowllm.runtime.options import RunOptions
from flowllm.steps.pipeline import too_late
from tests.support.run_attempts import Stage
from tests.support.virtual import run_virtual

COUNTING = """
    import asyncio
    calls = []
    async def work(x=0):
        calls.append(x)
        await asyncio.sleep(5)
        return len(calls)
    async def fails(x=0):
        calls.append(x)
        await asyncio.sleep(5)
        raise ValueError(f"call {len(calls)}")
    """


def flow(count: int, options: str, function: str = "work") -> str:
    return "steps:\n" + "".join(
        f"  s{number}: {{python: './tools.py:{function}', with: {{x: 1}}, {options}}}\n" for number in range(count)
    )


def nodes_after(text: str, *, runs: int = 1, options: RunOptions | None = None, code: str = COUNTING) -> dict:
    """The nodes of the last of some runs, by name, and when it ended, in virtual time."""

    async def main() -> dict:
        stage = Stage()
        for number in range(runs):
            files = {"tools.py": textwrap.dedent(code)}
            how = options if number else None
            await stage.run(text, files=files, run_id=f"r{number}", options=how)
        at = asyncio.get_running_loop().time()
        return {**await stage.nodes(f"r{runs - 1}"), "at": at}

    return run_virtual(main())


def test_equal_work_at_the_same_time_is_done_once() -> None:
    nodes = nodes_after(flow(5, "cache: true"))
    assert nodes.pop("at") == 5
    assert {node.output for node in nodes.values()} == {1}
    assert sorted(node.cached for node in nodes.values()) == [False, True, True, True, True]


def test_without_a_cache_each_is_done() -> None:
    nodes = nodes_after(flow(3, "cache: false"))
    assert nodes.pop("at") == 5
    assert all(not node.cached for node in nodes.values())


def test_a_failure_goes_to_all_that_waited_for_it() -> None:
    nodes = nodes_after(flow(5, "cache: true, on_error: continue", "fails"))
    assert nodes.pop("at") == 5, "they were done one after the other"
    assert {node.error["message"].partition(" (")[0] for node in nodes.values()} == {"fails raised ValueError: call 1"}


def test_a_failure_is_not_remembered() -> None:
    code = """
        calls = []
        async def work():
            calls.append(1)
            if len(calls) == 1: raise ValueError
            return "made it"
        """
    text = """
        steps:
          a: {python: "./tools.py:work", cache: true, on_error: continue}
          c: {value: "{{ steps.a.status }}"}
          b: {python: "./tools.py:work", cache: true, needs: [c]}
        """
    nodes = nodes_after(text, code=code)
    assert (nodes["a"].error["type"], nodes["b"].output) == ("PythonFailed", "made it")


def test_what_is_to_be_refreshed_is_done_anew_and_kept() -> None:
    nodes = nodes_after(flow(2, "cache: true"), runs=2)
    assert [nodes[name].cached for name in ("s0", "s1")] == [True, True]
    nodes = nodes_after(flow(2, "cache: true"), runs=2, options=RunOptions(refresh=("s0",)))
    assert [nodes[name].cached for name in ("s0", "s1")] == [False, True]
    nodes = nodes_after(flow(2, "cache: true"), runs=2, options=RunOptions(no_cache=True))
    assert [nodes[name].cached for name in ("s0", "s1")] == [False, False]


@pytest.mark.parametrize(("ttl", "cached"), [("6s", True), ("4s", False)])
def test_an_answer_that_is_too_old_is_not_taken(ttl: str, cached: bool) -> None:
    """The second run comes to the step 5 s after the first had its answer."""
    text = flow(1, f"cache: {{ttl: {ttl}}}, needs: [before]") + "  before: {python: './tools.py:work', with: {x: 2}}\n"
    assert nodes_after(text, runs=2)["s0"].cached is cached


def test_those_that_wait_for_equal_work_have_its_result_though_the_run_stops_meanwhile() -> None:
    async def main() -> tuple[RunStatus, list[int]]:
        stage, stop = Stage(), StopSignal()
        files = {"tools.py": textwrap.dedent(COUNTING)}
        ready = await stage.prepare(flow(3, "cache: true"), files=files, stop=stop)
        going = asyncio.create_task(ready.attempt())
        await asyncio.sleep(1)
        stop.request("Ctrl-C")
        status = (await going).status
        return status, [node.output for node in (await stage.nodes()).values()]

    status, done = run_virtual(main())
    assert status is RunStatus.SUCCEEDED
    assert done == [1, 1, 1], "one call, which was under way"


def test_attempts_are_on_record_with_what_became_of_them_and_count_as_no_requests() -> None:
    code = """
        import asyncio
        calls = []
        async def work(x):
            calls.append(x)
            await asyncio.sleep(5)
            if len(calls) == 1: raise ValueError("first")
            return "made it"
        """

    async def main() -> None:
        stage = Stage()
        options = "retry: {max_attempts: 3, initial_delay: 1s, jitter: none, multiplier: 1}"
        files = {"tools.py": textwrap.dedent(code)}
        await stage.run(flow(1, f"cache: true, {options}"), files=files)
        first, second = await stage.store.attempts("r1", "s0")
        assert [(one.number, one.status, one.provider, one.model) for one in (first, second)] == [
            (1, "failed", "python", ""),
            (2, "succeeded", "python", ""),
        ]
        assert "first" in first.error["message"]
        assert second.started_at - first.finished_at == 1
        spend = await stage.store.spend("r1")
        assert (spend.requests, spend.usd, spend.tokens) == (0, 0.0, 0)
        assert (await stage.nodes())["s0"].attempts == 2
        await stage.run(flow(1, f"cache: true, {options}"), files=files, run_id="r2")
        assert await stage.store.attempts("r2") == [], "answered from the cache"

    run_virtual(main())


def test_an_attempt_of_limited_length_is_followed_by_another() -> None:
    options = "retry: {max_attempts: 3, attempt_timeout: 2s, initial_delay: 1s, jitter: none, multiplier: 1}"
    nodes = nodes_after(flow(1, options))
    assert nodes["at"] == 2 + 1 + 2 + 1 + 2
    assert nodes["s0"].error["type"] == "NodeTimedOut"
    assert "`retry.attempt_timeout`" in nodes["s0"].error["hint"]


@pytest.mark.parametrize("attempt", [True, False])
def test_what_took_too_long_may_be_tried_again_only_if_there_is_time_left(attempt: bool) -> None:
    error = too_late("it did not answer", 1.5, "it was killed", attempt=attempt)
    assert isinstance(error, NodeTimedOut)
    assert error.retryable is attempt
    assert error.message == "it did not answer within 1.5 s"
    assert ("attempt_timeout" in error.hint) is attempt
