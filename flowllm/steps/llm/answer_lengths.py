"""How long the answers of a step are, so that tokens can be reserved for one whose limit is not written."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

UNKNOWN_LENGTH = 1024
"""Tokens to reserve for an answer while nothing is known."""
_REMEMBERED = 200
_ENOUGH = 5


class Lengths:
    """The latest answers' tokens, in order of arrival and of size."""

    def __init__(self) -> None:
        self._latest: deque[int] = deque()
        self._sorted: list[int] = []

    def add(self, tokens: int) -> None:
        """One more answer."""
        self._latest.append(tokens)
        insort(self._sorted, tokens)
        if len(self._latest) > _REMEMBERED:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]

    def p95(self) -> int:
        """Tokens that 95 of 100 answers stayed within; UNKNOWN_LENGTH until there are a few."""
        if len(self._sorted) < _ENOUGH:
            return UNKNOWN_LENGTH
        return max(1, self._sorted[min(len(self._sorted) - 1, int(len(self._sorted) * 0.95))])
