from __future__ import annotations

import asyncio
import textwrap

import pytest

from flowllm.core.cancel import StopSignal
from flowllm.core.errors import RequestRejected, ServerFailed
from flowllm.core.events import RequestSent
from flowllm.core.types import Limits, NodeStatus, RunStatus
from tests.support.run_attempts import Stage
from tests.support.virtual import run_virtual

FLOW = """
    defaults: {retry: {max_attempts: 1}}
    steps:
      a:
        python: ./tools.py:work
        asks: true
"""


def flow(more: str = "", text: str = FLOW) -> str:
    return textwrap.dedent(text) + textwrap.indent(textwrap.dedent(more), "    ")


async def ran(stage: Stage, code: str, more: str = "", text: str = FLOW, **how: object) -> dict:
    files = {"tools.py": textwrap.dedent(code)}
    await stage.run(flow(more, text), files=files, **how)
    return await stage.nodes()


async def within(stage: Stage, node: str = "a") -> dict:
    return {one.node_id: one for one in await stage.store.nodes("r1", node)}


def test_questions_are_nodes_of_their_own_in_the_order_of_the_calls_and_their_sums_are_the_steps() -> None:
    async def main() -> None:
        stage = Stage()
        stage.provider.script = ["one", "two", "three"]
        code = """
            import asyncio
            async def work(ask):
                first = ask("first {{ 1 }}", system="s")
                rest = [ask(f"{n}") for n in range(2)]
                return await asyncio.gather(*rest, first)
            """
        node = (await ran(stage, code))["a"]
        asked = await within(stage)
        assert sorted(asked) == ["a.ask[0]", "a.ask[1]", "a.ask[2]"]
        assert asked["a.ask[0]"].parts["body"]["messages"] == [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "first {{ 1 }}"},
        ]
        assert node.output == [asked["a.ask[1]"].output, asked["a.ask[2]"].output, asked["a.ask[0]"].output]
        assert sorted(node.output) == ["one", "three", "two"]
        assert (node.usage.input_tokens, node.usage.output_tokens, node.cost_usd) == (9, 15, 0.015)
        assert node.attempts == 1
        assert {one.kind for one in asked.values()} == {"prompt"}

    run_virtual(main())


def test_a_plain_function_waits_in_its_thread_also_where_one_request_at_a_time_is_allowed() -> None:
    async def main() -> None:
        stage = Stage()
        stage.provider.latency = 0.0
        stage.limiter.configure(stage.provider.account, Limits(max_concurrent=1), holder=stage)
        text = FLOW.replace("a:\n", "a:\n        foreach: '{{ range(100) }}'\n        with: {n: '{{ item }}'}\n")
        code = "def work(n, ask): return [ask(f'{n} a'), ask(f'{n} b')]"
        node = (await ran(stage, code, text=text))["a"]
        assert node.status is NodeStatus.SUCCEEDED
        assert node.counts.succeeded == 100
        assert stage.provider.peak == 1
        assert len(stage.provider.sent) == 200
        assert node.usage.input_tokens == 600
        assert set(await within(stage, "a[7]")) == {"a[7].ask[0]", "a[7].ask[1]"}

    asyncio.run(main())


def test_it_can_be_asked_from_threads_and_loops_of_the_functions_own() -> None:
    async def main() -> None:
        code = """
            import asyncio
            from concurrent.futures import ThreadPoolExecutor
            async def two(ask): return await asyncio.gather(ask("a"), ask("b"))
            def work(ask):
                with ThreadPoolExecutor() as pool:
                    return [asyncio.run(two(ask)), list(pool.map(ask, "cd"))]
            """
        stage = Stage()
        stage.provider.latency = 0.0
        node = (await ran(stage, code))["a"]
        assert node.output == [["answer"] * 2] * 2
        assert set(await within(stage)) == {f"a.ask[{number}]" for number in range(4)}

    asyncio.run(main())


