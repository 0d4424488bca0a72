from __future__ import annotations

import asyncio

import pytest

from flowllm.core.cancel import StopSignal
from flowllm.core.errors import RequestRejected, StorageFailed
from flowllm.core.events import NodeEnded, NodeStarted, StopRequested
from flowllm.core.request import Completion
from flowllm.core.types import AttemptStatus, Limits, NodeStatus, RunStatus
from flowllm.runtime.options import RunOptions
from tests.support.calls import FakeProvider
from tests.support.run_attempts import Stage
from tests.support.virtual import run_virtual

CHAIN = """
    steps:
      a: {prompt: first}
      b: {prompt: "then {{ a }}"}
    outputs: {b: "{{ b }}"}
    """
PYTHON = """
    steps:
      a: {python: "./tools.py:work"}
      b: {value: "{{ a }}"}
    """


def test_a_result_is_on_disk_before_it_is_told_and_before_anything_builds_on_it() -> None:
    async def main() -> None:
        stage, seen = Stage(), []
        ready = await stage.prepare(CHAIN)

        def look(event: object) -> None:
            if isinstance(event, NodeEnded):
                assert stage.store.node_now(event.node_id).status is NodeStatus.SUCCEEDED
            seen.append((type(event).__name__, getattr(event, "node_id", "")))

        ready.on_event = look
        assert (await ready.attempt()).status is RunStatus.SUCCEEDED
        assert seen.index(("NodeEnded", "a")) < seen.index(("NodeStarted", "b"))

    run_virtual(main())


def test_a_step_starts_when_its_own_inputs_are_there_whatever_its_siblings_do() -> None:
    class Uneven(FakeProvider):
        async def complete(self, request: object, *, timeout: float) -> Completion:
            self.latency = 100 if "slow" in request.messages[-1]["content"] else 1
            return await super().complete(request, timeout=timeout)

    async def main() -> None:
        stage = Stage()
        stage.provider = Uneven()
        ready = await stage.prepare(
            """
            steps:
              slow: {prompt: slow}
              quick: {prompt: quick}
              after: {prompt: "after {{ quick }}"}
            """
        )
        await ready.attempt()
        assert ready.ended == ["quick", "after", "slow"]

    run_virtual(main())


@pytest.mark.parametrize("function", ["async def work(): raise asyncio.CancelledError()", "BROKEN"])
def test_code_that_cancels_itself_fails_its_node_and_the_run_ends(function: str) -> None:
    """A CancelledError that nobody asked for once left the run waiting for ever."""

    class Cancelling(FakeProvider):
        async def complete(self, request: object, *, timeout: float) -> Completion:
            raise asyncio.CancelledError

    async def main() -> None:
        stage = Stage()
        stage.provider = Cancelling()
        text = CHAIN if function == "BROKEN" else PYTHON
        ending = await stage.run(text, files={"tools.py": f"import asyncio\n{function}\n"})
        assert ending.status is RunStatus.FAILED
        nodes = await stage.nodes()
        assert (nodes["a"].status, nodes["b"].status) == (NodeStatus.FAILED, NodeStatus.BLOCKED)
        assert "CancelledError" in nodes["a"].error["message"]

    run_virtual(main())


def test_a_fault_in_a_provider_fails_one_node_and_leaves_no_attempt_open() -> None:
    class TemplateSyntaxProblem(FakeProvider):
        async def complete(self, request: object, *, timeout: float) -> Completion:
            raise KeyError("oops")

    async def main() -> None:
        stage = Stage()
        stage.others["broken"] = TemplateSyntaxProblem()
        ending = await stage.run(
            """
            providers: {broken: {type: simulated}}
            steps:
              a: {prompt: a, provider: broken}
              b: {prompt: b}
            """
        )
        nodes = await stage.nodes()
        assert ending.status is RunStatus.FAILED
        assert nodes["a"].error["type"] == "InternalError"
        assert nodes["b"].status is NodeStatus.SUCCEEDED
        (attempt,) = await stage.store.attempts("r1", "a")
        assert attempt.status is AttemptStatus.UNKNOWN

    run_virtual(main())


