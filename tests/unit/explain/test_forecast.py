from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from flowllm.explain import plan_items, planner
from flowllm.explain.estimate import Estimate
from flowllm.explain.forecast import Forecast, forecast
from flowllm.explain.planner import Planner
from flowllm.runtime.options import RunOptions
from tests.support.run_attempts import Stage
from tests.support.virtual import run_virtual

TEXT = """
    steps:
      a: {prompt: first}
      b: {prompt: "second {{ a }}"}
      c: {value: "{{ 1 + 1 }}"}
      d: {prompt: "third {{ c }}", samples: 2, max_tokens: 50}
      e: {prompt: fourth, when: "{{ c > 2 }}"}
      f: {prompt: "fifth {{ e }}"}
    """


async def planned(stage: Stage, text: str = TEXT, *, empty: bool = False, **options: object) -> Forecast:
    """`empty`: there is no database yet."""
    ready = await stage.prepare(text, run_id="forecast")
    store = None if empty else stage.store
    plan = Planner(ready.run, RunOptions(**options), kinds=ready.kinds, store=store)
    return await forecast(plan, ready.checked, ready.checked.steps, "fake")


def states(found: Forecast) -> dict[str, str]:
    return {node.step: node.estimate.state for node in found.nodes}


def test_what_is_not_known_yet_is_said_to_be_unknown() -> None:
    async def main() -> None:
        stage = Stage()
        found = await planned(stage, empty=True)
        assert states(found) == {
            "a": "send", "c": "compute", "b": "maybe", "d": "send", "e": "skipped", "f": "skipped",
        }  # fmt: skip
        why = {node.step: node.estimate.why for node in found.nodes}
        assert why["b"] == "after a"
        assert why["e"] == "its `when` is false"
        assert why["f"] == "e is skipped"
        assert found.total.requests == 4
        prompt = {node.step: node.estimate for node in found.nodes}["b"].takes
        assert (prompt.input_tokens.low > 0, prompt.input_tokens.expected, prompt.input_tokens.high) == (
            True,
            None,
            None,
        )
        assert (found.total.cost_usd, found.at_least["output_tokens"]) == (None, 100)
        assert stage.provider.sent == []
        assert found.critical_path == ("a", "b")

    run_virtual(main())


def test_after_a_run_everything_is_cached_and_a_run_then_sends_nothing() -> None:
    async def main() -> None:
        stage = Stage()
        await stage.run(TEXT)
        sent = len(stage.provider.sent)
        found = await planned(stage)
        assert states(found) == {
            "a": "cached", "b": "cached", "c": "compute", "d": "cached", "e": "skipped", "f": "skipped",
        }  # fmt: skip
        assert (found.total.requests, found.total.cost_usd) == (0, 0)
        await stage.run(TEXT, run_id="r2")
        assert len(stage.provider.sent) == sent

    run_virtual(main())


