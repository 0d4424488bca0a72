from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowllm.core.types import NODE_TERMINAL, NodeStatus, RunStatus, Tolerance
from flowllm.runtime.graph_state import (
    EndNode,
    EndRun,
    GraphState,
    GraphTopology,
    NodeFinished,
    RunBegun,
    StartNode,
    StopAsked,
    StopSending,
)

NEED, MAY, ANY = Tolerance.REQUIRED, Tolerance.OPTIONAL, Tolerance.ANY
OK, FAILED, SKIPPED = NodeStatus.SUCCEEDED, NodeStatus.FAILED, NodeStatus.SKIPPED


def begin(edges: dict, *, forgiven: tuple = (), fail_fast: bool = False) -> GraphState:
    state = GraphState(GraphTopology(edges, forgiven=forgiven), fail_fast=fail_fast)
    started = [c.node for c in state.handle(RunBegun()) if isinstance(c, StartNode)]
    assert started == [node for node, needs in edges.items() if not needs]
    return state


def end(state: GraphState, node: str, status: NodeStatus = OK) -> list:
    return state.handle(NodeFinished(node=node, status=status))


def test_a_step_starts_when_its_own_inputs_are_there_whatever_its_siblings_do() -> None:
    state = begin({"a": {}, "slow": {}, "b": {"a": NEED}, "c": {"b": NEED}})
    assert end(state, "a") == [StartNode(node="b")]
    assert end(state, "b") == [StartNode(node="c")]
    assert end(state, "c") == []
    assert end(state, "slow") == [EndRun(status=RunStatus.SUCCEEDED)]


def test_a_join_waits_for_all_and_runs_once() -> None:
    state = begin({"a": {}, "b": {}, "join": {"a": NEED, "b": NEED}})
    assert end(state, "a") == []
    assert end(state, "b") == [StartNode(node="join")]


def test_failure_blocks_what_needs_it_and_nothing_else() -> None:
    state = begin({"a": {}, "b": {}, "c": {"a": NEED}, "d": {"c": NEED}, "e": {"b": NEED}})
    blocked = [
        EndNode(node="c", status=NodeStatus.BLOCKED, cause="a"),
        EndNode(node="d", status=NodeStatus.BLOCKED, cause="c"),
    ]
    assert end(state, "a", FAILED) == blocked
    assert end(state, "b") == [StartNode(node="e")]
    assert end(state, "e") == [EndRun(status=RunStatus.FAILED)]


def test_skipped_goes_on_to_what_requires_it_and_stops_at_what_does_not() -> None:
    state = begin({"a": {}, "b": {"a": NEED}, "c": {"a": MAY}, "d": {"a": ANY}})
    assert end(state, "a", SKIPPED) == [
        EndNode(node="b", status=SKIPPED, cause="a"),
        StartNode(node="c"),
        StartNode(node="d"),
    ]


def test_an_optional_reference_does_not_put_up_with_failure_but_status_does() -> None:
    state = begin({"a": {}, "optional": {"a": MAY}, "handler": {"a": ANY}})
    assert end(state, "a", FAILED) == [
        EndNode(node="optional", status=NodeStatus.BLOCKED, cause="a"),
        StartNode(node="handler"),
    ]
    assert end(state, "handler") == [EndRun(status=RunStatus.FAILED)]


def test_blocked_wins_over_skipped() -> None:
    state = begin({"bad": {}, "gone": {}, "c": {"gone": NEED, "bad": NEED}})
    assert end(state, "gone", SKIPPED) == []
    assert end(state, "bad", FAILED) == [
        EndNode(node="c", status=NodeStatus.BLOCKED, cause="bad"),
        EndRun(status=RunStatus.FAILED),
    ]


def test_a_forgiven_failure_counts_as_skipped_and_the_run_can_succeed() -> None:
    state = begin({"a": {}, "b": {"a": NEED}, "c": {"a": MAY}}, forgiven=["a"])
    assert end(state, "a", FAILED) == [EndNode(node="b", status=SKIPPED, cause="a"), StartNode(node="c")]
    assert end(state, "c") == [EndRun(status=RunStatus.SUCCEEDED)]
    assert state.tolerated("a")


