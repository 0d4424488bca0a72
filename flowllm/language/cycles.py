"""Steps that wait for each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence


def cycles(edges: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """One shortest cycle of each knot (strongly connected component), each node once, in order of the graph.

    `edges` gives for each node those it waits for; names that are not nodes are left out, and so are nodes
    that wait for themselves.
    """
    graph = {node: [n for n in after if n in edges and n != node] for node, after in edges.items()}
    rank = {node: place for place, node in enumerate(graph)}
    knots = (component for component in _components(graph) if len(component) > 1)
    found = [_shortest(graph, min(knot, key=rank.__getitem__), set(knot)) for knot in knots]
    return sorted(found, key=lambda cycle: rank[cycle[0]])


def _components(graph: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Tarjan's algorithm (SIAM J. Comput. 1, 1972), with a stack of its own in place of recursion."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    for root in graph:
        if root in index:
            continue
        work: list[tuple[str, Iterator[str]]] = [(root, iter(graph[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, after = work[-1]
            following = next(after, None)
            if following is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    yield _pop(stack, on_stack, node)
            elif following not in index:
                index[following] = low[following] = len(index)
                stack.append(following)
                on_stack.add(following)
                work.append((following, iter(graph[following])))
            elif following in on_stack:
                low[node] = min(low[node], index[following])


def _pop(stack: list[str], on_stack: set[str], until: str) -> list[str]:
    component = []
    while True:
        node = stack.pop()
        on_stack.discard(node)
        component.append(node)
        if node == until:
            return component


def _shortest(graph: Mapping[str, Sequence[str]], start: str, within: set[str]) -> list[str]:
    came: dict[str, str] = {}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for following in graph[node]:
            if following == start:
                path = [node]
                while path[-1] != start:
                    path.append(came[path[-1]])
                return path[::-1]
            if following in within and following not in came:
                came[following] = node
                queue.append(following)
    return [start]
