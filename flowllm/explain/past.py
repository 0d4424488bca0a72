"""What earlier calls of a workflow's steps took: the basis of what later ones are expected to."""

from __future__ import annotations

from collections.abc import Sequence

from flowllm.core.types import ROW, AttemptStatus, Json, NodeId, NodeStatus, step_path
from flowllm.explain.sizes import PastCalls, likely_tokens, prompt_of
from flowllm.storage.base import AttemptRecord, Store

_ENOUGH = 200
"""Calls of a step that are looked at."""
_COMPARED = 8
"""Of them, those whose prompts are measured too."""


class Past:
    """The earlier runs of one workflow."""

    def __init__(self, store: Store, workflow: str) -> None:
        self._store = store
        self._workflow = workflow
        self._known: dict[tuple[str, str], PastCalls | None] = {}
        self._attempts: dict[str, Sequence[AttemptRecord]] = {}
        self._statuses: dict[str, Sequence[NodeStatus]] = {}

    async def calls(self, name: NodeId, model: str) -> PastCalls | None:
        """Those of the step of a node. Raises StoreError."""
        step = path_of(name)
        if (step, model) not in self._known:
            self._known[step, model] = await self._summed(step, model)
        return self._known[step, model]

    async def seconds(self, name: NodeId) -> float | None:
        """How long a step that does its work itself took, on average. Raises StoreError."""
        found = await self.calls(name, "")
        return None if found is None else found.seconds

    async def share_run(self, name: NodeId) -> float | None:
        """The share of its nodes that were not skipped. Raises StoreError."""
        step = path_of(name)
        if step not in self._statuses:
            self._statuses[step] = await self._store.past_statuses(self._workflow, step, limit=_ENOUGH)
        found = self._statuses[step]
        return None if not found else sum(status is not NodeStatus.SKIPPED for status in found) / len(found)

    async def output(self, name: NodeId) -> Json:
        """What a node gave when it last succeeded; None where it never did, and for items and what is within them.
        Raises StoreError."""
        if "[" in name:
            return None
        node = await self._store.last_node(self._workflow, name, before_seq=None)
        return None if node is None else node.output

    async def items(self, name: NodeId) -> tuple[int, int] | None:
        """How many items a foreach had in the newest run in which it succeeded, and how many of them were carried out.
        Raises StoreError."""
        node = await self._store.last_node(self._workflow, name, before_seq=None)
        if node is None or node.counts is None:
            return None
        return node.counts.total, node.counts.total - node.counts.not_sent

    async def _summed(self, step: str, model: str) -> PastCalls | None:
        if step not in self._attempts:
            self._attempts[step] = await self._store.past_attempts(self._workflow, step, limit=_ENOUGH)
        found = self._attempts[step]
        ended = [one for one in found if one.model == model and one.status is AttemptStatus.SUCCEEDED]
        calls = {(one.run_id, one.node_id, one.key) for one in ended}
        if not calls:
            return None
        times = [one.finished_at - one.started_at for one in ended if one.finished_at is not None]
        return PastCalls(
            calls=len(calls),
            input_tokens=_mean([one.usage.input_tokens for one in ended], len(calls)),
            output_tokens=_mean([one.usage.output_tokens for one in ended], len(calls)),
            seconds=sum(times) / len(times) if times else None,
            ratio=await self._ratio(ended) if model else None,
        )

    async def _ratio(self, attempts: Sequence[AttemptRecord]) -> float | None:
        reported = expected = 0.0
        for one in attempts[:_COMPARED]:
            if one.number != 1 or not one.usage.input_tokens:
                continue  # what is asked again has another prompt
            node = await self._store.node(one.run_id, one.node_id)
            if node is not None and node.parts.get("kind") == "chat":
                reported += one.usage.input_tokens
                expected += likely_tokens(prompt_of(node.parts))
        return reported / expected if expected else None


def path_of(name: NodeId) -> str:
    """The step of a node, without the row of `--over` that it is within."""
    return step_path(name).removeprefix(f"{ROW}.")


def _mean(numbers: Sequence[int | None], count: int) -> float | None:
    known = [number for number in numbers if number is not None]
    return sum(known) / count if len(known) == len(numbers) else None
