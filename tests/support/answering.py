"""A provider whose answers are a function of the prompt, and short ways to run a graph on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from flowllm.core.request import Completion
from flowllm.core.types import Json, Limits, Usage
from tests.support.calls import FakeProvider
from tests.support.run_attempts import Stage

Answers: TypeAlias = Callable[[str], str | Exception | tuple[float, str | Exception]]


class Answering(FakeProvider):
    """`answer` gives a text, or an error to raise; or seconds to take first, and one of these."""

    def __init__(self, answer: Answers = "re: {}".format) -> None:
        super().__init__()
        self.answer = answer

    @property
    def asked(self) -> list[str]:
        """The prompts that were sent, in order."""
        return [request.messages[-1]["content"] for _, request in self.sent]

    def at(self, prompt: str) -> float:
        """When it was sent first."""
        return next(time for time, request in self.sent if request.messages[-1]["content"] == prompt)

    async def complete(self, request: object, *, timeout: float) -> Completion:
        answer = self.answer(request.messages[-1]["content"])
        seconds, text = answer if isinstance(answer, tuple) else (self.latency, answer)
        self.sent.append((asyncio.get_running_loop().time(), request))
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.in_flight -= 1
        if isinstance(text, Exception):
            raise text
        return Completion(text=text, model="m", usage=Usage(input_tokens=3, output_tokens=5))


@dataclass(frozen=True, kw_only=True)
class Told:
    """What came of a run attempt."""

    status: str
    outputs: dict[str, Json]
    error: dict[str, Json]
    nodes: dict[str, Json]
    """Records by node id, all of them."""
    asked: list[str]
    """What was sent in this run attempt."""
    events: list

    def status_of(self, *nodes: str) -> list[str]:
        return [self.nodes[node].status.value if node in self.nodes else "" for node in nodes]


def stage(answer: Answers = "re: {}".format, *, concurrent: int = 100) -> Stage:
    """Make it on the loop."""
    made = Stage()
    made.provider = Answering(answer)
    made.limiter.configure(made.provider.account, Limits(max_concurrent=concurrent), holder="test")
    return made


async def sit(stage: Stage, text: str, *, meanwhile: object = None, **how: object) -> Told:
    """One run attempt, to its end; `meanwhile` is awaited beside it."""
    ready = await stage.prepare(text, **how)
    before = len(stage.provider.sent)
    going = asyncio.ensure_future(ready.attempt())
    if meanwhile is not None:
        await meanwhile
    ending = await going
    run_id = how.get("run_id", "r1")
    return Told(
        status=ending.status.value,
        outputs=dict(ending.outputs),
        error=dict(ending.error or {}),
        nodes={node.node_id: node for node in await all_nodes(stage, run_id)},
        asked=stage.provider.asked[before:],
        events=ready.events,
    )


async def all_nodes(stage: Stage, run_id: str = "r1", parent: str = "") -> list:
    """Every record of a run, those within others too."""
    found = []
    for node in await stage.store.nodes(run_id, parent):
        found.append(node)
        found += await all_nodes(stage, run_id, node.node_id)
    for node in await stage.store.items(run_id, parent) if parent else []:
        found.append(node)
        found += await all_nodes(stage, run_id, node.node_id)
    return found