def test_what_is_stored_counts_while_others_are_looked_into_as_if_nothing_were(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
    steps:
      outer:
        foreach: [a, b]
        with: {x: "{{ item }}"}
        workflow:
          inputs: {x: }
          steps:
            first: {prompt: "{{ inputs.x }}"}
            each: {foreach: [1, 2, 3], needs: [first], prompt: "{{ inputs.x }} {{ item }}"}
    """

    async def main() -> None:
        stage = Stage()
        await stage.run(text)
        memo, past_attempts, quick = stage.store.memo, stage.store.past_attempts, iter((0, 50))

        async def slow_memo(key: str) -> object:
            await asyncio.sleep(next(quick, 0))
            return await memo(key)

        async def slow_past(*args: object, **options: object) -> object:
            await asyncio.sleep(100)
            return await past_attempts(*args, **options)

        monkeypatch.setattr(stage.store, "memo", slow_memo)
        monkeypatch.setattr(stage.store, "past_attempts", slow_past)
        monkeypatch.setattr(plan_items, "LOOKED_AT", 2)
        found = await planned(stage, text)
        assert (found.total.takes.requests.expected, found.total.cached) == (0, 8)

    run_virtual(main())


@pytest.mark.parametrize(
    ("edit", "options", "state", "why"),
    [
        (("first", "1st"), {}, "send", "changed: prompt"),
        (("", ""), {"no_cache": True}, "send", "--no-cache"),
        (("", ""), {"refresh": ("a",)}, "send", "asked anew: --refresh"),
        (("prompt: first", "prompt: first, cache: false"), {}, "send", "`cache: false`"),
        (("prompt: first", "prompt: first, cache: {ttl: 1m}"), {}, "send", "its answer is no longer in the cache"),
        (("prompt: first", "prompt: '{{ c.nothing }}'"), {}, "error", "nothing"),
    ],
)
def test_why_an_answer_is_not_taken_from_the_memo(edit: tuple[str, str], options: dict, state: str, why: str) -> None:
    async def main() -> None:
        stage = Stage()
        await stage.run(TEXT)
        stage.clock.epoch += 3600
        found = await planned(stage, TEXT.replace(*edit), **options)
        node = {node.step: node.estimate for node in found.nodes}["a"]
        assert node.state == state
        assert why in node.why

    run_virtual(main())


def test_the_estimate_is_an_upper_bound_with_every_sample_in_it() -> None:
    async def main() -> None:
        node = {node.step: node.estimate for node in (await planned(Stage())).nodes}["d"]
        assert (node.requests, node.output_tokens) == (2, 100)
        assert node.cost_usd == pytest.approx(0.1)

    run_virtual(main())


FAN = """
    inputs: {words: {type: array, default: [x, y]}}
    steps:
      a: {prompt: first}
      list: {foreach: [p, q, r], prompt: "about {{ item }}", max_tokens: 10}
      again: {foreach: "{{ list }}", prompt: "on {{ item }}"}
      both: {foreach: [p, q], prompt: "{{ item }} {{ a }}", samples: 2}
      stdin: {foreach: {file: "-"}, prompt: "{{ item }}"}
      bad: {foreach: [1, 0], value: "{{ 1 / item }}"}
      odd: {foreach: [1, 0], value: "{{ 1 / item }}", on_error: continue}
      look: {value: "{{ odd }} {{ steps.odd.counts.failed }} {{ steps.odd.rows[1].status }}"}
      some: {foreach: "{{ inputs.words }}", prompt: "{{ item }}", when: "{{ index == 0 }}"}
      empty: {foreach: "{{ [] }}", prompt: "{{ item }}"}
      most: {foreach: [p, q, r], prompt: "m {{ item }}", accept: {when: "{{ true }}", count: 1}}
      graph:
        foreach: [p, q]
        with: {w: "{{ item }}"}
        workflow:
          inputs: {w: {type: string}}
          steps: {one: {prompt: "one {{ inputs.w }}"}, two: {value: "{{ one }}!"}}
          outputs: {two: "{{ two }}"}
      whole:
        workflow:
          steps: {one: {prompt: "one p"}}
          outputs: {one: "{{ one }}"}
      end: {value: "{{ whole.one }}"}
    """


def estimates(found: Forecast) -> dict[str, Estimate]:
    return {node.step: node.estimate for node in found.nodes}


def test_items_are_told_together_and_what_nobody_knows_is_not_zero() -> None:
    async def main() -> None:
        stage = Stage()
        found = await planned(stage, FAN, empty=True)
        seen = estimates(found)
        assert {name: (one.state, one.items, one.requests) for name, one in seen.items()} == {
            "a": ("send", None, 1),
            "list": ("send", 3, 3),
            "again": ("maybe", 3, 3),
            "both": ("maybe", 2, 4),
            "stdin": ("maybe", None, None),
            "bad": ("error", 2, 0),
            "odd": ("compute", 2, 0),
            "look": ("compute", None, 0),
            "some": ("send", 2, 1),
            "empty": ("compute", 0, 0),
            "most": ("send", 3, 3),
            "graph": ("send", 2, 2),
            "whole": ("send", None, 1),
            "end": ("maybe", None, 0),
        }
        assert seen["again"].why == "once for each item of list"
        assert seen["stdin"].why == "once for each item of standard input"
        assert seen["both"].why == "2 items; after a"
        assert "1 of 2 items fail" in seen["bad"].why
        assert seen["most"].why.startswith("up to 3 items, until enough are accepted")
        assert seen["list"].output_tokens == 30
        assert 30 < seen["again"].input_tokens < 120  # each has an answer of 10 tokens in it
        assert seen["again"].output_tokens is seen["again"].cost_usd is None
        assert seen["look"].output == "[1.0, null] 1 failed"
        assert (found.total.requests, found.at_least["requests"], found.total.cost_usd) == (None, 18, None)
        assert stage.provider.sent == []

    run_virtual(main())


def test_items_that_the_memo_has_are_counted() -> None:
    async def main() -> None:
        stage = Stage()
        few = FAN.replace('      stdin: {foreach: {file: "-"}, prompt: "{{ item }}"}\n', "").replace(
            '      bad: {foreach: [1, 0], value: "{{ 1 / item }}"}\n', ""
        )
        await stage.run(few)
        seen = estimates(await planned(stage, few))
        assert (seen["most"].requests, seen["most"].why) == (0, "1 accepted of the first 1 items")
        assert {one.state for one in seen.values()} <= {"cached", "compute"}
        assert (seen["list"].cached, seen["graph"].cached) == (3, 2)
        more = few.replace("list: {foreach: [p, q, r]", "list: {foreach: [p, z, q, r]")
        seen = estimates(await planned(stage, more))
        assert (seen["list"].cached, seen["list"].requests) == (3, 1)
        assert seen["list"].why.startswith("4 items, 3 cached; ")
        assert (seen["again"].state, seen["again"].requests) == ("maybe", 4)

    run_virtual(main())


def test_the_first_thousand_stand_for_the_rest() -> None:
    async def main() -> None:
        stage = Stage()
        await stage.run(MANY.replace("5000", "500"))
        seen = estimates(await planned(stage, MANY))["n"]
        assert (seen.items, seen.cached, seen.requests, seen.known) == (5000, 2500, 4500, False)
        assert (seen.takes.requests.low, seen.takes.requests.expected) == (500, 2500)
        assert seen.why.startswith("5,000 items, 500 of the first 1,000 cached")
        seen = estimates(await planned(stage, MANY, limit=600))["n"]
        assert (seen.items, seen.cached, seen.requests) == (600, 500, 100)

    run_virtual(main())


MANY = """
    steps: {n: {foreach: "{{ range(5000) | list }}", prompt: "{{ item }}"}}
    """


def test_a_file_is_counted_and_its_bad_rows_are_told(tmp_path: Path) -> None:
    async def main() -> None:
        file = tmp_path / "rows.jsonl"
        file.write_text('{"t": "a"}\n' * 1500 + "{\n")
        text = f'steps: {{n: {{foreach: {{file: "{file}"}}, prompt: "{{{{ item.t }}}}", on_error: continue}}}}'
        seen = estimates(await planned(Stage(), text, empty=True))["n"]
        assert (seen.items, seen.requests) == (1501, 1501)
        file.write_text('{"t": "a"}\n{\n')
        seen = estimates(await planned(Stage(), text, empty=True))["n"]
        assert (seen.items, seen.requests) == (2, 1)
        assert "1 in error" in seen.why
        file.unlink()
        seen = estimates(await planned(Stage(), text, empty=True))["n"]
        assert seen.state == "error"
        assert "rows.jsonl" in seen.why

    asyncio.run(main())  # files are read in threads, for which the virtual clock does not wait


def test_a_graph_that_would_fail_is_told() -> None:
    async def main() -> None:
        text = """
            steps:
              g:
                workflow:
                  steps: {x: {value: "{{ 1 / 0 }}"}, y: {prompt: p}}
                  outputs: {x: "{{ x }}"}
              h: {prompt: "{{ g }}"}
            """
        seen = estimates(await planned(Stage(), text, empty=True))
        assert (seen["g"].state, seen["g"].requests) == ("error", 1)
        assert seen["g"].why.startswith("x fails: ")
        assert (seen["h"].state, seen["h"].why) == ("skipped", "g is failed")

    run_virtual(main())


def test_nobody_counts_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_items, "COUNTED", 1200)

    async def main() -> None:
        file = tmp_path / "lines.txt"
        file.write_text("x\n" * 3000)
        text = f'steps: {{n: {{foreach: {{file: "{file}"}}, prompt: "{{{{ item }}}}"}}}}'
        seen = estimates(await planned(Stage(), text, empty=True))["n"]
        assert (seen.state, seen.items, seen.requests, seen.cost_usd) == ("send", None, None, None)
        assert seen.why.startswith("more than 1,200 items")

    asyncio.run(main())


def test_graphs_and_items_within_are_looked_into_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "MOST_WITHIN", 300)
    items = 'foreach: "{{ range(400) | list }}"'

    async def main() -> None:
        text = f"""
            steps:
              nest: {{{items}, workflow: {{steps: {{n: {{{items}, value: 1}}}}}}}}
              graph: {{workflow: {{steps: {{a: {{prompt: one}}, b: {{prompt: two, samples: 3}}}}}}}}
              after: {{value: "{{{{ graph }}}}"}}
            """
        stage = Stage()
        seen = estimates(await planned(stage, text, empty=True))
        assert (seen["nest"].items, seen["nest"].state, seen["nest"].known) == (400, "maybe", False)
        assert (seen["graph"].state, seen["graph"].requests) == ("maybe", 4)
        assert seen["graph"].why == "its 2 steps are not looked into: 300 others within steps are"
        assert seen["after"].why == "after graph"

    run_virtual(main())
