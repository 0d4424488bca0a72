"""`accept`: a foreach that ends when it has enough. The real runtime on a virtual clock."""

from __future__ import annotations

import asyncio

import pytest

from flowllm.core.cancel import StopSignal
from flowllm.core.errors import DataFailed, RequestRejected, ServerFailed
from flowllm.datasets.base import Row
from flowllm.datasets.rows import ListRows
from tests.support.answering import Answers, Told, sit, stage
from tests.support.virtual import run_virtual

REJECTED = RequestRejected("400: this prompt is not accepted", status=400)
YES = "{{ output == 'yes' }}"


def flow(
    accept: str, *, items: str = "{{ range(20) | list }}", work: str = 'prompt: "{{ item }}"', more: str = ""
) -> str:
    return f"""
        inputs: {{items: []}}
        steps:
          a:
            foreach: "{items}"
            {work}
            accept: {{{accept}}}
            {more}
        outputs: {{a: "{{{{ a }}}}", counts: "{{{{ steps.a.counts }}}}"}}
        """


def play(text: str, answer: Answers, **how: object) -> Told:
    async def main() -> Told:
        return await sit(stage(answer), text, **how)

    return run_virtual(main())


def even_ones(prompt: str) -> str:
    return "yes" if int(prompt) % 2 == 0 else "no"


def test_it_ends_with_enough_and_sends_nothing_more() -> None:
    told = play(flow(f'when: "{YES}", count: 3, overshoot: 1.0'), even_ones)
    assert told.asked == ["0", "1", "2", "3", "4"]
    assert told.outputs["a"] == ["yes"] * 3
    assert told.outputs["counts"] == {
        "total": 20,
        "succeeded": 5,
        "failed": 0,
        "skipped": 0,
        "accepted": 3,
        "not_sent": 15,
    }
    assert told.nodes["a"].parts["chosen"] == [0, 2, 4]


def test_the_output_is_the_first_ones_in_input_order_whatever_order_answers_come_in() -> None:
    late_first = lambda prompt: (10.0 - int(prompt), "yes")  # noqa: E731
    told = play(flow('when: "{{ true }}", count: 2, overshoot: 2.0', items="{{ range(9) | list }}"), late_first)
    assert told.nodes["a"].parts["chosen"] == [0, 1]
    assert len(told.asked) == 4


def test_the_step_ends_when_all_before_the_last_chosen_are_finished_whatever_is_behind() -> None:
    seconds = {"0": 5.0, "1": 1.0, "2": 50.0}

    async def main() -> None:
        made = stage(lambda prompt: (seconds.get(prompt, 1.0), "yes"))
        text = flow('when: "{{ true }}", count: 2, overshoot: 1.5', items="{{ range(9) | list }}")
        told = await sit(made, text.replace("outputs:", '  b: {prompt: "then {{ a | length }}"}\n        outputs:'))
        assert told.outputs["a"] == ["yes", "yes"]
        assert made.provider.at("then 2") == pytest.approx(5.0, abs=0.01)
        assert told.outputs["counts"]["not_sent"] == 6
        assert told.outputs["counts"]["total"] == 9

    run_virtual(main())


def test_when_sees_the_ones_accepted_before_so_one_of_each_category_can_be_asked_for() -> None:
    kinds = ["toys", "books", "toys", "games", "books", "films", "toys"]

    def late_first(prompt: str) -> tuple[float, str]:
        return 20.0 - int(prompt), kinds[int(prompt)]

    told = play(
        flow('when: "{{ output not in accepted }}", count: 3, overshoot: 2.0', items="{{ range(7) | list }}"),
        late_first,
    )
    assert told.outputs["a"] == ["toys", "books", "games"]


def test_when_sees_the_item_by_its_name_and_its_index() -> None:
    told = play(
        flow('when: "{{ n > 11 and index < 8 }}", count: 9', items="{{ range(10, 20) | list }}", more="as: n").replace(
            "{{ item }}", "{{ n }}"
        ),
        lambda prompt: prompt,
    )
    assert told.outputs["a"] == ["12", "13", "14", "15", "16", "17"]


def test_failed_items_do_not_fail_the_step_if_enough_are_accepted() -> None:
    told = play(flow('when: "{{ true }}", count: 2'), lambda prompt: REJECTED if prompt in "03" else "yes")
    assert (told.status, told.nodes["a"].parts["chosen"]) == ("succeeded", [1, 2])
    assert told.outputs["counts"]["failed"] >= 1