def test_what_was_answered_is_not_asked_again_by_a_retry_nor_by_a_resume_even_without_a_memo() -> None:
    async def main() -> None:
        stage, stop = Stage(), StopSignal()
        code = """
            calls = []
            async def work(ask):
                calls.append(await ask("one"))
                if len(calls) < 2: raise ValueError("again")
                return [calls[-1], await ask("two"), await ask("three")]
            """
        more = "retry: {max_attempts: 2, initial_delay: 1s, jitter: none}"
        text = FLOW.replace("{max_attempts: 1}", "{max_attempts: 1}, cache: false")
        asyncio.get_running_loop().call_later(2.5, stop.request, "Ctrl-C")
        files = {"tools.py": textwrap.dedent(code)}
        ready = await stage.prepare(flow(more, text), files=files, stop=stop)
        ending = await ready.attempt()
        assert ending.status is RunStatus.INTERRUPTED
        assert await stage.nodes() == {}
        assert [request.messages[0]["content"] for _, request in stage.provider.sent] == ["one", "two"]
        node = (await ran(stage, code, more, text))["a"]
        assert node.output == ["answer"] * 3
        assert [request.messages[0]["content"] for _, request in stage.provider.sent] == ["one", "two", "three"]
        assert {one.reused for one in (await within(stage)).values()} == {False}

    run_virtual(main())


@pytest.mark.parametrize("handling", ["", "except Exception: return 'lost'", "except BaseException: return 'lost'"])
def test_after_the_first_signal_nothing_is_asked_and_nothing_comes_of_the_step_whatever_it_catches(
    handling: str,
) -> None:
    async def main() -> None:
        stage, stop = Stage(), StopSignal()
        code = f"""
            async def work(ask):
                try:
                    await ask("one")
                    return await ask("two")
                {handling or "finally: pass"}
            """
        asyncio.get_running_loop().call_later(0.5, stop.request, "Ctrl-C")
        ready = await stage.prepare(flow(), files={"tools.py": textwrap.dedent(code)}, stop=stop)
        ending = await ready.attempt()
        assert ending.status is RunStatus.INTERRUPTED
        assert await stage.nodes() == {}
        assert len(stage.provider.sent) == 1
        assert (await within(stage))["a.ask[0]"].output == "answer"

    run_virtual(main())


def test_a_second_signal_cancels_it_and_the_attempt_is_told_as_unknown() -> None:
    async def main() -> None:
        stage, stop = Stage(), StopSignal()
        loop = asyncio.get_running_loop()
        loop.call_later(0.4, stop.request, "Ctrl-C")
        loop.call_later(0.5, stop.cancel)
        code = "async def work(ask): return await ask('one')"
        ready = await stage.prepare(flow(), files={"tools.py": code}, stop=stop)
        ending = await ready.attempt()
        assert ending.status is RunStatus.INTERRUPTED
        attempts = await stage.store.attempts("r1")
        assert [(one.node_id, one.status) for one in attempts] == [("a", "unknown"), ("a.ask[0]", "unknown")]

    run_virtual(main())


def test_a_question_without_an_answer_raises_what_can_be_caught_and_fails_the_step_with_what_was_paid() -> None:
    async def main() -> None:
        code = """
            from flowllm import AskFailed
            async def work(ask):
                good = await ask("good")
                try:
                    await ask("bad")
                except AskFailed as error:
                    if {caught}: return [good, error.kind]
                    raise
            """
        for caught in (True, False):
            stage = Stage()
            stage.provider.script = ["good", ServerFailed("down")]
            node = (await ran(stage, code.replace("{caught}", str(caught))))["a"]
            failed = (await within(stage))["a.ask[1]"]
            assert failed.status is NodeStatus.FAILED
            assert failed.error["type"] == "ServerFailed"
            assert node.usage.input_tokens == 3
            if caught:
                assert node.output == ["good", "ServerFailed"]
            else:
                assert "raised AskFailed: ServerFailed: down (tools.py:6, in work" in node.error["message"]

    run_virtual(main())


def test_waiting_for_an_answer_does_not_count_against_the_functions_timeout() -> None:
    async def main() -> None:
        stage = Stage()
        stage.provider.latency = 30.0
        code = "async def work(ask): return await ask('slow')"
        assert (await ran(stage, code, "timeout: 5s"))["a"].output == "answer"
        stage.provider.script = [ServerFailed("down")]
        again = "timeout: 5s\nretry: {max_attempts: 2, initial_delay: 1s, jitter: none}"
        code = code.replace("slow", "slow too")
        assert (await ran(stage, code, again, run_id="r2")) is not None
        assert (await stage.nodes("r2"))["a"].output == "answer"
        began = asyncio.get_running_loop().time()
        stage = Stage()
        code = """
            import asyncio
            async def work(ask):
                await ask("slow")
                await asyncio.sleep(6)
            """
        error = (await ran(stage, code, "timeout: 5s"))["a"].error
        assert error["type"] == "NodeTimedOut"
        assert asyncio.get_running_loop().time() - began == 1 + 5

    run_virtual(main())


