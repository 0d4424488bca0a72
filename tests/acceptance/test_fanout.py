"""A foreach, and what becomes of its items: the real runtime on a virtual clock."""

from __future__ import annotations

import asyncio

import pytest

from flowllm.core.cancel import StopSignal
from flowllm.core.errors import RequestRejected
from flowllm.core.events import FanOutStarted, NodeEnded
from flowllm.datasets.base import Row
from flowllm.datasets.rows import ListRows
from flowllm.runtime.options import RunOptions
from tests.support.answering import Answers, Told, sit, stage
from tests.support.run_attempts import Stage
from tests.support.virtual import run_virtual

REJECTED = RequestRejected("400: this prompt is not accepted", status=400)


def play(text: str, answer: Answers = "re: {}".format, *, concurrent: int = 100, **how: object) -> Told:
    async def main() -> Told:
        return await sit(stage(answer, concurrent=concurrent), text, **how)

    return run_virtual(main())


def bad_items(*bad: str) -> Answers:
    return lambda prompt: REJECTED if prompt in bad else f"re: {prompt}"


def test_the_output_is_the_list_of_outputs_in_input_order() -> None:
    told = play(
        """
        steps:
          a: {foreach: [3, 1, 2], prompt: "ask {{ item }} at {{ index }}"}
          b: {value: "{{ a | length }} {{ steps.a.counts.succeeded }}"}
        outputs: {a: "{{ a }}", b: "{{ b }}"}
        """,
        lambda prompt: (float(prompt.split()[1]), f"re: {prompt}"),
    )
    assert told.outputs == {"a": ["re: ask 3 at 0", "re: ask 1 at 1", "re: ask 2 at 2"], "b": "3 3"}
    ends = [event.node_id for event in told.events if isinstance(event, NodeEnded)]
    assert ends == ["a[1]", "a[2]", "a[0]", "a", "b"]
    assert [event.total for event in told.events if isinstance(event, FanOutStarted)] == [3]


def test_failed_and_skipped_items_are_null_and_rows_tell_of_each() -> None:
    told = play(
        """
        steps:
          a:
            foreach: "{{ [10, 20, 30] }}"
            as: number
            when: "{{ number != 20 }}"
            prompt: "{{ number }}"
            on_error: continue
          b: {value: "{{ steps.a.rows }}"}
        outputs: {a: "{{ a }}", b: "{{ b }}", counts: "{{ steps.a.counts }}"}
        """,
        bad_items("30"),
    )
    assert told.status == "succeeded"
    assert told.outputs["a"] == ["re: 10", None, None]
    assert told.outputs["counts"] == {
        "total": 3,
        "succeeded": 1,
        "failed": 1,
        "skipped": 1,
        "accepted": 0,
        "not_sent": 0,
    }
    first, second, third = told.outputs["b"]
    assert first == {"index": 0, "item": 10, "status": "succeeded", "output": "re: 10", "error": None}
    assert second == {"index": 1, "item": 20, "status": "skipped", "output": None, "error": None}
    assert (third["status"], third["output"]) == ("failed", None)
    assert third["error"]["message"] == "400: this prompt is not accepted"
    assert told.status_of("a[0]", "a[1]", "a[2]", "a") == ["succeeded", "skipped", "failed", "succeeded"]


def test_a_failed_item_fails_the_step_when_all_others_are_done() -> None:
    told = play(
        """
        steps:
          a: {foreach: [1, 2, 3], prompt: "{{ item }}"}
          b: {value: "{{ a }}"}
          c: {value: "{{ steps.a.status }}: {{ steps.a.error.message }}"}
        outputs: {c: "{{ c }}"}
        """,
        bad_items("1"),
    )
    assert told.status == "failed"
    assert told.asked == ["1", "2", "3"]
    assert told.status_of("a", "b", "c") == ["failed", "blocked", "succeeded"]
    assert told.outputs["c"] == "failed: 1 of 3 items failed; a[0]: 400: this prompt is not accepted"


def test_an_empty_list_succeeds_with_an_empty_list() -> None:
    told = play(
        """
        steps: {a: {foreach: "{{ [] }}", prompt: "{{ item }}", on_error: continue, max_failed: 0}}
        outputs: {a: "{{ a }}"}
        """
    )
    assert (told.status, told.outputs, told.asked) == ("succeeded", {"a": []}, [])


@pytest.mark.parametrize(
    ("value", "kind"), [("{{ {'a': 1} }}", "a mapping"), ("{{ 3 }}", "3"), ("{{ 'abc' }}", "'abc'")]
)
def test_what_is_no_list_fails_the_step(value: str, kind: str) -> None:
    told = play(f"""steps: {{a: {{foreach: "{value}", prompt: "{{{{ item }}}}"}}}}""")
    assert told.status == "failed"
    assert told.nodes["a"].error["message"] == f"`foreach` wants a list, and this is {kind}"


