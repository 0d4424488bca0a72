"""Graphs within graphs, alone and for each item. The real runtime on a virtual clock."""

from __future__ import annotations

import pytest

from flowllm.core.errors import RequestRejected
from flowllm.core.events import NodeEnded
from flowllm.runtime.options import RunOptions
from tests.support.answering import Answers, Told, sit, stage
from tests.support.virtual import run_virtual

REJECTED = RequestRejected("400: this prompt is not accepted", status=400)
POST = """
inputs: {topic: {type: string}, count: {type: integer, default: 2}}
steps:
  headline: {prompt: "headline of {{ inputs.topic }}"}
  body: {prompt: "body of {{ headline }}"}
outputs: {headline: "{{ headline }}", body: "{{ body }}", count: "{{ inputs.count }}"}
"""
POSTS = """
    inputs: {topics: [tea, ink]}
    steps:
      posts:
        foreach: "{{ inputs.topics }}"
        workflow: ./post.yaml
        with: {topic: "{{ item }}"}
    outputs: {posts: "{{ posts }}"}
    """


def play(text: str, answer: Answers = "<{}>".format, *, concurrent: int = 100, **how: object) -> Told:
    async def main() -> Told:
        return await sit(stage(answer, concurrent=concurrent), text, files={"post.yaml": POST}, **how)

    return run_virtual(main())


def bad(*prompts: str) -> Answers:
    return lambda prompt: REJECTED if prompt in prompts else f"<{prompt}>"


def test_a_graph_in_a_file_is_a_step_and_its_inputs_are_converted_to_their_types() -> None:
    told = play("""
        steps:
          post: {workflow: ./post.yaml, with: {topic: tea, count: "12"}}
          after: {value: "{{ post.count + 1 }}"}
        outputs: {post: "{{ post }}", after: "{{ after }}"}
        """)
    assert told.outputs["after"] == 13
    assert told.outputs["post"]["body"] == "<body of <headline of tea>>"
    assert set(told.nodes) == {"post", "post.headline", "post.body", "after"}


def test_inputs_that_do_not_fit_fail_the_step_and_send_nothing() -> None:
    told = play("""
        inputs: {count: many}
        steps: {post: {workflow: ./post.yaml, with: {topic: tea, count: "{{ inputs.count }}"}}}
        """)
    assert (told.status, told.asked) == ("failed", [])
    error = told.nodes["post"].error
    assert error["type"] == "GraphFailed"
    assert "count" in error["message"]
    assert "many" in error["message"]


def test_each_item_goes_through_its_own_graph_with_no_barrier_between() -> None:
    async def main() -> None:
        made = stage(lambda prompt: (10.0 if prompt == "headline of tea" else 1.0, f"<{prompt}>"))
        told = await sit(made, POSTS, files={"post.yaml": POST})
        assert made.provider.at("body of <headline of ink>") == pytest.approx(1, abs=0.01)
        assert [post["headline"] for post in told.outputs["posts"]] == ["<headline of tea>", "<headline of ink>"]
        assert {"posts", "posts[0]", "posts[0].headline", "posts[0].body", "posts[1].body"} <= set(told.nodes)

    run_virtual(main())


def test_a_graph_is_closed_and_sees_only_its_inputs_and_the_run() -> None:
    told = play("""
        inputs: {secret_plan: hidden}
        steps:
          a:
            workflow:
              inputs: {x: 1}
              steps: {b: {value: "{{ inputs | list }} {{ run.id }}"}}
              outputs: {b: "{{ b }}"}
        outputs: {a: "{{ a.b }}", id: "{{ run.id }}"}
        """)
    assert told.outputs["a"] == f'["x"] {told.outputs["id"]}'


def test_the_error_of_a_graph_names_the_step_within_that_failed() -> None:
    told = play(POSTS, bad("headline of ink"))
    assert told.status == "failed"
    assert told.nodes["posts[1]"].error["message"] == "headline failed: 400: this prompt is not accepted"
    assert told.nodes["posts"].error["message"] == (
        "1 of 2 items failed; posts[1]: headline failed: 400: this prompt is not accepted"
    )
    assert told.status_of("posts[1].body", "posts[0]", "posts[0].body") == ["blocked", "succeeded", "succeeded"]


def test_an_inner_failure_that_is_let_pass_leaves_the_graph_well() -> None:
    told = play(
        """
        steps:
          a:
            workflow:
              steps:
                b: {prompt: b, on_error: continue}
                c: {prompt: "c {{ b | default('nothing') }}"}
              outputs: {b: "{{ b }}", c: "{{ c }}"}
        outputs: {a: "{{ a }}"}
        """,
        bad("b"),
    )
    assert (told.status, told.outputs) == ("succeeded", {"a": {"b": None, "c": "<c nothing>"}})


def test_a_graph_that_fails_under_on_error_continue_is_as_if_skipped() -> None:
    told = play(
        """
        steps:
          a: {workflow: ./post.yaml, with: {topic: tea}, on_error: continue}
          b: {value: "{{ a.body | default('none') }}"}
        outputs: {a: "{{ a }}", b: "{{ b }}"}
        """,
        bad("headline of tea"),
        options=RunOptions(fail_fast=True),
    )
    assert (told.status, told.outputs) == ("succeeded", {"a": None, "b": "none"})


