"""Steps that wait for each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter


def cycles(edges: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """One shortest cycle of each strongly connected component, each node once, in order of the graph.

    `edges` gives for each node those it waits for; names that are not nodes are left out, and so are nodes
    that wait for themselves.
    """
    graph = {node: [n for n in after if n in edges and n != node] for node, after in edges.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        return _shortest(graph)
    return []


def _shortest(graph: Mapping[str, Sequence[str]]) -> list[list[str]]:
    # networkx takes half a second to import, which only a graph that has cycles should pay
    import networkx as nx  # noqa: PLC0415

    whole: nx.DiGraph[str] = nx.DiGraph({node: list(after) for node, after in graph.items()})
    rank = {node: place for place, node in enumerate(graph)}
    found = []
    for component in nx.strongly_connected_components(whole):
        if len(component) > 1:
            start = min(component, key=rank.__getitem__)
            towards = whole.subgraph(component).reverse()
            steps = nx.single_source_shortest_path_length(towards, start)
            following = dict(nx.bfs_predecessors(towards, start))
            cycle = [start, min((node for node in graph[start] if node in component), key=steps.__getitem__)]
            while (node := following[cycle[-1]]) != start:
                cycle.append(node)
            found.append(cycle)
    return sorted(found, key=lambda cycle: rank[cycle[0]])