def test_failed_items_fail_it_if_too_few_are() -> None:
    text = flow('when: "{{ true }}", count: 5', items="{{ range(3) | list }}")
    answer = lambda prompt: REJECTED if prompt == "0" else "yes"  # noqa: E731
    assert play(text, answer).status == "failed"
    told = play(text.replace("accept:", "on_error: continue\n            accept:"), answer)
    assert (told.status, told.outputs["a"]) == ("succeeded", ["yes", "yes"])


def test_data_that_ends_earlier_succeeds_with_fewer() -> None:
    told = play(flow(f'when: "{YES}", count: 5', items="{{ range(4) | list }}"), even_ones)
    assert (told.status, told.outputs["a"]) == ("succeeded", ["yes", "yes"])
    assert told.outputs["counts"]["not_sent"] == 0


def test_an_item_for_which_when_fails_counts_as_failed() -> None:
    told = play(
        flow(
            'when: "{{ output }}", count: 2',
            items="{{ [1, 0, 1, 1] }}",
            work='value: "{{ item == 1 if index != 2 else 7 }}"',
        ),
        even_ones,
    )
    assert (told.status, told.nodes["a"].parts["chosen"]) == ("succeeded", [0, 3])
    assert told.nodes["a[2]"].status.value == "failed"
    assert "true or false" in told.nodes["a[2]"].error["message"]
    assert told.outputs["counts"] == {
        "total": 4,
        "succeeded": 3,
        "failed": 1,
        "skipped": 0,
        "accepted": 2,
        "not_sent": 0,
    }


@pytest.mark.parametrize("count", ["0", "-1", "'two'", "1.5", "true"])
def test_a_count_that_is_no_whole_number_from_one_is_an_error(count: str) -> None:
    told = play(flow(f"""when: "{YES}", count: "{{{{ {count} }}}}" """), even_ones)
    assert told.status == "failed"
    assert "`accept.count` must be a whole number from 1" in told.nodes["a"].error["message"]
    assert told.asked == []


@pytest.mark.parametrize("overshoot", [1.0, 1.5, 3.0])
def test_a_repeat_gives_the_same_and_is_free(overshoot: float) -> None:
    text = flow(f'when: "{YES}", count: 4, overshoot: {overshoot}')

    async def main() -> None:
        made = stage(lambda prompt: (1 + int(prompt) * 7 % 5, even_ones(prompt)))
        first = await sit(made, text)
        second = await sit(made, text, run_id="r2")
        assert second.asked == []
        assert second.outputs["a"] == first.outputs["a"]
        assert second.nodes["a"].parts["chosen"] == first.nodes["a"].parts["chosen"] == [0, 2, 4, 6]
        assert second.outputs["counts"]["total"] == 20

    run_virtual(main())


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("moment", [0.5, 1.5, 2.5, 3.5, 4.5])
def test_a_resumed_run_goes_on_counting_where_it_was(moment: float, ordered: bool) -> None:
    when = "{{ output == 'yes' and accepted is defined }}" if ordered else YES
    text = flow(f'when: "{when}", count: 5, overshoot: 1.0', items="{{ range(30) | list }}")

    async def main() -> None:
        made, stop = (stage(lambda prompt: (1 + int(prompt) % 3, even_ones(prompt)), concurrent=2), StopSignal())

        async def stopping() -> None:
            await asyncio.sleep(moment)
            stop.request("test")

        first = await sit(made, text, stop=stop, meanwhile=stopping())
        assert (first.status, first.nodes["a"].status.value) == ("interrupted", "running")
        second = await sit(made, text)
        assert second.status == "succeeded"
        assert second.nodes["a"].parts["chosen"] == [0, 2, 4, 6, 8]
        assert sorted(first.asked + second.asked, key=int) == [str(n) for n in range(9)], "none twice, none too many"
        counts = second.outputs["counts"]
        assert (counts["total"], counts["succeeded"], counts["not_sent"]) == (30, 9, 21)

    run_virtual(main())


def test_a_run_that_stops_never_settles_on_items_whose_forerunner_has_no_answer() -> None:
    """The first item waits to be tried again while those behind it are accepted: they are not the first ones."""
    tries: list[str] = []

    def answer(prompt: str) -> object:
        tries.append(prompt)
        return ServerFailed("500", status=500) if tries.count("0") == 1 and prompt == "0" else (2.0, "yes")

    async def main() -> None:
        made, stop = stage(answer), StopSignal()
        text = flow('when: "{{ true }}", count: 2, overshoot: 1.5', more="retry: {initial_delay: 60s, jitter: none}")

        async def stopping() -> None:
            await asyncio.sleep(1.5)
            stop.request("test")

        first = await sit(made, text, stop=stop, meanwhile=stopping())
        assert (first.status, first.status_of("a[1]", "a[2]")) == ("interrupted", ["succeeded"] * 2)
        assert first.nodes["a"].status.value == "running"
        second = await sit(made, text)
        assert (second.nodes["a"].parts["chosen"], second.asked) == ([0, 1], ["0"])

    run_virtual(main())


