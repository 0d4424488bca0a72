"""A graph within a node, on a virtual clock."""

from __future__ import annotations

import asyncio

from flowllm.core.cancel import StopSignal
from flowllm.core.types import NodeStatus
from tests.support.answering import Told, sit, stage
from tests.support.virtual import run_virtual

TEXT = """
    steps:
      post:
        with: {topic: tea}
        workflow:
          inputs: {topic: string}
          steps:
            title: {prompt: "title of {{ inputs.topic }}"}
            body: {prompt: "body of {{ title }}"}
          outputs: {body: "{{ body }}"}
      after: {prompt: "after {{ post.body }}"}
    """


def play(text: str, answer: object = "re: {}".format, **how: object) -> Told:
    async def main() -> Told:
        return await sit(stage(answer), text, **how)

    return run_virtual(main())


def test_its_outputs_are_the_output_of_the_node_and_its_usage_the_sum_of_the_nodes_within() -> None:
    told = play(TEXT)
    assert told.nodes["post"].output == {"body": "re: body of re: title of tea"}
    assert told.nodes["post"].attempts == 2
    assert told.nodes["post.title"].parent == "post"
    assert told.asked[-1] == "after re: body of re: title of tea"


def test_a_failure_within_names_the_step_and_blocks_what_needs_the_node() -> None:
    told = play(TEXT, lambda prompt: RuntimeError("odd") if prompt.startswith("body") else prompt)
    assert told.status_of("post", "after") == ["failed", "blocked"]
    assert told.nodes["post"].error["message"].startswith("body failed: ")


def test_a_stop_leaves_it_running_and_a_resume_goes_on_within_it() -> None:
    async def main() -> None:
        made, stop = stage(), StopSignal()

        async def stop_soon() -> None:
            await asyncio.sleep(0.5)
            stop.request("test")

        first = await sit(made, TEXT, meanwhile=stop_soon(), stop=stop)
        assert (first.status, first.status_of("post", "post.title", "post.body")) == (
            "interrupted",
            ["running", "succeeded", ""],
        )
        again = await sit(made, TEXT)
        assert (again.status, again.asked[0], len(again.asked)) == ("succeeded", "body of re: title of tea", 2)
        third = await sit(made, TEXT)
        assert (third.asked, third.nodes["post"].status) == ([], NodeStatus.SUCCEEDED)

    run_virtual(main())


def test_inputs_that_do_not_fit_fail_the_node_before_anything_within_starts() -> None:
    told = play(TEXT.replace("topic: tea", "topic: '{{ [1] }}'"))
    assert (told.status, told.asked, "post.title" in told.nodes) == ("failed", [], False)
