"""What is made once for a step, and used whenever it is carried out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from flowllm.language.workflow import LlmBody

T = TypeVar("T")


class PerBody(Generic[T]):
    """One value for the body of each step. Not for each id: steps of two graphs of one run may have the same."""

    def __init__(self, make: Callable[[LlmBody], T]) -> None:
        self._make = make
        self._made: dict[int, tuple[LlmBody, T]] = {}

    def of(self, body: LlmBody) -> T:
        """The value that belongs to this very body; made when it is first asked for."""
        found = self._made.get(id(body))
        if found is None:  # held together with its body, so that no other can come to have that id
            found = self._made[id(body)] = (body, self._make(body))
        return found[1]
