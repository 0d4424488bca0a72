"""What earlier calls took: of a workflow's steps, and of a model by any steps. The basis of what later ones are expected to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from flowllm.core.records import dataclass
from flowllm.core.types import ROW, AttemptStatus, Counts, Json, NodeId, NodeStatus, step_path
from flowllm.explain.sizes import PastCalls, likely_tokens, prompt_of
from flowllm.explain.span import NONE, Span, Takes
from flowllm.storage.base import AttemptRecord, NodeRecord, Store

_ENOUGH: Final = 200
"""Calls of a step, and answers of a model, that are looked at."""
_COMPARED: Final = 8
"""Of them, those whose prompts are measured too."""
_ALIKE: Final = 5
"""Answers of a model to one step that are looked at."""
_LONGEST: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class PastAnswers:
    """Answers of one model."""

    model: str
    answers: int
    tokens: float
    """Of one, on average."""
    share: float | None = None
    """Of the longest that they were allowed to be; None: none of them was bounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastAsked:
    """What functions that ask asked for, on average."""

    calls: int
    takes: Takes
    """Of one execution."""


class Past:
    """The earlier runs of one workflow, and the answers of models in all runs."""

    def __init__(self, store: Store, workflow: str) -> None:
        self._store = store
        self._workflow = workflow
        self._calls: dict[tuple[str, str], PastCalls | None] = {}
        self._answers: dict[tuple[str, str, bool], PastAnswers | None] = {}
        self._attempts: dict[str, Sequence[AttemptRecord]] = {}
        self._statuses: dict[str, Sequence[NodeStatus]] = {}

    async def calls(self, name: NodeId, model: str) -> PastCalls | None:
        """Those of the step of a node to a model; None where none of them was answered. Raises StoreError."""
        step = path_of(name)
        if (step, model) not in self._calls:
            self._calls[step, model] = await self._summed([one for one in await self._of(step) if one.model == model])
        return self._calls[step, model]

    async def length(self, name: NodeId) -> PastAnswers | None:
        """Of the step's answers, by the model that was asked last. Raises StoreError."""
        ended = [one for one in _answered(await self._of(path_of(name))) if one.model]
        if not ended:
            return None
        found = [one.usage.output_tokens or 0 for one in ended if one.model == ended[0].model]
        return PastAnswers(model=ended[0].model, answers=len(found), tokens=sum(found) / len(found))

    async def answers(self, provider: str, model: str, *, as_json: bool) -> PastAnswers | None:
        """Those of a model, which were to be JSON or not. Raises StoreError."""
        if (provider, model, as_json) not in self._answers:
            found = await self._store.past_answers(provider, model, limit=_ENOUGH)
            self._answers |= {
                (provider, model, json): await self._lengths(found, as_json=json) for json in (True, False)
            }
        return self._answers[provider, model, as_json]

    async def asked(self, name: NodeId) -> PastAsked | None:
        """What the function of a step asked models, which is named so. Raises StoreError."""
        found = await self._of(f"{path_of(name)}.ask")
        nodes = {(one.run_id, one.node_id.rpartition(".")[0]) for one in found}
        if not nodes:
            return None

        def each(numbers: Sequence[float | None]) -> Span:
            return Span.between(0.0, _mean(numbers, len(nodes)), None)

        usages = [one.usage for one in found]
        takes = Takes(
            requests=each([1.0 for _ in found]),
            input_tokens=each([usage.input_tokens for usage in usages]),
            output_tokens=each([usage.output_tokens for usage in usages]),
            cost_usd=each([one.cost_usd for one in found]) if any(one.cost_usd != 0 for one in found) else NONE,
        )
        return PastAsked(calls=len(found), takes=takes)

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

    async def items(self, name: NodeId) -> Counts | None:
        """What became of the items of a foreach in the newest run in which it succeeded. Raises StoreError."""
        node = await self._store.last_node(self._workflow, name, before_seq=None)
        return None if node is None else node.counts

    async def _of(self, step: str) -> Sequence[AttemptRecord]:
        if step not in self._attempts:
            self._attempts[step] = await self._store.past_attempts(self._workflow, step, limit=_ENOUGH)
        return self._attempts[step]

    async def _summed(self, found: Sequence[AttemptRecord]) -> PastCalls | None:
        ended = _answered(found)
        if not ended:
            return None
        calls = {(one.run_id, one.node_id, one.key) for one in ended}
        sent = sum((one.run_id, one.node_id, one.key) in calls for one in found)
        tokens = sum(one.usage.input_tokens or 0 for one in ended)
        times = (one.finished_at - one.started_at for one in ended if one.finished_at is not None)
        return PastCalls(
            calls=len(calls),
            requests=sent / len(calls),
            answers=len(ended) / len(calls),
            input_tokens=_mean([one.usage.input_tokens for one in ended], len(calls)),
            output_tokens=_mean([one.usage.output_tokens for one in ended], len(calls)),
            cached_share=sum(one.usage.cached_input_tokens or 0 for one in ended) / tokens if tokens else 0.0,
            seconds=tuple(times),
            ratio=await self._ratio(ended) if ended[0].model else None,
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

    async def _lengths(self, found: Sequence[AttemptRecord], *, as_json: bool) -> PastAnswers | None:
        """The same number of each step: those of a foreach are many, and alike."""
        alike: dict[str, int] = {}
        tokens: list[int] = []
        bounded = most = 0
        for one in found:
            step = path_of(one.node_id)
            alike[step] = alike.get(step, 0) + 1
            node = None if alike[step] > _ALIKE else await self._store.node(one.run_id, one.node_id)
            if node is None or node.parts.get("kind") != "chat" or node.parts.get("json") is not as_json:
                continue
            written, longest = one.usage.output_tokens or 0, _longest(node)
            tokens.append(written)
            if longest:
                bounded, most = bounded + written, most + longest
        if not tokens:
            return None
        share = bounded / most if most else None
        return PastAnswers(model=found[0].model, answers=len(tokens), tokens=sum(tokens) / len(tokens), share=share)


def path_of(name: NodeId) -> str:
    """The step of a node, without the row of `--over` that it is within."""
    return step_path(name).removeprefix(f"{ROW}.")


def _answered(found: Sequence[AttemptRecord]) -> list[AttemptRecord]:
    return [one for one in found if one.status is AttemptStatus.SUCCEEDED]


def _longest(node: NodeRecord) -> int | None:
    """What the answer to it was bounded by."""
    body: Mapping[str, Json] = node.parts.get("body") or {}
    found = [body[name] for name in _LONGEST if isinstance(body.get(name), int)]
    return max(found, default=None)


def _mean(numbers: Sequence[float | None], count: int) -> float | None:
    known = [number for number in numbers if number is not None]
    return sum(known) / count if len(known) == len(numbers) else None
