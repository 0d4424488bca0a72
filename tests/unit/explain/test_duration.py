"""When a plan says that a run is over is held against the run, in virtual time."""

from __future__ import annotations

import textwrap

import pytest

from flowllm.app.result import RunResult
from flowllm.explain.forecast import Forecast
from flowllm.explain.load import Calls, Lane, Lanes, Many, Parts
from flowllm.explain.timing import MOST_SIMULATED, timetable
from flowllm.runtime.options import RunOptions
from tests.support.virtual import LoopClock, run_virtual
from tests.support.virtual_app import opened
from tests.support.workflows import workflow

HEAD = """
defaults: {provider: sim, model: m, max_tokens: 100}
providers: {sim: {type: simulated, latency: 800ms}}
"""
SPREAD = HEAD.replace("800ms", "800ms, latency_sigma: 0.4")
FLOWS = {
    "chain": """
        steps: {a: {prompt: one}, b: {prompt: "two {{ a }}"}, c: {prompt: "three {{ b }}", samples: 3}}""",
    "slots": """
        limits: {max_concurrent: 10}
        steps: {a: {foreach: "{{ range(55) | list }}", prompt: "{{ item }}"}, b: {prompt: "x {{ a | length }}"}}""",
    "found": """
        steps: {a: {foreach: "{{ range(200) | list }}", prompt: "{{ item }}"}}""",
    "rate": """
        limits: {requests_per_minute: 120, max_concurrent: 50}
        steps: {a: {foreach: "{{ range(90) | list }}", prompt: "{{ item }}"}}""",
    "tokens": """
        limits: {tokens_per_minute: 9000, max_concurrent: 50}
        steps: {a: {foreach: "{{ range(160) | list }}", prompt: "say {{ item }} a b c"}}""",
    "window": """
        limits: {max_concurrent: 50, windows: [{requests: 10, per: 5s}]}
        steps: {a: {foreach: "{{ range(50) | list }}", prompt: "{{ item }}"}}""",
    "side by side": """
        limits: {max_concurrent: 8}
        steps:
          a: {foreach: "{{ range(40) | list }}", prompt: "a {{ item }}"}
          b: {foreach: "{{ range(40) | list }}", prompt: "b {{ item }}", max_concurrent: 3}
          c: {prompt: "c {{ b | length }}"}
          d: {prompt: "d {{ c }}"}""",
    "graphs": """
        limits: {max_concurrent: 10}
        steps:
          g:
            foreach: "{{ range(23) | list }}"
            with: {n: "{{ item }}"}
            workflow:
              inputs: {n: {type: integer}}
              steps: {a: {prompt: "a {{ inputs.n }}"}, b: {prompt: "b {{ a }}"}, c: {prompt: "c {{ a }}", samples: 3}}
              outputs: {c: "{{ c }}"}
          z: {prompt: "z {{ g | length }}"}""",
    "spread": """
        limits: {max_concurrent: 20, models: {slow: {requests_per_minute: 120}}}
        steps:
          a: {foreach: "{{ range(60) | list }}", prompt: "a {{ item }}", max_concurrent: 10}
          b: {foreach: "{{ range(20) | list }}", prompt: "{{ a | length }} b {{ item }}"}
          c: {foreach: "{{ range(20) | list }}", prompt: "{{ b | length }} c {{ item }}"}
          s: {foreach: "{{ range(16) | list }}", prompt: "s {{ item }}", model: slow}""",
    "embeddings": """
        steps: {e: {foreach: "{{ range(300) | list }}", embed: "text {{ item }}", batch: {size: 50}}}""",
}


@pytest.mark.parametrize("name", FLOWS)
def test_a_run_takes_as_long_as_its_plan_says(name: str) -> None:
    planned, done = _both(FLOWS[name], SPREAD if name == "spread" else HEAD)
    assert planned.seconds == pytest.approx(done.stats["duration_s"], rel=0.15)
    assert (planned.when.quickest < planned.seconds < planned.when.slowest) is (name == "spread")


def test_the_path_is_that_of_the_steps_which_end_last() -> None:
    planned, _ = _both(FLOWS["side by side"])
    assert planned.critical_path == ("b", "c", "d")
    ends = {node.step: (node.begins, node.ends) for node in planned.nodes}
    assert ends["b"][1] == ends["c"][0]
    assert ends["d"][1] == planned.seconds


def _both(text: str, head: str = HEAD) -> tuple[Forecast, RunResult]:
    async def main() -> tuple[Forecast, RunResult]:
        app, flow = opened(LoopClock()), workflow(head + textwrap.dedent(text))
        planned = await app.forecast(flow)
        return planned, await app.run(flow)

    return run_virtual(main())


def test_a_later_plan_knows_how_long_requests_took() -> None:
    async def main() -> None:
        app = opened(LoopClock())
        await app.run(workflow(HEAD + textwrap.dedent(FLOWS["chain"])))
        faster = workflow((HEAD + textwrap.dedent(FLOWS["chain"])).replace("800ms", "1ms"))
        again = await app.forecast(faster, options=RunOptions(no_cache=True))
        assert again.seconds == pytest.approx(2.4)

    run_virtual(main())


def test_many_requests_are_simulated_as_fewer() -> None:
    one = Calls(count=1, seconds=(2.0,), provider="p")
    graph = Parts(parts={"all": Many(items=[one], count=1_000_000)}, needs={})
    found = timetable(graph, Lanes(whole={"p": Lane(slots=50)}))
    assert found.seconds == pytest.approx(1_000_000 / 50 * 2.0, rel=0.01)
    rated = timetable(graph, Lanes(whole={"p": Lane(requests_per_second=100.0)}))
    assert rated.seconds == pytest.approx(10_000, rel=0.02)
    assert MOST_SIMULATED < 100_000
    unknown = Parts(parts={"all": Calls(count=1)}, needs={})
    assert timetable(unknown, Lanes()).seconds is None
