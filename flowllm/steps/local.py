"""What kinds of steps share that do their work themselves, and not through the wing of calls.

Answers of `cache: true` come from the memo, equal work at the same time is done once, failures are tried again as the
step's `retry` says, and the timeout holds over all attempts, waiting for a free place left out.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from flowllm.calls.response_cache import fresh, record_of
from flowllm.calls.retry import Attempts
from flowllm.core.cancel import CallStopped
from flowllm.core.errors import NodeTimedOut, StepError
from flowllm.core.events import NodeRetrying
from flowllm.core.fingerprint import canonical
from flowllm.core.request import Answer
from flowllm.core.types import Json, NodeStatus
from flowllm.steps.base import Bound, NodeContext
from flowllm.storage.base import MemoRecord, NodeRecord

_MASKED = re.compile(r"\*\*\*|%2A%2A%2A")
"""A secret in what a step was given, also in a URL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """How a bound step does its work."""

    once: Callable[[float], Awaitable[Json]]
    """One attempt within so many seconds; gives the output. Raises StepError."""
    places: AbstractAsyncContextManager[None]
    """Held during an attempt."""
    waited: Callable[[], float] = float
    """Seconds of all attempts so far that do not count against the timeout."""
    figures: Callable[[], Mapping[str, Json]] = dict
    """What it took, as fields of the node's record."""


class Local:
    """Carries out steps of one kind; one serves a whole run."""

    def __init__(self, kind: str) -> None:
        """`kind` stands as the provider of what goes into the memo."""
        self._kind = kind
        self._under_way: dict[str, asyncio.Future[StepError | None]] = {}

    async def carry_out(self, bound: Bound, context: NodeContext, act: Act) -> NodeRecord:
        """Do it, or take what was done before; the record is durable. Raises StepError, StoreError, CallStopped."""
        if not (bound.step.cache.enabled and context.write_memo):
            context.missed()
            return await self._done(bound, context, act, cached=False)
        if context.refresh:  # wants an answer of its own, and not one that was on its way
            context.missed()
            return await self._done(bound, context, act, cached=True)
        while (other := self._under_way.get(bound.key)) is not None:
            context.missed()
            if (error := await context.asker.token.until_stopped(_outcome(other))) is not None:
                raise error
        mine = self._under_way[bound.key] = asyncio.get_running_loop().create_future()
        failed = None
        try:
            return await self._remembered_or_done(bound, context, act)
        except StepError as error:
            failed = error
            raise
        finally:
            del self._under_way[bound.key]
            mine.set_result(failed)

    async def _remembered_or_done(self, bound: Bound, context: NodeContext, act: Act) -> NodeRecord:
        found = await _remembered(bound, context)
        if found is None:
            context.missed()
            return await self._done(bound, context, act, cached=True)
        node = context.record(bound, NodeStatus.SUCCEEDED, output=found.answer["value"], cached=True, cost_usd=0.0)
        await context.store.settle(nodes=(context.write(node),))
        return node

    async def _done(self, bound: Bound, context: NodeContext, act: Act, *, cached: bool) -> NodeRecord:
        """What holds a secret that the step was not given itself is for this run alone: to others it may be a word."""
        started = context.clock.monotonic()
        value, attempts = await _until_done(bound, context, act)
        node = context.record(
            bound,
            NodeStatus.SUCCEEDED,
            output=value,
            attempts=attempts,
            **{"cost_usd": 0.0, **act.figures()},
            call_s=context.clock.monotonic() - started,
        )
        memo, shown = None, context.redactor.value(value)
        if cached and (shown == value or _MASKED.search(canonical(bound.parts))):
            answer = Answer(value=shown, model="", provider=self._kind, cost_usd=0.0)
            memo = record_of(bound.key, answer, now=context.clock.now())
        await context.store.settle(memo=memo, nodes=(context.write(node),))
        return node


async def _outcome(other: asyncio.Future[StepError | None]) -> StepError | None:
    """How the same work ended that is under way elsewhere: its error, None if its result is in the memo or it was
    broken off."""
    return await asyncio.shield(other)


async def _remembered(bound: Bound, context: NodeContext) -> MemoRecord | None:
    if not context.read_memo:
        return None
    found = await context.store.memo(bound.key)
    if found is None or not fresh(found, bound.step.cache.ttl, now=context.clock.now()):
        return None
    return found


async def _until_done(bound: Bound, context: NodeContext, act: Act) -> tuple[Json, int]:
    attempts, number = Attempts(bound.step.retry, random.random), 0
    token, left = context.asker.token, bound.step.timeout
    while True:
        number += 1
        async with act.places:  # waiting for a place does not count against the timeout
            if token.stopped:
                raise CallStopped
            context.begun()
            began = context.clock.monotonic() - act.waited()
            try:
                return await act.once(left), number
            except StepError as error:
                left -= context.clock.monotonic() - act.waited() - began
                delay = _delay(attempts, error, left, bound.step.timeout)
                _tell_retry(context, number, delay, error)
        await token.until_stopped(context.clock.sleep(delay))
        left -= delay


def too_late(what: str, limit: float, then: str, *, attempt: bool) -> NodeTimedOut:
    """The error of an attempt that took too long; `attempt` if it had a limit of its own, so that another may follow."""
    option = "`retry.attempt_timeout`" if attempt else "`timeout`"
    error = NodeTimedOut(f"{what} within {limit:g} s", hint=f"raise the step's {option}; {then}")
    error.retryable = attempt
    return error


def _delay(attempts: Attempts, error: StepError, left: float, timeout: float) -> float:
    """Seconds until the next attempt. Raises the error, or NodeTimedOut, if there is none."""
    delay = attempts.failed(error)
    if delay is None:
        raise error
    if delay >= left:
        raise NodeTimedOut(
            f"gave up after {timeout:g} s, the step's timeout; the last attempt: {error.message}",
            hint="raise the step's `timeout`",
        )
    return delay


def _tell_retry(context: NodeContext, attempt: int, delay: float, error: StepError) -> None:
    context.asker.emit(
        NodeRetrying(
            run_id=context.asker.fence.run_id,
            node_id=context.asker.node_id,
            at=context.clock.now(),
            attempt=attempt,
            delay_s=delay,
            error=context.redactor.value(error.as_dict()),
        )
    )
