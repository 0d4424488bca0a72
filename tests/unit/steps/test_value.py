from __future__ import annotations

import pytest

from flowllm.core.types import NodeStatus
from tests.support.run_attempts import Stage
from tests.support.virtual import run_virtual


def value(text: str, **inputs: object) -> object:
    async def main() -> object:
        stage = Stage()
        await stage.run(
            f"inputs: {{x: 1, y: {{type: array, default: []}}}}\nsteps:\n  a: {{value: {text}}}\n",
            inputs={"x": 1, "y": [], **inputs},
        )
        node = (await stage.nodes())["a"]
        return node.output if node.status is NodeStatus.SUCCEEDED else node.error

    return run_virtual(main())


def test_an_expression_keeps_its_type_and_text_is_text() -> None:
    assert value('"{{ inputs.y }}"', y=[1, None]) == [1, None]
    assert value('"{{ inputs.x }} {{ inputs.y }}"', y=[1]) == "1 [1]"
    assert value('{n: "{{ inputs.x }}", of: [true, "{{ inputs.x }}!"]}') == {"n": 1, "of": [True, "1!"]}


@pytest.mark.parametrize("text", ['"{{ 1e308 * 10 }}"', '"{{ range }}"', '"{{ namespace(a=1) }}"'])
def test_what_is_no_json_value_is_the_authors_error_not_a_fault_of_the_program(text: str) -> None:
    error = value(text)
    assert error["type"] == "TemplateFailed"
    assert error["message"]


def test_it_calls_nobody_and_costs_nothing() -> None:
    async def main() -> None:
        stage = Stage()
        await stage.run("steps: {a: {value: 1}, b: {value: '{{ a + 1 }}'}}\n")
        nodes = await stage.nodes()
        assert [(nodes[n].output, nodes[n].cost_usd, nodes[n].attempts) for n in "ab"] == [(1, 0, 0), (2, 0, 0)]
        assert await stage.store.attempts("r1") == []

    run_virtual(main())


def test_a_secret_in_it_is_masked_on_disk() -> None:
    async def main() -> str:
        stage = Stage(secrets=("canary-1",))
        await stage.run("inputs: {x: text}\nsteps: {a: {value: '{{ inputs.x }}'}}\n", inputs={"x": "my canary-1"})
        return repr(await stage.nodes())

    assert "canary" not in run_virtual(main())
