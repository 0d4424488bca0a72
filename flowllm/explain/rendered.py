"""The prompts of one step, as far as they can be rendered: what `plan --show` prints."""

from __future__ import annotations

import re
from bisect import insort
from collections.abc import Sequence

from flowllm.core.records import dataclass, field
from flowllm.core.types import ROW, Json, NodeId, step_path
from flowllm.steps.base import Bound


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPrompt:
    """What one node would have a model read."""

    node: str
    body: Json = None
    """As it would be sent, secrets masked; None where it cannot be rendered yet."""
    waits: tuple[str, ...] = ()
    """The steps that it needs, and whose outputs are not known yet."""

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        return {"step": self.node, "body": self.body, "waits_for": list(self.waits)}


@dataclass(slots=True)
class Shown:
    """Collects them while a run is planned."""

    step: str
    """Its path, without the numbers of items."""
    limit: int
    """Of its nodes, so many first ones."""
    found: list[ShownPrompt] = field(default_factory=list)
    count: int = 0
    """All that were looked at."""

    def prompt(self, name: NodeId, bound: Bound) -> None:
        """A node whose request is known."""
        if self._wanted(name):
            self._add(ShownPrompt(node=name, body=bound.parts.get("body", dict(bound.parts))))

    def waits(self, name: NodeId, steps: Sequence[str]) -> None:
        """One whose request is not."""
        if self._wanted(name):
            self._add(ShownPrompt(node=name, waits=tuple(steps)))

    def _wanted(self, name: NodeId) -> bool:
        return self.step in {step_path(name), step_path(name).removeprefix(f"{ROW}.")}

    def _add(self, one: ShownPrompt) -> None:
        """Keep the first ones in the order of the data, whatever the order in which they come."""
        self.count += 1
        insort(self.found, one, key=_place)
        del self.found[self.limit :]


def _place(one: ShownPrompt) -> list[int]:
    return [int(number) for number in re.findall(r"\[(\d+)\]", one.node)]
