"""Where the work of nodes is carried out, as the engine sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from flowllm.core.types import Json
from flowllm.language.workflow import Step
from flowllm.steps.base import Bound, NodeContext, Work
from flowllm.storage.base import NodeRecord


class Backend(Protocol):
    """Binds steps to values and carries them out."""

    def bind(self, step: Step, values: Mapping[str, Json]) -> Bound:
        """Exactly what the step would send or compute with these values. Raises StepError."""
        ...

    def work(self, bound: Bound) -> Work:
        """What carrying it out would take. Sends nothing."""
        ...

    async def run(self, bound: Bound, context: NodeContext) -> NodeRecord:
        """Carry it out and give its record, which is durable, or is written with the next commit where nothing
        would be lost with it. Raises StepError, RunStopped, StoreError, CallStopped."""
        ...
