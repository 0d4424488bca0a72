from __future__ import annotations

import asyncio
from dataclasses import replace

from flowllm.runtime.invocation import NodeInvocation
from flowllm.runtime.run_context import RunContext
from flowllm.storage.base import NodeRecord
from tests.support.answering import stage
from tests.support.run_attempts import Stage
from tests.support.virtual import run_virtual


def tasks_of(text: str) -> dict[str, str]:
    """In which task each node was carried out."""

    async def main() -> dict[str, str]:
        ready, seen = await Stage().prepare(text), {}
        execute = ready.context.execute

        async def executing(context: RunContext, invocation: NodeInvocation) -> NodeRecord | None:
            seen[invocation.node_id] = asyncio.current_task().get_name()
            return await execute(context, invocation)

        ready.context.execute = executing
        await ready.attempt()
        return seen

    return run_virtual(main())


def test_a_chain_goes_on_in_one_task() -> None:
    seen = tasks_of("""
        steps: {a: {prompt: a}, b: {prompt: "{{ a }}"}, c: {prompt: "{{ b }}"}}
        """)
    assert list(seen) == ["a", "b", "c"]
    assert len(set(seen.values())) == 1


def test_where_several_nodes_become_ready_the_others_get_tasks_of_their_own() -> None:
    seen = tasks_of("""
        steps:
          a: {prompt: a}
          b: {prompt: "b {{ a }}"}
          c: {prompt: "c {{ a }}"}
          d: {prompt: "d {{ a }}"}
        """)
    assert seen["a"] == seen["b"]
    assert len({seen["b"], seen["c"], seen["d"]}) == 3


def test_a_chain_of_a_thousand_steps_does_not_run_out_of_stack() -> None:
    steps = "\n".join(
        ["          s0: {value: 0}", *(f'          s{n}: {{value: "{{{{ s{n - 1} + 1 }}}}"}}' for n in range(1, 1000))]
    )

    async def main() -> object:
        return (await stage().run(f"\n        steps:\n{steps}\n        outputs: {{last: '{{{{ s999 }}}}'}}")).outputs

    assert run_virtual(main()) == {"last": 999}


def test_a_fault_of_ours_in_the_middle_of_a_chain_ends_the_run() -> None:
    """It once left the graph waiting for a node that nobody carried out any more."""

    async def main() -> object:
        ready = await Stage().prepare("steps: {a: {prompt: a}, b: {prompt: '{{ a }}'}, c: {prompt: '{{ b }}'}}")
        execute = ready.context.execute

        async def executing(context: RunContext, invocation: NodeInvocation) -> NodeRecord | None:
            if invocation.node_id == "b":
                raise RuntimeError("a fault")
            return await execute(context, invocation)

        ready.context.execute = executing
        return await ready.attempt()

    ending = run_virtual(main())
    assert (ending.status.value, str(ending.failure)) == ("interrupted", "a fault")
    assert replace(ending, failure=None).outputs == {}
