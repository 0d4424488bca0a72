from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from flowllm.core.types import Tolerance
from flowllm.explain.graph import Graph, fewest_chains
from tests.support.graphs import blog, graph_of


@st.composite
def graphs(draw: st.DrawFn, most: int = 7) -> Graph:
    names = [f"s{i}" for i in range(draw(st.integers(1, most)))]
    edges = [pair for pair in itertools.combinations(names, 2) if draw(st.booleans())]
    return graph_of(*edges, steps=" ".join(names))


def test_generations_are_by_the_longest_chain_and_in_the_order_of_the_file() -> None:
    assert blog().generations() == (("headline", "keywords"), ("intro", "clean", "score"), ("outline",), ("post",))


def test_edges_know_whether_they_are_optional() -> None:
    assert [(edge.before, edge.optional) for edge in blog().incoming()["post"]] == [("outline", False), ("clean", True)]
    assert [edge.optional for edge in graph_of(("a", "b", Tolerance.ANY)).edges] == [True]


def test_the_critical_path_is_the_slowest_chain() -> None:
    assert blog().critical_path({"headline": 1, "intro": 1, "outline": 1, "post": 1, "keywords": 1}) == (
        "headline",
        "intro",
        "outline",
        "post",
    )
    assert blog().critical_path({"keywords": 9, "post": 1}) == ("keywords", "clean", "post")
    assert blog().critical_path({})[0] == "headline"
    assert graph_of().critical_path({}) == ()


@given(graphs(), st.data())
def test_no_chain_is_slower_than_the_critical_path(graph: Graph, data: st.DataObject) -> None:
    durations = {step: data.draw(st.integers(0, 9)) for step in graph.steps}
    follows = {step: [edge.after for edge in graph.edges if edge.before == step] for step in graph.steps}

    def slowest(step: str) -> int:
        return durations[step] + max((slowest(after) for after in follows[step]), default=0)

    path = graph.critical_path(durations)
    assert all(after in follows[before] for before, after in itertools.pairwise(path))
    assert sum(durations[step] for step in path) == max(slowest(step) for step in graph.steps)


@given(graphs())
def test_width_is_the_largest_set_of_steps_of_which_none_waits_for_another(graph: Graph) -> None:
    incoming, waits = graph.incoming(), {}
    for step in graph.steps:  # each stands behind those that it waits for
        needs = [edge.before for edge in incoming[step]]
        waits[step] = set(needs).union(*(waits[need] for need in needs))
    sizes = [
        len(chosen)
        for size in range(len(graph.steps) + 1)
        for chosen in itertools.combinations(graph.steps, size)
        if not any(a in waits[b] or b in waits[a] for a, b in itertools.combinations(chosen, 2))
    ]
    assert graph.width() == max(sizes)


def test_width_can_be_more_than_any_generation() -> None:
    graph = graph_of(("a", "b"), ("c", "d"), ("c", "e"), ("e", "f"), ("e", "h"), ("b", "g"))
    assert max(len(generation) for generation in graph.generations()) == 3
    assert graph.width() == 4


def test_a_long_chain_is_no_problem() -> None:
    names = [f"s{i}" for i in range(3000)]
    chain = graph_of(*itertools.pairwise(names))
    assert len(chain.generations()) == 3000
    assert len(chain.critical_path(dict.fromkeys(names, 1.0))) == 3000


def test_the_width_of_a_large_graph_takes_no_closure() -> None:
    """Of 5,000 steps that all wait for each other the closure has 12 million pairs."""
    chain = [[step + 1] for step in range(4999)] + [[]]
    layers = [[(step // 20 + 1) * 20 + n for n in range(20)] for step in range(4980)] + [[]] * 20
    tree = [[below for below in (2 * step + 1, 2 * step + 2) if below < 4095] for step in range(4095)]
    for after, width in ((chain, 1), (layers, 20), (tree, 2048)):
        assert fewest_chains(after, most_edges=4 * (len(after) + sum(map(len, after)))) == width
