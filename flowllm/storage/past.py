"""What is on record of earlier runs of a workflow: verbs of the store for what `plan` expects."""

from __future__ import annotations

from typing import Protocol

from flowllm.core.types import NodeStatus
from flowllm.storage.records import AttemptRecord


class PastReads(Protocol):
    """Steps are named by their paths, without the numbers of items, and without the row of `--over`."""

    async def past_attempts(self, workflow: str, step: str, *, limit: int) -> list[AttemptRecord]:
        """Ended attempts at a step that were sent, in the newest runs of a workflow, the newest run's first: some from each until there
        are enough."""
        ...

    async def past_statuses(self, workflow: str, step: str, *, limit: int) -> list[NodeStatus]:
        """How the nodes of a step ended, in the same way."""
        ...

    async def past_answers(self, provider: str, model: str, *, limit: int) -> list[AttemptRecord]:
        """Answers of a model to any steps, as far as they are among the newest attempts of all, the newest first; of all models
        of that provider if `model` is empty."""
        ...