@pytest.mark.parametrize(
    ("allowed", "bad", "status"),
    [("2", 2, "succeeded"), ("2", 3, "failed"), ("20%", 2, "succeeded"), ("20%", 3, "failed"), ("0", 1, "failed")],
)
def test_max_failed_under_on_error_continue(allowed: str, bad: int, status: str) -> None:
    told = play(
        f"""
        steps:
          a:
            foreach: "{{{{ range(10) | list }}}}"
            prompt: "{{{{ item }}}}"
            on_error: continue
            max_failed: {allowed}
          b: {{value: "{{{{ a }}}}"}}
        """,
        lambda prompt: REJECTED if int(prompt) < bad else "ok",
    )
    assert (told.status, told.nodes["a"].status.value) == (status, status)
    assert told.status_of("b") == ["succeeded" if status == "succeeded" else "blocked"]


def test_nothing_more_is_sent_once_max_failed_is_passed() -> None:
    told = play(
        """
        steps:
          a:
            foreach: "{{ range(10) | list }}"
            prompt: "{{ item }}"
            on_error: continue
            max_failed: 1
            max_concurrent: 1
        """,
        bad_items("1", "3"),
    )
    assert told.asked == ["0", "1", "2", "3"]
    assert told.nodes["a"].error["message"].endswith("`max_failed` allows 1")
    counts = told.nodes["a"].counts
    assert (counts.total, counts.succeeded, counts.failed, counts.not_sent) == (10, 2, 2, 6)


def test_without_max_failed_the_step_fails_only_if_every_item_does() -> None:
    text = """
        steps:
          a: {foreach: [1, 2], prompt: "{{ item }}", on_error: continue}
          b: {value: "{{ a | default('nothing') }}"}
        """
    assert play(text, bad_items("1")).status_of("a", "b") == ["succeeded", "succeeded"]
    assert play(text, bad_items("1", "2")).status_of("a", "b") == ["failed", "blocked"]


def test_a_window_refills_one_by_one_and_is_never_passed() -> None:
    calls: list[int] = []

    async def main() -> Told:
        made = stage(lambda prompt: (10.0 if prompt == "0" else 1.0, "ok"))
        told = await sit(
            made,
            """
            steps:
              a: {foreach: "{{ range(8) | list }}", prompt: "{{ item }}", max_concurrent: 3}
            """,
        )
        calls.append(made.provider.peak)
        at = made.provider.at
        assert [at(str(n)) for n in range(8)] == pytest.approx([0, 0, 0, 1, 1, 2, 2, 3], abs=0.01)
        return told

    assert run_virtual(main()).status == "succeeded"
    assert calls == [3]


def test_one_slow_item_delays_only_what_needs_the_whole_list() -> None:
    async def main() -> None:
        made = stage(lambda prompt: (100.0 if prompt == "slow" else 1.0, "ok"))
        await sit(
            made,
            """
            steps:
              a: {foreach: [slow, quick], prompt: "{{ item }}"}
              beside: {prompt: beside}
              after: {prompt: "after {{ beside }}"}
              counted: {prompt: "counted {{ steps.a.counts.succeeded }}"}
              whole: {prompt: "whole {{ a | length }}"}
            """,
        )
        at = made.provider.at
        assert (at("beside"), at("quick")) == (0, 0)
        assert at("after ok") == pytest.approx(1, abs=0.01)
        assert at("counted 2") == at("whole 2") == pytest.approx(100, abs=0.01)

    run_virtual(main())


def test_equal_items_are_sent_once_and_each_has_the_answer() -> None:
    told = play("""
        steps: {a: {foreach: [x, x, y, x], prompt: "{{ item }}"}}
        outputs: {a: "{{ a }}"}
        """)
    assert sorted(told.asked) == ["x", "y"]
    assert told.outputs["a"] == ["re: x", "re: x", "re: y", "re: x"]


def test_a_matrix_runs_every_combination() -> None:
    told = play("""
        steps:
          a:
            foreach: {matrix: {row: "{{ [1, 2] }}", lang: [de, fr]}}
            value: "{{ item.row }}{{ item.lang }}"
        outputs: {a: "{{ a }}"}
        """)
    assert told.outputs["a"] == ["1de", "1fr", "2de", "2fr"]


def test_limit_takes_the_first_items_of_every_foreach() -> None:
    told = play(
        """
        steps:
          a: {foreach: "{{ range(9) | list }}", prompt: "{{ item }}"}
          b: {foreach: [5, 6], value: "{{ item }}"}
        outputs: {a: "{{ a | length }}", b: "{{ b }}"}
        """,
        options=RunOptions(limit=3),
    )
    assert (told.outputs, told.asked) == ({"a": 3, "b": [5, 6]}, ["0", "1", "2"])


