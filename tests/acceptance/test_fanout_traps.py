"""What a review of the fan-out found: answers asked again, requests after the end, numbers that were not right."""

from __future__ import annotations

import asyncio

import pytest

from flowllm.core.cancel import StopSignal
from flowllm.core.errors import RequestRejected, StorageFailed
from flowllm.core.events import StopRequested
from flowllm.core.types import NodeStatus
from tests.support.answering import sit, stage
from tests.support.virtual import run_virtual

REJECTED = RequestRejected("400: this prompt is not accepted", status=400)
JUDGED = """
    steps:
      a:
        foreach: [1, 2, 3]
        prompt: "ask {{{{ item }}}}"
        cache: false
        {more}
        accept: {{when: "{when}", count: 2}}
    outputs: {{a: "{{{{ a }}}}"}}
    """


def test_answers_that_could_not_be_judged_are_not_asked_again() -> None:
    async def main(more: str) -> None:
        made = stage()
        wrong = JUDGED.format(when="{{ output.score > 7 }}", more=more)
        first = await sit(made, wrong)
        assert (first.status, len(first.asked)) == ("failed", 3)
        assert first.nodes["a[0]"].status is NodeStatus.FAILED
        mended = JUDGED.format(when="{{ output != 're: ask 1' }}", more=more)
        second = await sit(made, mended)
        assert (second.status, second.asked) == ("succeeded", [])
        assert second.outputs == {"a": ["re: ask 2", "re: ask 3"]}
        assert second.nodes["a[0]"].status is NodeStatus.SUCCEEDED

    for more in ("on_error: fail", "on_error: continue"):
        run_virtual(main(more))


def test_what_had_enough_does_not_ask_its_failed_items_again() -> None:
    text = """
        steps:
          a:
            foreach: [0, 1, 2, 3]
            prompt: "ask {{ item }}"
            accept: {when: "{{ true }}", count: 2}
          b: {prompt: "then {{ a | join(' ') }}", cache: false}
        """

    async def main() -> None:
        failing = {"ask 0", "then re: ask 1 re: ask 2"}
        made = stage(lambda prompt: REJECTED if prompt in failing else f"re: {prompt}")
        first = await sit(made, text)
        assert first.nodes["a"].parts["chosen"] == [1, 2]
        failing.clear()
        second = await sit(made, text)
        assert second.asked == ["then re: ask 1 re: ask 2"]
        assert second.nodes["a"].parts["chosen"] == [1, 2]
        third = await sit(made, text, retry_failed=True)
        assert "ask 0" in third.asked

    run_virtual(main())


def test_nothing_is_sent_after_the_database_failed_also_under_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
        steps:
          a:
            foreach: "{{ range(400) | list }}"
            prompt: "ask {{ item }}"
            max_concurrent: 30
            accept: {when: "{{ false }}", count: 30}
        """

    async def main() -> None:
        made, stop, sent = stage(concurrent=10), StopSignal(), []

        async def soon() -> None:
            await asyncio.sleep(2.5)
            stop.request("test")

        await sit(made, text, stop=stop, meanwhile=soon())
        adopt = made.store.adopt

        async def failing(fence: object, parent: object, keys: list) -> object:
            if keys[0].place > 0:
                sent.append(len(made.provider.sent))
                raise StorageFailed("the disk is full")
            return await adopt(fence, parent, keys)

        monkeypatch.setattr(made.store, "adopt", failing)
        second = await sit(made, text)
        assert second.status == "interrupted"
        assert sent == [len(made.provider.sent)]

    run_virtual(main())


def test_outputs_are_held_of_the_accepted_items_only() -> None:
    text = """
        steps:
          a:
            foreach: [1, 2, 3, 4, 5, 6]
            prompt: "ask {{ item }}"
            accept: {when: "{{ item == 6 }}", count: 1}
        outputs: {a: "{{ a }}"}
        """
    held: list[int] = []

    async def main() -> None:
        from flowllm.runtime.foreach_results import ForeachResults

        result = ForeachResults.result

        def look(self: ForeachResults, *args: object) -> object:
            held.append(len(self._outputs))
            return result(self, *args)

        ForeachResults.result = look
        try:
            told = await sit(stage(), text)
        finally:
            ForeachResults.result = result
        assert told.outputs == {"a": ["re: ask 6"]}

    run_virtual(main())
    assert held == [0]


def test_a_foreach_whose_data_cannot_be_opened_leaves_nothing_behind() -> None:
    text = """
        steps:
          outer:
            foreach: [1, 2, 3]
            on_error: continue
            workflow:
              steps:
                inner:
                  foreach: "{{ 5 }}"
                  prompt: "{{ item }}"
                  accept: {when: "{{ true }}", count: 1}
        """

    async def main() -> None:
        made = stage()
        ready = await made.prepare(text)
        assert (await ready.attempt()).status.value == "failed"
        token = ready.context.token
        assert [listener for listener in token._listeners if type(listener).__name__ == "CancelToken"] == []

    run_virtual(main())


def test_a_stop_counts_calls_and_not_the_graphs_around_them() -> None:
    text = """
        steps:
          outer:
            foreach: [1, 2, 3]
            workflow: {inputs: {x: 0}, steps: {one: {prompt: "one {{ inputs.x }}"}}}
            with: {x: "{{ item }}"}
        """

    async def main() -> None:
        stop = StopSignal()

        async def soon() -> None:
            await asyncio.sleep(0.5)
            stop.request("test")

        told = await sit(stage(), text, stop=stop, meanwhile=soon())
        assert [event.in_flight for event in told.events if isinstance(event, StopRequested)] == [3]

    run_virtual(main())
