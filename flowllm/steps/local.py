"""What kinds of steps share that do their work themselves: it goes through the pipeline of calls as requests to models do.

So it is found in the cache, joined, admitted, put on record, timed out and tried again in one place. What differs: it is no
request to a model and costs nothing, no budget holds it back, and only equal work of the same run is done together.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from flowllm.calls.base import Call
from flowllm.calls.single_flight import InFlightCalls
from flowllm.core.errors import NodeTimedOut
from flowllm.core.fingerprint import canonical
from flowllm.core.request import Answer, LocalRequest
from flowllm.core.types import Json, NodeStatus, Usage
from flowllm.steps.base import Bound, NodeContext
from flowllm.storage.base import NodeRecord, NodeWrite

_MASKED: Final = re.compile(r"\*\*\*|%2A%2A%2A")
"""A secret in what a step was given, also in a URL."""


@dataclass(slots=True, kw_only=True)
class LocalWork:
    """How a bound step does its work: the performer of its call."""

    name: str
    """The kind."""
    account: str
    """Whose slots an attempt takes."""
    perform: Callable[[float, float], Awaitable[Json]]
    """One attempt, within so many seconds, of the so many that are left to all; gives the output. Raises StepError."""
    prepare: Callable[[], Awaitable[str]] | None = None
    """Gives the account, where that takes work. Raises StepError."""
    idle: Callable[[], float] = float
    """Seconds of all attempts so far that do not count against the timeout."""
    figures: Callable[[], Mapping[str, Json]] = dict
    """What it took, as fields of the node's record."""

    async def ready(self) -> None:
        """Find out whose slots it takes."""
        if self.prepare is not None:
            self.account = await self.prepare()

    def cost(self, model: str, usage: Usage) -> float:  # noqa: ARG002 - the protocol's signature
        """Nothing is paid."""
        return 0.0


async def run_local(calls: InFlightCalls, work: LocalWork, bound: Bound, context: NodeContext) -> NodeRecord:
    """Do it, or take what was done before; the record is durable. Raises StepError, StoreError, CallStopped."""
    step, found = bound.step, list[NodeRecord]()
    use_cache = step.cache.enabled and context.write_memo
    given_secrets = _MASKED.search(canonical(bound.parts)) is not None

    async def perform(limit: float, left: float) -> Json:
        context.begun()
        value = await work.perform(limit, left)
        # What holds a secret that the step was not given itself is for this run alone: to others it may be a word
        return context.redactor.value(value) if given_secrets else value

    def settle(answer: Answer) -> Sequence[NodeWrite]:
        done = not (answer.cached or answer.joined)
        figures = {"cost_usd": 0.0, **work.figures()}
        figures["queue_s"] = figures.get("queue_s", 0.0) + (answer.queue_s if done else 0.0)
        if done:
            figures |= {"attempts": answer.attempts, "call_s": answer.call_s}
        found[:] = [context.record(bound, NodeStatus.SUCCEEDED, output=answer.value, cached=not done, **figures)]
        return [context.write(node) for node in found]

    await calls.answer(
        Call(
            caller=replace(context.caller, budget=None),
            request=LocalRequest(perform=perform),
            provider=work,
            key=bound.key,
            settle=settle,
            retry=step.retry,
            timeout=step.timeout,
            priority=step.priority,
            read_memo=use_cache and context.read_memo and not context.refresh,
            write_memo=use_cache,
            ttl=step.cache.ttl,
            join=use_cache and not context.refresh,
            missed=context.missed,
            scope=context.caller.lease.run_id,
            idle=work.idle,
        )
    )
    return found[0]


def too_late(what: str, limit: float, then: str, *, attempt: bool) -> NodeTimedOut:
    """The error of an attempt that took too long; `attempt` if it had a limit of its own, so that another may follow."""
    option = "`retry.attempt_timeout`" if attempt else "`timeout`"
    error = NodeTimedOut(f"{what} within {limit:g} s", hint=f"raise the step's {option}; {then}")
    error.retryable = attempt
    return error
