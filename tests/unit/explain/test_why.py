from __future__ import annotations

import pytest

from flowllm.core.errors import RequestRejected, UsageError
from flowllm.explain.why import Why, explain, explain_parts
from flowllm.runtime.options import RunOptions
from tests.support.run_attempts import Stage
from tests.support.virtual import run_virtual

TWO = """
    inputs: {topic: {type: string}}
    steps:
      a: {prompt: "write of {{ inputs.topic }}"}
      b: {prompt: "go on with {{ a }}", system: be kind}
    """


class History:
    """Runs one after the other, then the question about the last."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.count = 0

    async def run(self, text: str = TWO, *, topic: str = "tea", **how: object) -> None:
        self.count += 1
        await self.stage.run(text, run_id=f"r{self.count}", inputs={"topic": topic}, **how)

    async def why(self, step: str, edges: tuple[str, ...] = ()) -> Why:
        return await explain(self.stage.store, await self.stage.store.run(f"r{self.count}"), step, edges)


def test_the_first_answer_has_nothing_to_be_compared_with() -> None:
    async def main() -> None:
        history = History(Stage())
        await history.run()
        why = await history.why("a")
        assert why.text == "a ran: no earlier run of f has an answer of it."
        assert (why.compared_with, why.changes) == (None, ())

    run_virtual(main())


def test_the_same_again_came_from_the_memo() -> None:
    async def main() -> None:
        history = History(Stage())
        await history.run()
        await history.run()
        why = await history.why("a")
        assert why.text == "a was answered from the cache: its request is the same as in run r1."
        assert why.compared_with == "r1"

    run_virtual(main())


def test_a_changed_input_is_named_with_both_prompts() -> None:
    async def main() -> None:
        history = History(Stage())
        await history.run()
        await history.run(topic="coffee")
        why = await history.why("a")
        assert why.text == "a ran because its request changed since run r1: prompt."
        assert [(change.before, change.after) for change in why.changes] == [("write of tea", "write of coffee")]
        assert why.causes == ("input topic changed",)

    run_virtual(main())


def test_a_changed_answer_upstream_is_the_cause() -> None:
    async def main() -> None:
        history = History(Stage())
        await history.run()
        history.stage.provider.script = ["something else"]
        await history.run(topic="coffee")
        assert "the output of a changed" in (await history.why("b", ("a",))).causes

    run_virtual(main())


@pytest.mark.parametrize(
    ("edit", "names"),
    [
        (("be kind", "be brief"), ["system"]),
        (("go on with", "carry on with"), ["prompt"]),
        (("system: be kind", "system: be kind, model: other, temperature: 1"), ["model", "temperature"]),
        ((", system: be kind", ""), ["messages"]),
        (("system: be kind", "system: be kind, sample: 2"), ["sample"]),
        (("system: be kind", "system: be kind, output: json"), ["json"]),
    ],
)
def test_each_part_of_a_request_has_its_name(edit: tuple[str, str], names: list[str]) -> None:
    async def main() -> None:
        history = History(Stage())
        await history.run()
        history.stage.provider.script = ["{}"]
        await history.run(TWO.replace(*edit))
        assert sorted({change.path for change in (await history.why("b")).changes}) == names

    run_virtual(main())


@pytest.mark.parametrize(
    ("options", "said"),
    [(RunOptions(no_cache=True), "because of --no-cache"), (RunOptions(refresh=("a",)), "because of --refresh")],
)
def test_an_option_that_made_it_run_is_named(options: RunOptions, said: str) -> None:
    async def main() -> None:
        history = History(Stage())
        await history.run()
        await history.run(options=options)
        assert said in (await history.why("a")).text

    run_virtual(main())


def test_a_step_that_failed_did_not_fail_because_its_request_changed() -> None:
    async def main() -> None:
        history = History(Stage())
        await history.run()
        history.stage.provider.script = [RequestRejected("no", status=400)]
        await history.run(topic="coffee")
        assert (await history.why("a")).text.startswith("a ran and failed because its request changed")
        assert (await history.why("b")).text == "b was blocked: a failed."

    run_virtual(main())


def test_a_step_whose_prompt_could_not_be_rendered_has_no_request_to_compare() -> None:
    """Every part of the earlier request was told as changed to nothing."""

    async def main() -> None:
        history = History(Stage())
        await history.run()
        await history.run(TWO.replace("inputs.topic }}", "inputs.topic.nothing }}"))
        why = await history.why("a")
        assert why.text.startswith("a failed before its request was known: ")
        assert why.changes == ()

    run_virtual(main())


def test_a_step_that_is_not_there_is_told_with_those_that_are() -> None:
    async def main() -> None:
        history = History(Stage())
        await history.run()
        with pytest.raises(UsageError, match="no record of a step `c`") as caught:
            await history.why("c")
        assert caught.value.hint == "it has: a, b"

    run_virtual(main())


def test_parts_are_named_once_and_odd_messages_do_not_break_it() -> None:
    assert explain_parts(
        {"body": {"messages": [{"role": "user", "content": ["a", "b"]}]}},
        {"body": {"messages": [{"role": "user", "content": ["c", "d"]}]}},
    ) == ["prompt"]
    assert explain_parts({"body": {"input": ["a"]}}, {"body": {"input": ["b"]}}) == ["messages[0]"]
    assert explain_parts({"source": "x"}, {"source": "y"}) == ["the function's code"]


def test_an_item_is_held_against_the_same_item_and_its_own_neighbours() -> None:
    async def main() -> None:
        history = History(Stage())
        text = """
            inputs: {topic: {type: string}}
            steps:
              posts:
                foreach: [x, "{{ inputs.topic }}"]
                with: {w: "{{ item }}"}
                workflow:
                  inputs: {w: {type: string}}
                  steps: {a: {prompt: "of {{ inputs.w }}"}, b: {prompt: "on {{ a }}"}}
                  outputs: {b: "{{ b }}"}
            """
        await history.run(text)
        await history.run(text, topic="milk")
        why = await history.why("posts[1].a")
        assert [(change.before, change.after) for change in why.changes] == [("of tea", "of milk")]
        why = await history.why("posts[1].b", ("a",))
        assert why.text.startswith("posts[1].b was answered from the cache")
        why = await history.why("posts[1]")
        assert why.causes == ("input topic changed", "posts[1] is another item")
        assert (await history.why("posts[0].a")).text.startswith("posts[0].a was answered from the cache")
        assert (await history.why("posts")).text == (
            "posts only goes through its items: `flowllm why r2 'posts[0]'` tells of its first one."
        )
        with pytest.raises(UsageError, match=r"no record of a step `posts\[2\]`"):
            await history.why("posts[2]")

    run_virtual(main())


def test_of_a_graph_whose_steps_have_changed_they_are_told() -> None:
    async def main() -> None:
        history = History(Stage())
        text = "inputs: {topic: tea}\nsteps: {g: {workflow: {steps: {one: {prompt: tea}, two: {prompt: ink}}}}}"
        await history.run(text)
        await history.run(text.replace("ink", "pen"))
        why = await history.why("g")
        assert why.text == "g ran because its request changed since run r1: its steps."
        assert [(one.path, one.before, one.after) for one in why.changes] == [("two: prompt", "ink", "pen")]

    run_virtual(main())