@pytest.mark.parametrize("kind", ["prompt", "value", "workflow"])
def test_an_item_that_fails_ends_the_run_under_fail_fast(kind: str) -> None:
    work = {
        "prompt": 'prompt: "{{ item }}"',
        "value": """value: "{{ 1 / (item - 1) }}" """,
        "workflow": 'with: {n: "{{ item }}"}\n            workflow: {inputs: {n: {type: integer}}, steps: {x: {prompt: "{{ inputs.n }}"}}}',
    }[kind]
    text = f"""
        steps:
          a:
            foreach: "{{{{ [1] + range(2, 50) | list }}}}"
            max_concurrent: 1
            {work}
          slow: {{prompt: slow}}
          after: {{prompt: "after {{{{ slow }}}}"}}
        """
    answer = lambda prompt: REJECTED if prompt == "1" else (5.0, "ok")  # noqa: E731 - as short as it is plain
    told = play(text, answer, options=RunOptions(fail_fast=True))
    assert told.status == "failed"
    assert "after ok" not in told.asked
    assert len(told.asked) <= 2, "only what was on the wire"
    assert sum(node.startswith("a[") and "." not in node for node in told.nodes) <= 2
    forgiven = text.replace("max_concurrent: 1", "on_error: continue")
    told = play(forgiven, answer, options=RunOptions(fail_fast=True))
    assert (told.status, "after ok" in told.asked) == ("succeeded", True)


def test_items_count_in_the_share_of_errors_at_which_a_run_stops() -> None:
    told = play(
        """
        limits: {stop_at_error_rate: 30%}
        steps:
          a: {foreach: "{{ range(500) | list }}", prompt: "{{ item }}", max_concurrent: 5, on_error: continue}
        """,
        lambda prompt: REJECTED if int(prompt) % 2 else "ok",
    )
    assert (told.status, told.error["type"]) == ("failed", "TooManyFailures")
    assert len(told.asked) < 40


def test_an_item_that_is_not_wanted_any_more_holds_up_no_other_foreach() -> None:
    """Two foreaches of one run, one of which ends early."""
    told = play("""
        steps:
          a: {foreach: "{{ range(50) | list }}", prompt: "a{{ item }}", accept: {when: "{{ true }}", count: 2}}
          b: {foreach: "{{ range(50) | list }}", prompt: "b{{ item }}"}
        outputs: {a: "{{ a }}", b: "{{ b | length }}"}
        """)
    assert told.outputs == {"a": ["re: a0", "re: a1"], "b": 50}
    assert len(told.asked) == 52


def test_a_python_step_goes_through_a_whole_output_without_holding_it() -> None:
    files = {"t.py": "def total(answers): return [type(answers).__name__, len(answers), answers[1], list(answers)[0]]"}

    async def main() -> Told:
        made = stage()
        return await sit(
            made,
            """
            steps:
              a: {foreach: [x, y], value: "{{ item }}!"}
              b: {python: "./t.py:total", with: {answers: "{{ a }}"}}
            outputs: {b: "{{ b }}"}
            """,
            files=files,
        )

    with asyncio.Runner() as runner:  # a sync function runs in a thread, which a virtual loop cannot wait for
        told = runner.run(main())
    assert told.outputs["b"][1:] == [2, "y!", "x!"]


class _Slow(ListRows):
    """Three rows are there at once, the next comes after a quarter of an hour."""

    def __init__(self) -> None:
        super().__init__(list(range(9)))
        self.total = None
        self.live = True

    async def take(self, most: int) -> list[Row]:
        if self._next >= 3:
            await asyncio.sleep(900)
        return await super().take(3)


def test_data_that_comes_slowly_holds_up_neither_an_end_nor_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowllm.runtime.foreach_runner.open_rows", lambda *_, **__: _Slow())
    text = 'steps: {a: {foreach: [1], prompt: "{{ item }}", %s}}'

    async def ends(made: Stage, more: str, **how: object) -> tuple[str, float]:
        told = await sit(made, text % more, **how)
        return told.status, asyncio.get_running_loop().time()

    async def stopping(stop: StopSignal) -> None:
        await asyncio.sleep(5)
        stop.request("test")

    async def main(more: str, *, stops: bool = False) -> tuple[str, float]:
        stop = StopSignal()
        how = {"stop": stop, "meanwhile": stopping(stop)} if stops else {}
        return await ends(stage(), more, **how)

    enough = 'accept: {when: "{{ true }}", count: 2, overshoot: 2.0}'
    assert run_virtual(main(enough)) == ("succeeded", pytest.approx(1, abs=0.1))
    assert run_virtual(main("max_concurrent: 5", stops=True)) == ("interrupted", pytest.approx(5, abs=0.1))
    assert run_virtual(main("max_concurrent: 5")) == ("succeeded", pytest.approx(2701, abs=1))
