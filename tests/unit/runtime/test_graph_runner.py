from __future__ import annotations

import asyncio
from dataclasses import replace

from flowllm.core.events import NodeEnded
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


VALUES = """
        steps:
          a: {prompt: a}
          b: {value: "{{ a }}!"}
          c: {value: "{{ b }} {{ 1 }}", when: "{{ b != 'x' }}"}
          d: {prompt: "{{ c }}"}
          e: {value: "{{ c + 1 }}", on_error: continue}
        """


def test_what_only_computes_takes_no_task_and_cuts_no_chain() -> None:
    seen = tasks_of(VALUES)
    assert list(seen) == ["a", "d"]
    assert len(set(seen.values())) == 1


def test_what_was_computed_before_is_reused_where_it_holds_without_a_task_too() -> None:
    async def main() -> list[tuple[str, str, bool]]:
        made = Stage()
        text = """
            steps:
              a: {value: 1}
              b: {value: "{{ a + 1 }}"}
              c: {foreach: [1, 2], value: "{{ b + item }}"}
              d: {value: "{{ c.x }}"}
            """
        await made.run(text)
        ready = await made.prepare(text)
        execute = ready.context.execute

        async def executing(context: RunContext, invocation: NodeInvocation) -> NodeRecord | None:
            assert invocation.node_id == "c"
            return await execute(context, invocation)

        ready.context.execute = executing
        await ready.attempt()
        ended = [event for event in ready.events if isinstance(event, NodeEnded)]
        return [(event.node_id, event.status.value, event.reused) for event in ended]

    again = [(name, "succeeded", True) for name in ("a", "b", "c[0]", "c[1]", "c")]
    assert run_virtual(main()) == [*again, ("d", "failed", False)]


def many(count: int) -> str:
    steps = "".join(f"\n          s{n}: {{value: '{{{{ root }}}} {n}'}}" for n in range(count))
    return f"\n        steps:\n          root: {{value: 1}}{steps}\n        outputs: {{last: '{{{{ s{count - 1} }}}}'}}"


def test_many_that_only_compute_let_others_have_their_turn() -> None:
    async def main() -> tuple[object, int, int]:
        made, turns = stage(), 0
        ready = await made.prepare(many(1000))

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(other())
        outcome = await ready.attempt()
        ticking.cancel()
        return outcome.outputs, len(await made.nodes()), turns

    outputs, nodes, turns = run_virtual(main())
    assert (outputs, nodes) == ({"last": "1 999"}, 1001)
    assert turns >= 5  # some 200 in a turn


def test_those_that_have_not_had_their_turn_when_the_run_is_cancelled_have_no_outcome() -> None:
    async def main() -> tuple[str, int]:
        made = stage()
        ready = await made.prepare(many(1000))
        going = asyncio.create_task(ready.attempt())
        for _ in range(3):
            await asyncio.sleep(0)
        ready.context.tasks.cancel()
        return (await going).status.value, len(await made.nodes())

    status, nodes = run_virtual(main())
    assert status == "interrupted"
    assert 0 < nodes < 1001


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