def test_items_that_wait_for_their_turn_when_there_is_enough_are_never_sent() -> None:
    async def main() -> None:
        made = stage(lambda prompt: (1.0 + int(prompt) / 10, "yes"), concurrent=2)
        told = await sit(made, flow('when: "{{ true }}", count: 2, overshoot: 4.0'))
        assert len(told.asked) <= 4, "the two that were free to go when the first two had ended, of eight"
        assert told.nodes["a"].parts["chosen"] == [0, 1]
        counts = told.outputs["counts"]
        assert (counts["total"], counts["succeeded"]) == (20, 2)
        assert counts["not_sent"] == 20 - len(told.asked)

    run_virtual(main())


def test_enough_can_be_reached_while_the_run_stops() -> None:
    """What waited for its turn is withdrawn by the stop, not by `accept`: it counts as not sent all the same."""

    async def main() -> None:
        made, stop = stage(lambda prompt: (1.0, "yes"), concurrent=2), StopSignal()

        async def stopping() -> None:
            await asyncio.sleep(0.5)
            stop.request("test")

        text = flow('when: "{{ true }}", count: 2, overshoot: 4.0')
        told = await sit(made, text, stop=stop, meanwhile=stopping())
        assert (told.nodes["a"].status.value, told.asked) == ("succeeded", ["0", "1"])
        counts = told.nodes["a"].counts
        assert (counts.total, counts.succeeded, counts.not_sent) == (20, 2, 18)

    run_virtual(main())


def test_items_that_are_graphs_can_be_accepted() -> None:
    told = play(
        flow(
            f'when: "{YES.replace("output", "output.verdict")}", count: 2, overshoot: 1.0',
            work="""with: {n: "{{ item }}"}
            workflow:
              inputs: {n: {type: integer}}
              steps:
                draft: {prompt: "draft {{ inputs.n }}"}
                judge: {prompt: "judge {{ draft }}"}
              outputs: {verdict: "{{ judge }}", n: "{{ inputs.n }}"}""",
        ),
        lambda prompt: f"d{prompt[6:]}" if prompt.startswith("draft") else "yes" if int(prompt[7:]) % 3 == 0 else "no",
    )
    assert [output["n"] for output in told.outputs["a"]] == [0, 3]
    assert len(told.asked) == 8
    assert told.outputs["counts"]["not_sent"] == 16


def test_python_items_that_are_at_work_at_the_end_count_as_sent() -> None:
    files = {
        "t.py": """
import asyncio
async def work(n):
    await asyncio.sleep(1 if n < 2 else 5)
    return n
"""
    }
    told = play(
        flow(
            'when: "{{ true }}", count: 2, overshoot: 2.0',
            items="{{ range(9) | list }}",
            work='python: "./t.py:work"\n            with: {n: "{{ item }}"}',
        ),
        even_ones,
        files=files,
    )
    assert told.outputs["a"] == [0, 1]
    counts = told.outputs["counts"]
    assert (counts["total"], counts["succeeded"], counts["not_sent"]) == (9, 2, 5)


class _Torn(ListRows):
    """A file that breaks off after so many rows."""

    def __init__(self, rows: int) -> None:
        super().__init__(list(range(rows)))
        self.total = None

    async def take(self, most: int) -> list[Row]:
        rows = await super().take(1)
        if not rows:
            raise DataFailed("the file ends in the middle of a row")
        return rows


@pytest.mark.parametrize(("rows", "status"), [(2, "failed"), (3, "succeeded"), (4, "succeeded")])
def test_data_that_breaks_off_fails_the_step_only_if_it_was_needed(
    rows: int, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowllm.runtime.foreach_runner.open_rows", lambda *_, **__: _Torn(rows))
    told = play(flow('when: "{{ true }}", count: 3, overshoot: 2.0'), lambda prompt: "yes")
    assert told.status == status
    if status == "failed":
        assert told.nodes["a"].error["message"] == "the file ends in the middle of a row"
    else:
        assert told.nodes["a"].parts["chosen"] == [0, 1, 2]
