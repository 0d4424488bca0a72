"""Resume of a foreach, item by item, also when the data or the workflow has changed. Real runtime, virtual clock."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Awaitable, Callable, Coroutine

import pytest

from flowllm.core.cancel import StopSignal
from flowllm.core.errors import RequestRejected, StorageFailed
from flowllm.runtime.options import RunOptions
from tests.support.answering import Told, all_nodes, sit, stage
from tests.support.run_attempts import Stage
from tests.support.virtual import run_virtual

REJECTED = RequestRejected("400: this prompt is not accepted", status=400)
LEAF = """
    inputs: {{items: []}}
    steps:
      a:
        foreach: {items}
        prompt: "ask {{{{ item }}}}"
        cache: false
        {more}
    outputs: {{a: "{{{{ a }}}}"}}
    """
GRAPH = """
    steps:
      a:
        foreach: {items}
        with: {{x: "{{{{ item }}}}"}}
        {more}
        workflow:
          inputs: {{x: {{type: string}}}}
          steps:
            one: {{prompt: "one {{{{ inputs.x }}}}", cache: false}}
            two: {{prompt: "two {{{{ one }}}}", cache: false{inner}}}
            three: {{prompt: "three {{{{ two | default('none') }}}}", cache: false}}
          outputs: {{three: "{{{{ three }}}}"}}
    outputs: {{a: "{{{{ a }}}}"}}
    """


def leaf(items: str, more: str = "") -> str:
    return LEAF.format(items=items, more=more)


def graph(items: str, more: str = "", inner: str = "") -> str:
    return GRAPH.format(items=items, more=more, inner=inner)


def stopped_at(seconds: float, *, cancel: bool = False) -> tuple[StopSignal, Coroutine[object, object, None]]:
    stop = StopSignal()

    async def stopping() -> None:
        await asyncio.sleep(seconds)
        stop.request("test")
        if cancel:
            stop.cancel()

    return stop, stopping()


async def sit_until(stage: Stage, text: str, seconds: float, *, cancel: bool = False, **how: object) -> Told:
    stop, stopping = stopped_at(seconds, cancel=cancel)
    return await sit(stage, text, stop=stop, meanwhile=stopping, **how)


def fails_once(*bad: str) -> Callable[[str], str | Exception]:
    left = list(bad)

    def answer(prompt: str) -> str | Exception:
        if prompt in left:
            left.remove(prompt)
            return REJECTED
        return f"<{prompt}>"

    return answer


def test_failed_items_run_again_and_the_others_are_reused() -> None:
    async def main() -> None:
        made = stage(fails_once("ask 2"))
        first = await sit(made, leaf("[1, 2, 3]"))
        assert (first.status, len(first.asked)) == ("failed", 3)
        second = await sit(made, leaf("[1, 2, 3]"))
        assert (second.status, second.asked) == ("succeeded", ["ask 2"])
        assert second.outputs["a"] == ["<ask 1>", "<ask 2>", "<ask 3>"]
        counts = second.nodes["a"].counts
        assert (counts.total, counts.succeeded, counts.failed) == (3, 3, 0)

    run_virtual(main())


@pytest.mark.parametrize(("retry", "asked"), [(False, []), (True, ["ask 2"])])
def test_failures_that_were_let_pass_run_again_only_if_asked_for(retry: bool, asked: list[str]) -> None:
    text = leaf("[1, 2, 3]", "on_error: continue")

    async def main() -> None:
        made = stage(fails_once("ask 2"))
        assert (await sit(made, text)).outputs["a"] == ["<ask 1>", None, "<ask 3>"]
        second = await sit(made, text, retry_failed=retry)
        assert second.asked == asked
        assert second.outputs["a"][1] == ("<ask 2>" if retry else None)

    run_virtual(main())


@pytest.mark.parametrize(
    ("later", "asked"),
    [
        ("[1, 2, 3, 4]", ["ask 4"]),
        ("[0, 1, 2, 3]", ["ask 0"]),
        ("[3]", []),
        ("[3, 1, 2]", []),
        ("[2, 2, 3]", ["ask 2"]),
        ("[1, 9, 3]", ["ask 9"]),
        ("[]", []),
    ],
)
def test_rows_that_were_added_removed_or_moved_are_not_paid_again(later: str, asked: list[str]) -> None:
    async def main() -> None:
        made = stage()
        await sit(made, leaf("[1, 2, 3]"))
        second = await sit(made, leaf(later))
        wanted = [int(number) for number in later.strip("[]").split(",") if number]
        assert second.asked == asked
        assert second.outputs["a"] == [f"re: ask {number}" for number in wanted]
        assert second.nodes["a"].counts.total == len(wanted)
        items = await made.store.items("r1", "a")
        assert [item.item for item in items] == wanted

    run_virtual(main())


def test_equal_rows_are_known_by_their_occurrence() -> None:
    async def main() -> None:
        made = stage()
        await sit(made, leaf("[1, 1, 1]"))
        second = await sit(made, leaf("[1, 2, 1, 1, 1]"))
        assert second.asked == ["ask 2", "ask 1"] or sorted(second.asked) == ["ask 1", "ask 2"]
        assert len(await made.store.items("r1", "a")) == 5

    run_virtual(main())


@pytest.mark.parametrize("moment", [0.5, 1.5])
@pytest.mark.parametrize("cancel", [False, True])
def test_a_foreach_that_is_stopped_goes_on_where_it_was(moment: float, cancel: bool) -> None:
    text = leaf("[1, 2, 3, 4, 5, 6]", "max_concurrent: 4")

    async def main() -> None:
        made = stage(concurrent=2)
        first = await sit_until(made, text, moment, cancel=cancel)
        assert first.status == "interrupted"
        assert first.nodes["a"].status.value == "running", "a list that lacks items is no outcome"
        assert first.outputs["a"] is None
        second = await sit(made, text)
        assert second.outputs["a"] == [f"re: ask {n}" for n in range(1, 7)]
        repeats = 2 if cancel else 0
        assert len(first.asked) + len(second.asked) == 6 + repeats

    run_virtual(main())


def test_a_stop_when_all_items_wait_their_turn_leaves_no_half_list() -> None:
    """Everything that was read is withdrawn, and the data has ended: that once passed for the end of the items."""

    async def main() -> None:
        made = stage(concurrent=1)
        first = await sit_until(made, leaf("[1, 2, 3]"), 0.5)
        assert first.status_of("a[0]", "a[1]", "a[2]", "a") == ["succeeded", "", "", "running"]
        assert (first.status, first.outputs) == ("interrupted", {"a": None})

    run_virtual(main())


@pytest.mark.parametrize("moment", [0.5, 1.5, 2.5, 3.5, 4.5, 5.5])
@pytest.mark.parametrize("cancel", [False, True])
def test_graphs_that_are_stopped_half_way_go_on_at_their_next_step(moment: float, cancel: bool) -> None:
    text = graph("[u, v, w]")

    async def main() -> None:
        made = stage(concurrent=2)
        first = await sit_until(made, text, moment, cancel=cancel)
        second = await sit(made, text)
        assert second.status == "succeeded"
        asked = first.asked + second.asked
        assert len(asked) - len(set(asked)) <= (2 if cancel else 0)
        assert len(set(asked)) == 9
        assert second.nodes["a"].attempts == 9
        assert second.outputs["a"][2] == {"three": "re: three re: two re: one w"}

    run_virtual(main())


@pytest.mark.parametrize(
    ("later", "new"), [("[u, v, w, z]", 3), ("[w, u, v]", 0), ("[z, w]", 3), ("[u, u, v, w]", 3), ("[w]", 0)]
)
@pytest.mark.parametrize("moment", [0.5, 1.5])
def test_half_finished_graphs_are_found_again_when_the_data_has_changed(moment: float, later: str, new: int) -> None:
    async def main() -> None:
        made = stage()
        first = await sit_until(made, graph("[u, v, w]"), moment)
        assert first.status == "interrupted"
        second = await sit(made, graph(later))
        left = later.strip("[]").split(", ")
        known = [name for name in ("u", "v", "w") if name in left]
        done = 1 if moment == 0.5 else 2
        assert len(first.asked) == 3 * done
        assert len(second.asked) == len(known) * (3 - done) + new
        assert [output["three"] for output in second.outputs["a"]] == [f"re: three re: two re: one {x}" for x in left]

    run_virtual(main())


def test_an_edited_step_within_runs_again_and_what_stands_before_it_does_not() -> None:
    async def main() -> None:
        made = stage()
        await sit(made, graph("[u, v]"))
        second = await sit(made, graph("[u, v]").replace("two {{ one }}", "TWO {{ one }}"))
        assert sorted(second.asked) == [
            "TWO re: one u",
            "TWO re: one v",
            "three re: TWO re: one u",
            "three re: TWO re: one v",
        ]
        assert second.nodes["a[0].one"].reused or second.nodes["a[0].one"].epoch == 1

    run_virtual(main())


def test_forgiven_failures_deep_within_run_again_with_retry_failed() -> None:
    async def main() -> None:
        text = graph("[u, v]", inner=", on_error: continue")
        made = stage(fails_once("two <one v>"))
        first = await sit(made, text)
        assert first.outputs["a"] == [{"three": "<three <two <one u>>>"}, {"three": "<three none>"}]
        assert (await sit(made, text)).asked == []
        third = await sit(made, text, retry_failed=True)
        assert third.asked == ["two <one v>", "three <two <one v>>"]
        assert third.outputs["a"][1] == {"three": "<three <two <one v>>>"}

    run_virtual(main())


def test_a_graph_that_failed_runs_again_from_the_step_that_failed() -> None:
    async def main() -> None:
        made = stage(fails_once("two <one v>"))
        first = await sit(made, graph("[u, v]"))
        assert first.status == "failed"
        second = await sit(made, graph("[u, v]"))
        assert second.asked == ["two <one v>", "three <two <one v>>"]
        assert second.nodes["a"].attempts == 6 + 0, "two for each of three steps"

    run_virtual(main())


NESTED = """
    steps:
      a:
        foreach: [1, 2]
        with: {x: "{{ item }}"}
        workflow:
          inputs: {x: {type: integer}}
          steps:
            b: {foreach: "{{ range(3) | list }}", prompt: "{{ inputs.x }}{{ item }}", cache: false}
            c: {prompt: "sum {{ b | join(' ') }}", cache: false}
          outputs: {c: "{{ c }}"}
    outputs: {a: "{{ a }}"}
    """


@pytest.mark.parametrize("moment", [0.5, 1.5, 2.5, 3.5])
def test_items_of_a_foreach_within_an_item_are_found_again(moment: float) -> None:
    async def main() -> None:
        made = stage(concurrent=2)
        first = await sit_until(made, NESTED, moment)
        second = await sit(made, NESTED)
        asked = first.asked + second.asked
        assert len(asked) == len(set(asked)) == 8
        assert second.status == "succeeded"
        assert second.nodes["a"].attempts == 8

    run_virtual(main())


def test_items_are_durable_before_what_needs_them_starts() -> None:
    async def main() -> None:
        made = stage()
        seen = []

        def answer(prompt: str) -> str:
            if prompt.startswith("sum"):
                kept = made.store.statuses
                at = int(prompt[4]) - 1
                seen.append([kept[f"a[{at}].b[{n}]"] for n in range(3)])
                assert kept[f"a[{at}].b"] == "succeeded"
            return prompt[:2]

        made.provider.answer = answer
        text = NESTED.replace('prompt: "{{ inputs.x }}', 'value: "{{ inputs.x }}').replace(
            ", cache: false}\n            c", "}\n            c"
        )
        told = await sit(made, text)
        assert told.status == "succeeded", [node.error for node in told.nodes.values() if node.error]
        assert seen == [["succeeded"] * 3] * 2

    run_virtual(main())


def test_the_budget_runs_out_in_the_middle_and_the_rest_is_done_by_a_resume() -> None:
    text = leaf("[1, 2, 3, 4, 5, 6]", "max_concurrent: 2\n        max_tokens: 5")

    async def main() -> None:
        made = stage()
        first = await sit(made, "budget: {tokens: 40}\n" + _dedented(text))
        assert (first.status, first.error["type"]) == ("paused", "BudgetExceeded")
        assert 0 < len(first.asked) < 6
        assert first.nodes["a"].status.value == "running"
        assert all(node.status.value != "failed" for node in first.nodes.values())
        second = await sit(made, "budget: {tokens: 4000}\n" + _dedented(text))
        assert second.status == "succeeded"
        assert sorted(first.asked + second.asked) == [f"ask {n}" for n in range(1, 7)]

    run_virtual(main())


def test_a_disk_that_fills_up_in_the_middle_stops_the_run_and_nothing_more_is_sent() -> None:
    async def main() -> None:
        made = stage(concurrent=1)
        full: list[bool] = []

        def filled(verb: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
            async def write(*what: object, **rows: object) -> None:
                if full:
                    raise StorageFailed("no space left on device")
                await verb(*what, **rows)

            return write

        made.store.commit = filled(made.store.commit)
        made.store.begin_attempt = filled(made.store.begin_attempt)

        async def filling() -> None:
            await asyncio.sleep(1.5)
            full.append(True)

        first = await sit(made, leaf("[1, 2, 3, 4, 5]"), meanwhile=filling())
        assert (first.status, first.error["type"]) == ("interrupted", "StorageFailed")
        assert first.asked == ["ask 1", "ask 2"]
        full.clear()
        second = await sit(made, leaf("[1, 2, 3, 4, 5]"))
        assert second.status == "succeeded"
        assert second.outputs["a"] == [f"re: ask {n}" for n in range(1, 6)]

    run_virtual(main())


@pytest.mark.parametrize("text", [leaf("[1, 2, 3, 4, 5, 6]"), graph("[u, v, w]"), NESTED])
@pytest.mark.parametrize("moment", [0.5, 1.5, 2.5])
def test_the_grace_expires_and_what_is_out_is_sent_again(text: str, moment: float) -> None:
    async def main() -> None:
        made = stage(lambda prompt: (1.0 if moment > 1 else 30.0, f"re: {prompt}"), concurrent=2)
        first = await sit_until(made, text, moment, options=RunOptions(grace=0.1))
        assert first.status == "interrupted"
        made.provider.answer = "re: {}".format
        second = await sit(made, text)
        assert second.status == "succeeded"
        asked = first.asked + second.asked
        assert len(asked) - len(set(asked)) <= 2

    run_virtual(main())


def _dedented(text: str) -> str:
    return textwrap.dedent(text)


def test_every_record_is_one_of_the_run() -> None:
    async def main() -> None:
        made = stage()
        await sit(made, NESTED)
        names = sorted(node.node_id for node in await all_nodes(made))
        assert names == sorted(made.store.statuses)

    run_virtual(main())