def test_an_output_that_cannot_be_rendered_fails_the_graph() -> None:
    told = play("""
        steps:
          a:
            workflow: {steps: {b: {value: 1}}, outputs: {c: "{{ b.missing.deeper }}"}}
        """)
    assert told.status == "failed"
    assert "its output c could not be rendered" in told.nodes["a"].error["message"]


NEST = """
    steps:
      a:
        foreach: [1, 2]
        with: {x: "{{ item }}"}
        workflow:
          inputs: {x: {type: integer}}
          steps:
            b:
              foreach: [3, 4]
              with: {x: "{{ inputs.x }}", y: "{{ item }}"}
              workflow:
                inputs: {x: {type: integer}, y: {type: integer}}
                steps:
                  c:
                    foreach: [5, 6]
                    prompt: "{{ inputs.x }}{{ inputs.y }}{{ item }}"
                outputs: {c: "{{ c }}", n: "{{ steps.c.counts.succeeded }}"}
          outputs: {b: "{{ b }}"}
    outputs: {a: "{{ a }}"}
    """


@pytest.mark.parametrize("concurrent", [1, 3, 100])
def test_foreach_within_foreach_within_foreach_does_not_deadlock_whatever_the_limit(concurrent: int) -> None:
    told = play(NEST, concurrent=concurrent)
    assert sorted(told.asked) == ["135", "136", "145", "146", "235", "236", "245", "246"]
    assert told.outputs["a"][1] == {"b": [{"c": ["<235>", "<236>"], "n": 2}, {"c": ["<245>", "<246>"], "n": 2}]}
    assert told.nodes["a[1].b[0].c[1]"].output == "<236>"


def test_max_concurrent_of_one_at_every_level_does_not_deadlock() -> None:
    one = NEST
    for items in ("[1, 2]", "[3, 4]", "[5, 6]"):
        line = next(line for line in one.splitlines() if f"foreach: {items}" in line)
        one = one.replace(line, f"{line}\n{' ' * (len(line) - len(line.lstrip()))}max_concurrent: 1")
    told = play(one, concurrent=1)
    assert told.asked == ["135", "136", "145", "146", "235", "236", "245", "246"]


@pytest.mark.parametrize("most", [1, 2, 5])
def test_little_room_for_open_items_holds_up_nobody_for_good(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.run_attempts.MOST_OPEN_ITEMS", most)
    told = play(NEST)
    assert (told.status, len(told.asked)) == ("succeeded", 8)
    beside = play(
        """
        steps:
          a: {foreach: "{{ range(30) | list }}", prompt: "a{{ item }}", accept: {when: "{{ true }}", count: 3}}
          b: {foreach: "{{ range(30) | list }}", prompt: "b{{ item }}"}
          c: {foreach: "{{ range(30) | list }}", value: "{{ item }}"}
        outputs: {a: "{{ a | length }}", b: "{{ b | length }}", c: "{{ c | length }}"}
        """
    )
    assert beside.outputs == {"a": 3, "b": 30, "c": 30}


def test_what_nodes_within_took_is_added_up_once() -> None:
    told = play(POSTS)
    assert [told.nodes[name].attempts for name in ("posts[0].body", "posts[0]", "posts")] == [1, 2, 4]
    assert told.nodes["posts"].usage.output_tokens == 20
    assert told.nodes["posts"].cost_usd == pytest.approx(0.02)


def test_a_node_of_every_kind_ends_before_what_builds_on_it_starts() -> None:
    told = play(NEST)
    ends = [event.node_id for event in told.events if isinstance(event, NodeEnded)]
    for node in ends:
        inner = [other for other in ends if other != node and other.startswith((f"{node}.", f"{node}["))]
        assert all(ends.index(other) < ends.index(node) for other in inner)
    assert len(ends) == len(set(ends))
    order = sorted(told.nodes.values(), key=lambda node: node.seq)
    assert [node.node_id for node in order] == ends, "the order on record is the order that was told"


def test_when_is_asked_of_each_item_before_its_graph() -> None:
    told = play(POSTS.replace("workflow: ./post", """when: "{{ item == 'tea' }}"\n        workflow: ./post"""))
    assert told.status_of("posts[0]", "posts[1]", "posts") == ["succeeded", "skipped", "succeeded"]
    assert told.outputs["posts"][1] is None
    assert len(told.asked) == 2


def test_a_graph_without_steps_that_cost_leaves_its_record() -> None:
    told = play("""
        steps:
          a:
            foreach: [1, 2, 3]
            with: {x: "{{ item }}"}
            workflow: {inputs: {x: {type: integer}}, steps: {b: {value: "{{ inputs.x * 2 }}"}}, outputs: {b: "{{ b }}"}}
        outputs: {a: "{{ a }}"}
        """)
    assert told.outputs["a"] == [{"b": 2}, {"b": 4}, {"b": 6}]
    assert told.status_of("a[0]", "a[2].b") == ["succeeded", "succeeded"]
