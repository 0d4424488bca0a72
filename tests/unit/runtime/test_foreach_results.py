from __future__ import annotations

from dataclasses import replace

from flowllm.core.cancel import CancelToken
from flowllm.core.types import Json, NodeStatus, StepKind
from flowllm.runtime.foreach_results import ForeachResults
from flowllm.runtime.foreach_state import AcceptPolicy, Ended, ForeachState
from flowllm.runtime.graph_state import CompiledGraph
from flowllm.runtime.invocation import GraphScope, NodeInvocation, Result, UsageTotals
from flowllm.steps.base import ItemPosition
from flowllm.storage.base import NodeRecord
from tests.support.workflows import workflow


class FakeStore:
    def outputs(self, run_id: str, parent: str, *, numbers: object) -> object:
        return ("read", parent, numbers)


class FakeContext:
    def __init__(self) -> None:
        self.store = FakeStore()
        self.run = NodeRecord(run_id="r1", node_id="", kind=StepKind.VALUE, status=NodeStatus.SUCCEEDED)


def results(user: str) -> ForeachResults:
    flow = workflow(
        f"""
        steps:
          a: {{foreach: [1], value: "{{{{ item }}}}"}}
          b: {user}
        """,
        files={"t.py": "def f(x): return 1"},
    )
    scope = GraphScope(token=CancelToken(), graph=CompiledGraph(flow))
    invocation = NodeInvocation(
        node_id="a", step=flow.steps["a"], values={}, position=ItemPosition(), scope=scope, totals=UsageTotals()
    )
    return ForeachResults(invocation)


def record(place: int, output: Json, status: NodeStatus = NodeStatus.SUCCEEDED) -> NodeRecord:
    return NodeRecord(
        run_id="r1",
        node_id=f"a[{place}]",
        kind=StepKind.VALUE,
        status=status,
        output=output,
        place=place,
        item=place * 10,
        error={"message": "no"} if status is NodeStatus.FAILED else None,
    )


def result(these: ForeachResults, state: ForeachState | None = None) -> Result:
    return these.result(FakeContext(), state or ForeachState(window=1))


def test_outputs_are_in_input_order_whatever_order_items_end_in() -> None:
    these = results('{value: "{{ a | length }}"}')
    for one in (record(2, "c"), record(0, "a"), record(1, "b", NodeStatus.FAILED)):
        these.add(one)
    assert result(these).output == ["a", None, "c"]
    assert (result(these).rows, result(these).lazy) == (None, None)


def test_nothing_is_held_where_nobody_looks() -> None:
    these = results('{value: "{{ steps.a.status }}"}')
    these.add(record(0, "a"))
    assert (result(these).output, result(these).rows, result(these).lazy) == (None, None, None)
    assert these._outputs == {}


def test_rows_tell_of_each_item_and_of_a_judgement_that_failed_it_later() -> None:
    these = results('{value: "{{ steps.a.rows }}"}')
    these.add(record(1, "b"))
    these.add(record(0, "a"))
    these.replaced(replace(record(1, "b", NodeStatus.FAILED), error={"message": "odd"}))
    assert result(these).rows == [
        {"index": 0, "item": 0, "status": "succeeded", "output": "a", "error": None},
        {"index": 1, "item": 10, "status": "failed", "output": None, "error": {"message": "odd"}},
    ]


def test_the_digest_of_a_whole_output_knows_each_place_and_no_order_of_endings() -> None:
    def digest(*records: NodeRecord) -> str:
        these = results('{python: "./t.py:f", with: {x: "{{ a }}"}}')
        for one in records:
            these.add(one)
        lazy = result(these).lazy
        assert lazy.sequence == ("read", "a", None)
        return lazy.digest

    first = digest(record(0, "x"), record(1, "y"))
    assert first == digest(record(1, "y"), record(0, "x"))
    assert first != digest(record(0, "y"), record(1, "x"))
    assert first != digest(record(0, "x"))


def test_under_accept_only_the_chosen_ones_are_the_output() -> None:
    policy = AcceptPolicy(count=1, overshoot=1, ordered=False, judge=lambda ended, accepted: ended.output == "good")
    state = ForeachState(window=2, total=3, policy=policy)
    these = results('{value: "{{ a }}"}')
    for place, output in enumerate(["bad", "good"]):
        state.pulled(place)
        state.ended(Ended(index=place, number=place, status=NodeStatus.SUCCEEDED, output=output))
        these.add(record(place, output))
    assert result(these, state).output == ["good"]
