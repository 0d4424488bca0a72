"""The fewest chains that go through all nodes of a graph, without its transitive closure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

MOST_EDGES = 20_000_000
"""Edges that are gone along at most, some seconds; what is found by then is an upper bound."""


class Cover:
    """How many paths, which may cross, it takes to go through every node of an acyclic graph.

    A node that follows on another saves a path, once each: a matching of nodes with later ones, which is found as a flow
    through the edges themselves (Ntafos and Hakimi 1979; Dinic 1970). Each node is there twice: as one that is followed (`n`), and as one that follows (`size + n`). A path that comes to
    a node may go on to what follows on it."""

    def __init__(self, after: Sequence[Sequence[int]]) -> None:
        """`after` are the nodes that follow on each."""
        self._after = after
        self._size = len(after)
        self._followed = [False] * self._size
        self._follows = [False] * self._size
        self._from: list[dict[int, int]] = [{} for _ in after]
        """What flows into each node that follows, by where it comes from."""
        self._through = [0] * self._size
        """What flows on from it, as if it were followed."""
        self._level: list[int] = []
        self._saved = 0
        self.gone = 0
        """Edges that were gone along."""

    def fewest(self) -> int:
        """The number of paths."""
        self._begin()
        while self.gone < MOST_EDGES and self._levels() and self._augment():
            pass
        return self._size - self._saved

    def _begin(self) -> None:
        """What can be matched at once."""
        for node, following in enumerate(self._after):
            self.gone += len(following)
            taken = next((one for one in following if not self._follows[one]), None)
            if taken is not None:
                self._followed[node] = self._follows[taken] = True
                self._from[taken][node] = 1
                self._saved += 1

    def _onward(self, at: int) -> list[int]:
        """Where flow can go from a node."""
        if at < self._size:
            onward = [self._size + one for one in self._after[at]]
            return [*onward, self._size + at] if self._through[at] else onward
        node = at - self._size
        return [node, *(one for one, flow in self._from[node].items() if flow)]

    def _levels(self) -> bool:
        """Number all nodes by their distance from those that nothing follows yet; False: no path leads on."""
        level = self._level = [-1] * (2 * self._size)
        queue = deque(node for node in range(self._size) if not self._followed[node])
        for node in queue:
            level[node] = 0
        found = False
        while queue:
            at = queue.popleft()
            found = found or (at >= self._size and not self._follows[at - self._size])
            onward = self._onward(at)
            self.gone += len(onward)
            for one in onward:
                if level[one] < 0:
                    level[one] = level[at] + 1
                    queue.append(one)
        return found

    def _augment(self) -> bool:
        """Send flow along paths of rising level until there is none."""
        before = self._saved
        tried: dict[int, list[int]] = {}
        for start in range(self._size):
            if not self._followed[start]:
                self._send(start, tried)
        return self._saved > before

    def _send(self, start: int, tried: dict[int, list[int]]) -> None:
        path = [start]
        while path:
            at = path[-1]
            if at >= self._size and not self._follows[at - self._size]:
                self._take(path)
                return
            if at not in tried:
                tried[at] = self._onward(at)
                self.gone += len(tried[at])
            left = tried[at]
            while left and (self._level[left[-1]] != self._level[at] + 1 or not self._is_open(at, left[-1])):
                left.pop()
            if left:
                path.append(left[-1])
            else:
                path.pop()
                if path:
                    tried[path[-1]].pop()

    def _is_open(self, at: int, to: int) -> bool:
        """What flows can be taken back once; what may flow has no bound."""
        if at < self._size:
            return to != self._size + at or self._through[at] > 0
        return to == at - self._size or self._from[at - self._size][to] > 0

    def _take(self, path: list[int]) -> None:
        size = self._size
        for here, there in pairwise(path):
            if here < size and there - size == here:
                self._through[here] -= 1
            elif here < size:
                self._from[there - size][here] = self._from[there - size].get(here, 0) + 1
            elif there == here - size:
                self._through[there] += 1
            else:
                self._from[here - size][there] -= 1
        self._followed[path[0]] = self._follows[path[-1] - size] = True
        self._saved += 1