def test_a_stop_lets_calls_in_flight_finish_and_starts_nothing_new() -> None:
    async def main() -> None:
        stage, stop = Stage(), StopSignal()
        stage.limiter.configure(stage.provider.account, Limits(max_concurrent=2), holder="r1")
        text = "steps:\n" + "".join(f"  s{n}: {{prompt: p{n}}}\n" for n in range(5))
        ready = await stage.prepare(text, stop=stop)
        going = asyncio.create_task(ready.attempt())
        await asyncio.sleep(0.5)
        stop.request("Ctrl-C")
        ending = await going
        assert ending.status is RunStatus.INTERRUPTED
        assert len(stage.provider.sent) == 2
        assert sorted(ready.ended) == ["s0", "s1"]
        (told,) = [event for event in ready.events if isinstance(event, StopRequested)]
        assert told.in_flight == 2, "those that only wait for admission are not in flight"
        assert stop._listeners == {}, "a signal that outlives the run keeps it in memory"

    run_virtual(main())


def test_a_cancel_ends_at_once_and_the_attempt_may_have_been_paid() -> None:
    async def main() -> None:
        stage, stop = Stage(), StopSignal()
        stage.provider.latency = 1000
        ready = await stage.prepare(CHAIN, stop=stop)
        going = asyncio.create_task(ready.attempt())
        await asyncio.sleep(1)
        stop.request("Ctrl-C")
        stop.cancel()
        assert (await going).status is RunStatus.INTERRUPTED
        assert asyncio.get_running_loop().time() < 2
        await stage.calls.drain()
        (attempt,) = await stage.store.attempts("r1")
        assert attempt.status is AttemptStatus.UNKNOWN
        stage.provider.latency = 1
        assert (await stage.run(CHAIN)).outputs == {"b": "answer"}

    run_virtual(main())


def test_what_is_still_in_flight_after_the_grace_is_cancelled() -> None:
    async def main() -> None:
        stage, stop = Stage(), StopSignal()
        stage.provider.latency = 1000
        ready = await stage.prepare(CHAIN, stop=stop, options=RunOptions(grace=7.0))
        asyncio.get_running_loop().call_later(1, stop.request, "SIGTERM")
        assert (await ready.attempt()).status is RunStatus.INTERRUPTED
        assert asyncio.get_running_loop().time() == 8

    run_virtual(main())


def test_a_stop_asked_for_before_the_run_began_sends_nothing() -> None:
    async def main(*, cancel: bool) -> None:
        stage, stop = Stage(), StopSignal()
        stop.cancel() if cancel else stop.request("early")
        assert (await stage.run(CHAIN, stop=stop)).status is RunStatus.INTERRUPTED
        assert stage.provider.sent == []

    run_virtual(main(cancel=False))
    run_virtual(main(cancel=True))


def test_a_python_step_that_waits_for_its_next_attempt_does_not_hold_up_a_stop() -> None:
    async def main() -> None:
        stage, stop = Stage(), StopSignal()
        text = """
            steps:
              a:
                python: ./tools.py:work
                retry: {max_attempts: 9, initial_delay: 50s, max_delay: 50s, jitter: none}
            """
        ready = await stage.prepare(text, stop=stop, files={"tools.py": "async def work(): raise ValueError"})
        asyncio.get_running_loop().call_later(1, stop.request, "Ctrl-C")
        assert (await ready.attempt()).status is RunStatus.INTERRUPTED
        assert asyncio.get_running_loop().time() == 1

    run_virtual(main())


