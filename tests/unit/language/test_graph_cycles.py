from __future__ import annotations

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st

from flowllm.language.graphs import cycles

NODES = "abcdefgh"
GRAPHS = st.fixed_dictionaries({node: st.lists(st.sampled_from(NODES), max_size=3) for node in NODES})


def test_a_chain_has_none() -> None:
    assert cycles({"a": ["b"], "b": ["c"], "c": []}) == []


def test_each_component_is_reported_once_by_its_shortest_cycle_from_its_first_step() -> None:
    edges = {"x": ["a"], "a": ["b", "c"], "b": ["c"], "c": ["a"], "p": ["q"], "q": ["p", "a"]}
    assert cycles(edges) == [["a", "c"], ["p", "q"]]


def test_unknown_names_and_self_references_are_left_out() -> None:
    assert cycles({"a": ["a", "nowhere"]}) == []


def test_a_long_chain_does_not_overflow_the_stack() -> None:
    count = 20_000
    edges = {str(n): [str(n + 1)] for n in range(count)}
    assert cycles({**edges, str(count): []}) == []
    assert len(cycles({**edges, str(count): ["0"]})[0]) == count + 1


@given(GRAPHS)
def test_one_cycle_for_each_strongly_connected_component(edges: dict[str, list[str]]) -> None:
    graph = nx.DiGraph([(node, after) for node, outs in edges.items() for after in outs])
    components = [component for component in nx.strongly_connected_components(graph) if len(component) > 1]
    found = cycles(edges)
    assert len(found) == len(components)
    for cycle in found:
        assert any(set(cycle) <= component for component in components)
        assert all(after in edges[node] for node, after in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
