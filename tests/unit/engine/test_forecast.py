from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowllm.engine.forecast import Forecaster
from flowllm.plan.graph import Graph
from tests.support.sittings import Stage
from tests.support.virtual import run_virtual

if TYPE_CHECKING:
    from flowllm.engine.forecast import Forecast

TEXT = """
    steps:
      a: {prompt: first}
      b: {prompt: "second {{ a }}"}
      c: {value: "{{ 1 + 1 }}"}
      d: {prompt: "third {{ c }}", samples: 2, max_tokens: 50}
      e: {prompt: fourth, when: "{{ c > 2 }}"}
      f: {prompt: "fifth {{ e }}"}
    """


async def forecast(stage: Stage, text: str = TEXT, **how: object) -> Forecast:
    ready = await stage.scheduler(text, run_id="forecast")
    workflow = ready.scheduler._workflow
    store = how.pop("store", stage.store)
    forecaster = Forecaster(
        workflow, ready.scheduler._run, workflow.steps, backend=ready.backend, store=store, **how
    )
    return await forecaster.forecast("fake", Graph.of(workflow))


def states(found: Forecast) -> dict[str, str]:
    return {node.step: node.state for node in found.nodes}


def test_what_is_not_known_yet_is_said_to_be_unknown() -> None:
    async def main() -> None:
        stage = Stage()
        found = await forecast(stage, store=None)
        assert states(found) == {
            "a": "send", "c": "compute", "b": "maybe", "d": "send", "e": "skipped", "f": "skipped",
        }  # fmt: skip
        why = {node.step: node.why for node in found.nodes}
        assert why["b"] == "after a"
        assert why["e"] == "its `when` is false"
        assert why["f"] == "e is skipped"
        assert (found.requests, found.input_tokens, found.cost_usd) == (4, None, None)
        assert stage.provider.sent == []
        assert found.critical_path == ("a", "b")

    run_virtual(main())


def test_after_a_run_everything_is_cached_and_a_run_then_sends_nothing() -> None:
    async def main() -> None:
        stage = Stage()
        await stage.run(TEXT)
        sent = len(stage.provider.sent)
        found = await forecast(stage)
        assert states(found) == {
            "a": "cached", "b": "cached", "c": "compute", "d": "cached", "e": "skipped", "f": "skipped",
        }  # fmt: skip
        assert (found.requests, found.cost_usd) == (0, 0)
        await stage.run(TEXT, run_id="r2")
        assert len(stage.provider.sent) == sent

    run_virtual(main())


@pytest.mark.parametrize(
    ("edit", "options", "state", "why"),
    [
        (("first", "1st"), {}, "send", "changed: prompt"),
        (("", ""), {"use_memo": False}, "send", "--no-cache"),
        (("", ""), {"refresh": ("a",)}, "send", "asked anew: --refresh"),
        (("prompt: first", "prompt: first, cache: false"), {}, "send", "`cache: false`"),
        (
            ("prompt: first", "prompt: first, cache: {ttl: 1m}"),
            {},
            "send",
            "its answer is no longer in the memo",
        ),
        (("prompt: first", "prompt: '{{ c.nothing }}'"), {}, "error", "nothing"),
    ],
)
def test_why_an_answer_is_not_taken_from_the_memo(
    edit: tuple[str, str], options: dict, state: str, why: str
) -> None:
    async def main() -> None:
        stage = Stage()
        await stage.run(TEXT)
        stage.clock.epoch += 3600
        node = {node.step: node for node in (await forecast(stage, TEXT.replace(*edit), **options)).nodes}[
            "a"
        ]
        assert node.state == state
        assert why in node.why

    run_virtual(main())


def test_the_estimate_is_an_upper_bound_with_every_sample_in_it() -> None:
    async def main() -> None:
        node = {node.step: node for node in (await forecast(Stage())).nodes}["d"]
        assert (node.requests, node.output_tokens) == (2, 100)
        assert node.cost_usd == pytest.approx(0.1)

    run_virtual(main())