def test_what_nobody_waits_for_is_broken_off_with_the_step() -> None:
    async def main() -> None:
        stage = Stage()
        code = """
            import asyncio
            async def work(ask):
                task = asyncio.ensure_future(ask("left alone"))
                try:
                    await asyncio.wait_for(ask("too slow"), 0.5)
                except TimeoutError:
                    return "gone on"
            """
        node = (await ran(stage, code))["a"]
        assert node.output == "gone on"
        assert stage.provider.in_flight == 0
        assert asyncio.get_running_loop().time() == 0.5

    run_virtual(main())


def test_output_model_and_other_options_are_over_the_defaults() -> None:
    async def main() -> None:
        stage = Stage()
        stage.provider.script = ['{"n": "x"}', '{"n": 1}', "[1]"]
        code = """
            SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
            async def work(ask):
                first = await ask("q", output=SCHEMA, model="other", temperature=0.5)
                first["n"] += 1
                again = await ask("q", output=SCHEMA, model="other", temperature=0.5)
                return [first, again, await ask(messages=[{"role": "user", "content": "r"}], output="json")]
            """
        text = FLOW.replace("{retry", "{max_tokens: 9, retry")
        node = (await ran(stage, code, text=text))["a"]
        assert node.output == [{"n": 2}, {"n": 1}, [1]]
        first, repaired, last = (request for _, request in stage.provider.sent)
        assert (first.model, dict(first.params)) == ("other", {"max_tokens": 9, "temperature": 0.5})
        assert len(repaired.messages) > len(first.messages)
        assert last.model == "m"
        assert (await within(stage))["a.ask[1]"].cached

    run_virtual(main())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("ask()", "either a prompt or messages"),
        ("ask('q', messages=[])", "either a prompt or messages"),
        ("ask('q', modell='m')", "no argument 'modell'"),
        ("ask('q', output=[1])", "neither `json` nor a JSON Schema"),
        ("ask('q', output={'type': 'strin'})", "output"),
        ("ask('q', model=3)", "takes a name"),
        ("ask({1})", "a set"),
        ("ask(messages=['x'])", "messages"),
    ],
)
def test_arguments_that_do_not_go_are_told_at_the_call(call: str, said: str) -> None:
    async def main() -> None:
        stage = Stage()
        node = (await ran(stage, f"async def work(ask): return await {call}"))["a"]
        assert said in node.error["message"]
        assert not stage.provider.sent

    run_virtual(main())


def test_the_key_of_a_cached_step_has_the_defaults_and_a_second_run_asks_nothing() -> None:
    async def main() -> None:
        stage = Stage()
        code, text = ("async def work(ask): return await ask('q')", FLOW.replace("{retry", "{max_tokens: 11, retry"))
        await ran(stage, code, "cache: true", text)
        await ran(stage, code, "cache: true", text, run_id="r2")
        assert (await stage.nodes("r2"))["a"].cached
        await ran(stage, code, "cache: true", text.replace("11", "12"), run_id="r3")
        assert not (await stage.nodes("r3"))["a"].cached
        assert len(stage.provider.sent) == 2

    run_virtual(main())


def test_a_budget_that_is_used_up_pauses_the_run_and_not_only_the_question() -> None:
    async def main() -> None:
        stage = Stage()
        code = """
            async def work(ask):
                found = []
                for n in range(9):
                    try: found.append(await ask(f"{n}"))
                    except Exception: found.append(None)
                return found
            """
        text = "budget: {tokens: 30}\n" + textwrap.dedent(FLOW).replace("{retry", "{max_tokens: 10, retry")
        files = {"tools.py": textwrap.dedent(code)}
        ending = await stage.run(text, files=files)
        assert ending.status is RunStatus.PAUSED
        assert await stage.nodes() == {}
        assert 0 < len(stage.provider.sent) < 9

    run_virtual(main())


def test_requests_are_told_of_the_question_and_a_rejected_one_is_not_sent_twice() -> None:
    async def main() -> None:
        stage = Stage()
        stage.provider.script = [RequestRejected("no")]
        files = {"tools.py": "async def work(ask): return await ask('q')"}
        ready = await stage.prepare(flow(), files=files)
        await ready.attempt()
        assert [event.node_id for event in ready.events if isinstance(event, RequestSent)] == ["a.ask[0]"]
        assert ready.ended == ["a.ask[0]", "a"]

    run_virtual(main())