def test_a_failed_step_blocks_its_dependents_only_and_the_run_fails() -> None:
    async def main() -> None:
        stage = Stage()
        stage.provider.script = [RequestRejected("no", status=400)]
        ready = await stage.prepare(
            """
            steps:
              a: {prompt: a}
              b: {prompt: "b {{ a }}"}
              c: {prompt: c}
            outputs: {b: "{{ b }}", c: "{{ c }}"}
            """
        )
        ending = await ready.attempt()
        nodes = await stage.nodes()
        assert ending.status is RunStatus.FAILED
        assert ending.outputs == {"b": None, "c": "answer"}
        assert [nodes[name].status.value for name in "abc"] == ["failed", "blocked", "succeeded"]
        reasons = {e.node_id: e.reason for e in ready.events if isinstance(e, NodeEnded)}
        assert reasons["b"] == "a failed"

    run_virtual(main())


def test_an_output_that_cannot_be_rendered_fails_the_run_and_its_error_shows_no_secret() -> None:
    async def main() -> None:
        stage = Stage(secrets=("canary-1",))
        ending = await stage.run(
            """
            inputs: {name: {type: string}}
            steps:
              a: {value: {x: 1}}
            outputs: {o: "{{ a[inputs.name] }}"}
            """,
            inputs={"name": "canary-1"},
        )
        assert ending.status is RunStatus.FAILED
        assert ending.error["output"] == "o"
        assert "canary" not in str(ending.error)

    run_virtual(main())


def test_a_full_disk_stops_the_run_before_more_is_sent() -> None:
    async def main() -> None:
        stage = Stage()
        commit = stage.store.commit

        async def full(**rows: object) -> None:
            if rows.get("memo") is not None:
                raise StorageFailed("the disk is full")
            await commit(**rows)

        stage.store.commit = full
        ending = await stage.run(CHAIN)
        assert ending.status is RunStatus.INTERRUPTED
        assert isinstance(ending.failure, StorageFailed)
        assert ending.error["message"] == "the disk is full"
        assert len(stage.provider.sent) == 1

    run_virtual(main())


def test_a_run_whose_last_row_is_not_kept_has_not_succeeded() -> None:
    """The row of a `value` is written without anybody waiting for it."""

    async def main() -> None:
        stage = Stage()

        async def full(**rows: object) -> None:
            await asyncio.sleep(1)
            raise StorageFailed("the disk is full")

        stage.store.commit = full
        ending = await stage.run("steps: {a: {value: 1}}\n")
        assert ending.status is RunStatus.INTERRUPTED
        assert isinstance(ending.failure, StorageFailed)

    run_virtual(main())


def test_a_second_run_attempt_reuses_what_holds_and_says_so() -> None:
    async def main() -> None:
        stage = Stage()
        await stage.run(CHAIN)
        ready = await stage.prepare(CHAIN.replace("then", "and then"))
        await ready.attempt()
        assert len(stage.provider.sent) == 3
        reused = {e.node_id: e.reused for e in ready.events if isinstance(e, NodeEnded)}
        assert reused == {"a": True, "b": False}
        assert sum(isinstance(event, NodeStarted) for event in ready.events) == 2

    run_virtual(main())


def test_two_runs_share_a_call_and_one_that_is_cancelled_and_resumed_does_not_take_it_away() -> None:
    """The attempt belongs to the run that paid; when that run was taken up again, its old rows are refused."""

    async def main() -> None:
        stage, stop = Stage(), StopSignal()
        stage.provider.latency = 10
        payer = await stage.prepare("steps: {a: {prompt: same}}\n", run_id="r1", stop=stop)
        other = await stage.prepare("steps: {b: {prompt: same}}\n", run_id="r2")
        first = asyncio.create_task(payer.attempt())
        await asyncio.sleep(1)
        second = asyncio.create_task(other.attempt())
        await asyncio.sleep(1)
        stop.cancel()
        assert (await first).status is RunStatus.INTERRUPTED
        again = asyncio.create_task(stage.run("steps: {a: {prompt: same}}\n", run_id="r1"))
        assert (await second).status is RunStatus.SUCCEEDED
        assert (await again).status is RunStatus.SUCCEEDED
        assert len(stage.provider.sent) == 1

    run_virtual(main())
