"""Nodes are carried out in this process."""

from __future__ import annotations

from collections.abc import Mapping

from flowllm.core.types import Json, StepKind
from flowllm.language.workflow import Step
from flowllm.steps.base import Bound, Closable, Kind, NodeContext, Work
from flowllm.storage.base import NodeRecord


class LocalBackend:
    """Hands each step to its kind."""

    def __init__(self, kinds: Mapping[StepKind, Kind]) -> None:
        self._kinds = kinds

    def bind(self, step: Step, values: Mapping[str, Json]) -> Bound:
        """Exactly what the step would send or compute with these values. Raises StepError."""
        return self._kinds[step.kind].bind(step, values)

    @property
    def slots(self) -> dict[str, int]:
        """How many attempts of each local account go at the same time."""
        return {name: most for kind in self._kinds.values() for name, most in getattr(kind, "slots", {}).items()}

    async def close(self) -> None:
        """Give back what kinds hold open."""
        for kind in self._kinds.values():
            if isinstance(kind, Closable):
                await kind.close()

    def work(self, bound: Bound) -> Work:
        """What carrying it out would take. Sends nothing."""
        return self._kinds[bound.step.kind].work(bound)

    async def run(self, bound: Bound, context: NodeContext) -> NodeRecord:
        """Carry it out; the record that comes back is durable."""
        return await self._kinds[bound.step.kind].run(bound, context)
