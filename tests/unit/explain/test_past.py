"""What earlier runs tell of later ones."""

from __future__ import annotations

import pytest

from flowllm.core.records import replace
from flowllm.core.types import AttemptStatus
from flowllm.explain.estimate import Estimate
from flowllm.explain.forecast import Forecast
from flowllm.runtime.options import RunOptions
from tests.support import records
from tests.support.virtual import LoopClock, run_virtual
from tests.support.virtual_app import opened
from tests.support.workflows import workflow

FLOW = """
    name: past
    inputs: {topic: tea}
    defaults: {provider: sim, model: m, max_tokens: 400}
    providers: {sim: {type: simulated, latency: 1s}}
    steps:
      list: {prompt: "List on {{ inputs.topic }}", output: {type: array, items: {type: string}, maxItems: 9}}
      each: {foreach: "{{ list }}", prompt: "On {{ item }}"}
      perhaps: {when: "{{ list | length > 100 }}", prompt: "Too long {{ list }}"}
      first: {foreach: "{{ inputs.topic.split(' ') }}", prompt: "{{ item }}?", accept: {when: "{{ true }}", count: 1}}
      graph:
        with: {text: "{{ list[0] }}"}
        workflow:
          inputs: {text: {type: string}}
          steps: {inner: {prompt: "Within {{ inputs.text }}"}}
    """


def _steps(found: Forecast) -> dict[str, Estimate]:
    return {node.step: node.estimate for node in found.nodes}


def test_items_and_skipped_steps_are_expected_as_they_were() -> None:
    async def main() -> None:
        app, flow = opened(LoopClock()), workflow(FLOW)
        before = _steps(await app.forecast(flow))
        assert before["each"].takes.requests.expected is None
        assert (before["each"].requests, before["each"].per_item.requests.high_once) == (9, 1)
        assert (before["perhaps"].takes.requests.expected, before["perhaps"].basis) == (
            1,
            "answers as long as max_tokens allows",
        )
        done = await app.run(flow)
        again = await app.forecast(flow, inputs={"topic": "milk and tea"}, options=RunOptions(no_cache=True))
        steps = _steps(again)
        items = done.steps["each"].counts["total"]
        assert (steps["each"].takes.requests.expected, steps["each"].basis) == (items, f"{items} earlier calls")
        assert (steps["perhaps"].takes.requests.expected, steps["perhaps"].requests) == (0, 1)
        assert steps["first"].takes.requests.expected == 1, "one of one was accepted"
        used = done.steps["list"].usage
        assert steps["list"].takes.output_tokens.expected == used.output_tokens
        assert steps["list"].takes.input_tokens.expected == pytest.approx(used.input_tokens, abs=4)
        assert again.seconds == pytest.approx(2.0)

    run_virtual(main())


def test_steps_within_and_rows_have_a_past_too() -> None:
    async def main() -> None:
        app, flow = opened(LoopClock()), workflow(FLOW)
        await app.run(flow)
        anew = RunOptions(refresh=("list",))
        inner = _steps(await app.forecast(flow, options=anew))["graph"].within["inner"]
        assert inner.basis == "1 earlier call"
        past = await app.store.past_attempts("past", "graph.inner", limit=10)
        assert [one.node_id for one in past] == ["graph.inner"]
        run = await app.store.create_run(records.run("stopped", workflow="past", owner=records.ME))
        lease = records.lease_of(run)
        unsent = replace(past[0], attempt_id="unsent", run_id=run.run_id, status=AttemptStatus.NOT_SENT)
        await app.store.begin_attempt(lease, unsent)
        await app.store.commit(attempt=unsent, attempt_lease=lease)
        assert await app.store.past_attempts("past", "graph.inner", limit=10) == past
        assert await app.store.past_attempts("past", "graph", limit=10) == []
        assert await app.store.past_attempts("other", "graph.inner", limit=10) == []
        each = await app.store.past_attempts("past", "each", limit=2)
        assert len(each) == 2
        assert {one.value for one in await app.store.past_statuses("past", "perhaps", limit=10)} == {"skipped"}

    run_virtual(main())


def test_an_output_without_a_schema_is_expected_to_look_as_it_did() -> None:
    async def main() -> None:
        app = opened(LoopClock())
        flow = workflow("""
            defaults: {provider: sim, model: m, max_tokens: 50}
            providers: {sim: {type: simulated}}
            steps:
              a: {prompt: "As JSON", output: json}
              b: {prompt: "On {{ a.title }} and {{ a.summary }}"}
            """)
        first = _steps(await app.forecast(flow))["b"]
        assert (first.takes.input_tokens.expected, first.takes.input_tokens.high) == (None, None)
        done = await app.run(flow)
        later = _steps(await app.forecast(flow, options=RunOptions(refresh=("a",))))["b"].takes.input_tokens
        assert later.expected == done.steps["b"].usage.input_tokens
        assert 50 < later.high_once < 200, "the answer has 50 tokens at most, whatever is in it"

    run_virtual(main())


def test_a_first_run_leans_on_the_answers_of_its_model_to_others_and_on_schemas() -> None:
    async def main() -> None:
        app, sim = opened(LoopClock()), "providers: {sim: {type: simulated, latency: 1s}}"
        await app.run(workflow(sim + "\nsteps: {a: {prompt: one, provider: sim, model: m, max_tokens: 400}}"))
        used = (await app.store.past_answers("sim", "m", limit=5))[0].usage.output_tokens
        text = f"""
            name: other
            defaults: {{provider: sim, model: m}}
            {sim}
            steps:
              text: {{prompt: two, max_tokens: 100}}
              open: {{prompt: three}}
              bool: {{prompt: four, output: {{type: boolean}}, max_tokens: 400}}
              json: {{prompt: five, output: {{type: array, items: {{type: string}}}}, max_tokens: 400}}
            """
        flow = workflow(text)
        found = _steps(await app.forecast(flow))
        lengths = {name: one.takes.output_tokens for name, one in found.items()}
        assert lengths["text"].expected == pytest.approx(used / 4), "the same share of max_tokens"
        assert (lengths["open"].expected, lengths["open"].high) == (used, None)
        assert found["text"].basis == found["open"].basis == "1 other answer of m"
        assert (lengths["bool"].expected, lengths["bool"].high_once, found["bool"].basis) == (1.0, 400, "the schema")
        assert (lengths["json"].expected, found["json"].basis) == (400, "answers as long as max_tokens allows")
        await app.run(flow)
        found = _steps(await app.forecast(workflow(text.replace("model: m", "model: n"))))
        assert (found["text"].basis, found["bool"].basis) == ("1 earlier call to m", "1 earlier call to m")

    run_virtual(main())


def test_a_function_that_asks_is_expected_to_ask_as_often() -> None:
    async def main() -> None:
        app = opened(LoopClock())
        files = {"ask.py": "async def both(ask):\n    return [await ask('one'), await ask('two')]\n"}
        flow = workflow(
            """
            defaults: {provider: sim, model: m, max_tokens: 50}
            providers: {sim: {type: simulated}}
            steps: {a: {python: "./ask.py:both", asks: true}}
            """,
            files=files,
        )
        before = _steps(await app.forecast(flow))["a"].takes
        assert (before.requests.expected, before.requests.high) == (None, None)
        await app.run(flow)
        after = _steps(await app.forecast(flow, options=RunOptions(no_cache=True)))["a"]
        assert (after.takes.requests.expected, after.takes.requests.high) == (2, None)
        assert after.basis == "2 earlier calls by functions"

    run_virtual(main())