def test_fail_fast_stops_at_the_first_failure_and_keeps_what_is_in_flight() -> None:
    state = begin({"a": {}, "b": {}, "c": {"b": NEED}}, fail_fast=True)
    assert end(state, "a", FAILED) == [StopSending()]
    assert end(state, "b") == [EndRun(status=RunStatus.FAILED)]
    assert state.status["c"] is NodeStatus.CANCELLED


def test_stop_starts_nothing_new_and_ends_when_the_last_in_flight_has() -> None:
    state = begin({"a": {}, "b": {"a": NEED}})
    assert state.handle(StopAsked(status=RunStatus.INTERRUPTED)) == [StopSending()]
    assert state.handle(StopAsked(status=RunStatus.INTERRUPTED)) == []
    assert end(state, "a") == [EndRun(status=RunStatus.INTERRUPTED)]
    assert state.status["b"] is NodeStatus.CANCELLED


def test_a_stop_that_came_too_late_to_matter_changes_nothing() -> None:
    state = begin({"a": {}})
    state.handle(StopAsked(status=RunStatus.INTERRUPTED))
    assert end(state, "a") == [EndRun(status=RunStatus.SUCCEEDED)]


def test_an_empty_run_succeeds() -> None:
    assert GraphState(GraphTopology({})).handle(RunBegun()) == [EndRun(status=RunStatus.SUCCEEDED)]


def test_a_node_ends_once() -> None:
    state = begin({"a": {}, "b": {}})
    end(state, "a")
    with pytest.raises(ValueError, match="cannot go"):
        end(state, "a")


def test_a_chain_of_fifty_thousand_blocks_without_recursion() -> None:
    edges = {0: {}, **{n: {n - 1: NEED} for n in range(1, 50_000)}}
    assert len(end(begin(edges), 0, FAILED)) == 50_000


@st.composite
def graphs(draw: st.DrawFn) -> dict:
    size = draw(st.integers(1, 9))
    return {
        node: {need: draw(st.sampled_from([NEED, MAY, ANY])) for need in range(node) if draw(st.booleans())}
        for node in range(size)
    }


def expected(node: int, edges: dict, status: dict, forgiven: set) -> NodeStatus | None:
    """The outcome by dependencies, word for word from the language's rules; None: it runs."""

    def seen(need: int) -> NodeStatus:
        return SKIPPED if need in forgiven and status[need] is FAILED else status[need]

    strict = {need: how for need, how in edges[node].items() if how is not ANY}
    if any(seen(need) in {FAILED, NodeStatus.BLOCKED} for need in strict):
        return NodeStatus.BLOCKED
    if any(seen(need) is SKIPPED for need, how in strict.items() if how is NEED):
        return SKIPPED
    return None


@settings(max_examples=300, deadline=None)
@given(graphs(), st.integers(0, 2**32), st.sets(st.integers(0, 8)))
def test_every_node_gets_the_outcome_that_the_rules_give_it_in_any_order(edges: dict, seed: int, forgiven: set) -> None:
    draw = random.Random(seed)
    forgiven &= set(edges)
    state = GraphState(GraphTopology(edges, forgiven=forgiven))
    running, started, ended = [], [], None
    commands = state.handle(RunBegun())
    while True:
        for command in commands:
            match command:
                case StartNode(node=node):
                    assert all(state.status[need] in NODE_TERMINAL for need in edges[node])
                    running.append(node)
                    started.append(node)
                case EndRun(status=status):
                    ended = status
                case _:
                    pass
        if not running:
            break
        node = running.pop(draw.randrange(len(running)))
        commands = end(state, node, draw.choice([OK, OK, FAILED, SKIPPED]))
    assert ended is not None
    assert len(started) == len(set(started))
    for node, status in state.status.items():
        assert status in NODE_TERMINAL
        verdict = expected(node, edges, state.status, forgiven)
        assert (verdict is None) == (node in started)
        assert verdict is None or status is verdict
    bad = any(status is FAILED and node not in forgiven for node, status in state.status.items())
    assert ended is (RunStatus.FAILED if bad else RunStatus.SUCCEEDED)
