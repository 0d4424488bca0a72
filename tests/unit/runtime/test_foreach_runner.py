"""Items on their way through a foreach, on a virtual clock."""

from __future__ import annotations

import asyncio

from flowllm.core.cancel import StopSignal
from flowllm.core.errors import RequestRejected
from flowllm.core.events import FanOutStarted, NodeEnded, NodeStarted
from flowllm.core.types import NodeStatus
from tests.support.answering import Told, sit, stage
from tests.support.virtual import run_virtual


def play(text: str, answer: object = "re: {}".format, **how: object) -> Told:
    async def main() -> Told:
        return await sit(stage(answer), text, **how)

    return run_virtual(main())


def test_items_refill_the_window_one_by_one_and_end_in_input_order_in_the_output() -> None:
    async def main() -> None:
        made = stage(lambda prompt: (10.0 if prompt == "0" else 1.0, prompt))
        told = await sit(
            made,
            """
            steps: {a: {foreach: [0, 1, 2, 3, 4], max_concurrent: 2, prompt: "{{ item }}"}}
            outputs: {a: "{{ a }}"}
            """,
        )
        assert made.provider.peak == 2
        assert [made.provider.at(str(item)) for item in range(5)] == [0, 0, 1, 2, 3]
        assert told.outputs == {"a": ["0", "1", "2", "3", "4"]}

    run_virtual(main())


def test_each_item_is_started_and_ended_once_in_events_and_the_foreach_last() -> None:
    told = play("steps: {a: {foreach: [x, y], prompt: '{{ item }}'}}")
    started = [event.node_id for event in told.events if isinstance(event, NodeStarted)]
    ended = [event.node_id for event in told.events if isinstance(event, NodeEnded)]
    assert started == ["a", "a[0]", "a[1]"]
    assert ended == ["a[0]", "a[1]", "a"]
    (fan_out,) = [event for event in told.events if isinstance(event, FanOutStarted)]
    assert fan_out.total == 2


def test_an_item_that_fails_fails_the_foreach_unless_it_is_tolerated() -> None:
    def answer(prompt: str) -> str | Exception:
        return RequestRejected("refused") if prompt == "y" else prompt

    step = "foreach: [x, y, z], prompt: '{{ item }}'"
    strict, lenient = (
        play(f"steps: {{a: {{{step}}}}}", answer),
        play(f"steps: {{a: {{{step}, on_error: continue}}}}\noutputs: {{a: '{{{{ a }}}}'}}", answer),
    )
    assert (strict.status, strict.nodes["a"].counts.failed, len(strict.asked)) == ("failed", 1, 3)
    assert strict.nodes["a"].error["message"].startswith("1 of 3 items failed; a[1]: refused")
    assert (lenient.status, lenient.outputs) == ("succeeded", {"a": ["x", None, "z"]})


def test_values_are_computed_without_a_task_and_on_record_all_the_same() -> None:
    told = play(
        """
        steps: {a: {foreach: "{{ range(130) | list }}", value: "{{ item * 2 }}"}}
        outputs: {a: "{{ a | sum }}"}
        """
    )
    assert told.outputs == {"a": 130 * 129}
    assert told.nodes["a"].counts.succeeded == 130
    assert sum(node.parent == "a" for node in told.nodes.values()) == 130


def test_a_stop_pulls_no_more_items_and_leaves_the_foreach_to_a_resume() -> None:
    async def main() -> None:
        made, stop = stage(), StopSignal()
        text = "steps: {a: {foreach: [0, 1, 2, 3], max_concurrent: 2, prompt: '{{ item }}'}}"

        async def stop_soon() -> None:
            await asyncio.sleep(0.5)
            stop.request("test")

        told = await sit(made, text, meanwhile=stop_soon(), stop=stop)
        assert (told.status, told.asked) == ("interrupted", ["0", "1"])
        assert told.nodes["a"].status is NodeStatus.RUNNING
        again = await sit(made, text)
        assert (again.status, again.asked) == ("succeeded", ["2", "3"])
        assert [again.nodes[f"a[{item}]"].status for item in range(4)] == [NodeStatus.SUCCEEDED] * 4

    run_virtual(main())


def test_enough_accepted_items_withdraw_those_that_wait_and_count_them_as_not_sent() -> None:
    told = play(
        """
        steps:
          a: {foreach: "{{ range(20) | list }}", prompt: "{{ item }}", accept: {when: "{{ true }}", count: 3}}
        outputs: {a: "{{ a }}"}
        """
    )
    counts = told.nodes["a"].counts
    assert told.outputs == {"a": ["re: 0", "re: 1", "re: 2"]}
    assert counts.accepted == 3
    assert counts.total == 20
    assert counts.not_sent == 20 - len(told.asked)
    assert told.nodes["a"].parts["chosen"] == [0, 1, 2]


def test_an_item_that_accept_cannot_judge_fails_with_its_output_kept() -> None:
    told = play(
        """
        steps:
          a: {foreach: [x, y], prompt: "{{ item }}", accept: {when: "{{ output.nothing.there }}", count: 1}}
        """
    )
    assert told.status == "failed"
    assert told.nodes["a[0]"].status is NodeStatus.FAILED
    assert (told.nodes["a[0]"].output, told.nodes["a[0]"].error["unjudged"]) == ("re: x", True)


def test_a_source_that_is_no_list_fails_the_step_and_starts_no_item() -> None:
    told = play("steps: {a: {foreach: '{{ 5 }}', prompt: '{{ item }}'}}")
    assert (told.status, told.asked) == ("failed", [])
    assert "`foreach` wants a list" in told.nodes["a"].error["message"]


def test_an_item_has_waited_while_no_more_could_be_open_and_a_step_for_those_it_needs() -> None:
    told = play(
        """
        steps:
          a: {foreach: [x, y, z], max_concurrent: 1, prompt: "{{ item }}"}
          b: {prompt: "{{ a }}"}
          c: {prompt: free}
        """
    )
    waits = {event.node_id: event.waits for event in told.events if isinstance(event, NodeEnded)}
    assert waits == {
        "a": {},
        "a[0]": {},
        "a[1]": {"open_items": 1.0},
        "a[2]": {"open_items": 2.0},
        "b": {"dependency": 3.0},
        "c": {},
    }
