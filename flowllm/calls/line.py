"""The line to the providers: admission, the attempt on record, the wire, and what to send next.

A request's attempt is durable before it is sent. Its slot is given back only when its outcome is durable too, so
that a crash repeats at most what was admitted at that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flowllm.calls.dialogue import Accept, Dialogue, GiveUp, Send
from flowllm.calls.gate import CallStopped
from flowllm.calls.memo import record_of
from flowllm.errors import (
    AttemptTimedOut,
    ConnectionFailed,
    NodeTimedOut,
    RateLimited,
    StepError,
    StoreError,
)
from flowllm.events import NodeRetrying, RequestEnded, RequestSent
from flowllm.request import Answer
from flowllm.store.base import AttemptRecord
from flowllm.types import AttemptStatus, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowllm.calls.base import Ask, Asker, Call
    from flowllm.clock import Clock
    from flowllm.limits.limiter import Limiter, Permit
    from flowllm.redact import Redactor
    from flowllm.request import ChatRequest, Completion
    from flowllm.store.base import Store


@dataclass(slots=True)
class _Meter:
    """What a call has taken so far, in seconds, dollars and requests."""

    attempts: int = 0
    queue_s: float = 0.0
    call_s: float = 0.0
    waited_s: float = 0.0
    """Backoff between attempts."""
    cost_usd: float | None = field(default=0.0)

    @property
    def active_s(self) -> float:
        """What counts against the step's timeout."""
        return self.call_s + self.waited_s

    def pay(self, cost: float | None) -> None:
        """One unknown price makes the sum unknown."""
        self.cost_usd = None if cost is None or self.cost_usd is None else self.cost_usd + cost


class Line:
    """The innermost layer."""

    def __init__(
        self,
        limiter: Limiter,
        store: Store,
        clock: Clock,
        *,
        redactor: Redactor,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`draw` gives even draws from [0, 1), for jitter."""
        self.redactor = redactor
        self.limiter = limiter
        self.store = store
        self.clock = clock
        self._draw = draw

    async def answer(self, call: Call) -> Answer:
        """Ask until there is a valid answer, or no sense in asking again."""
        ask = call.ask
        dialogue = Dialogue(
            ask.request,
            policy=ask.retry,
            validator=ask.validator,
            keep_truncated=ask.keep_truncated,
            random=self._draw,
        )
        return await _Talk(self, call, dialogue).answer()


class _Talk:
    """One call on the line: carries out what its dialogue decides."""

    def __init__(self, line: Line, call: Call, dialogue: Dialogue) -> None:
        self._limiter = line.limiter
        self._store = line.store
        self._clock = line.clock
        self._redactor = line.redactor
        self._call = call
        self._ask = call.ask
        self._dialogue = dialogue
        self._meter = _Meter()

    async def answer(self) -> Answer:
        following: Send | Answer | GiveUp = self._dialogue.start()
        while isinstance(following, Send):
            await self._pause_before(following)
            following = await self._send(following.request)
        if isinstance(following, GiveUp):
            raise following.error
        return following

    async def _pause_before(self, send: Send) -> None:
        if send.error is None:
            return
        if self._meter.active_s + send.delay >= self._ask.timeout:
            raise _timed_out(self._ask, send.error)
        asker = self._call.payer()
        asker.emit(
            NodeRetrying(
                run_id=asker.fence.run_id,
                node_id=asker.node_id,
                at=self._clock.now(),
                attempt=self._meter.attempts,
                delay=send.delay,
                error=send.error.as_dict(),
            )
        )
        if send.delay > 0:
            await self._clock.sleep(send.delay)
            self._meter.waited_s += send.delay

    async def _send(self, request: ChatRequest) -> Send | Answer | GiveUp:
        ask = self._ask
        self._call.payer()
        permit = await self._limiter.acquire(ask.provider.account, priority=ask.priority, tokens=ask.reserve)
        try:
            asker = self._call.payer()
            self._meter.attempts += 1
            self._meter.queue_s += permit.queue_s
            return await self._exchange(request, asker, permit)
        finally:
            self._call.on_wire = False
            permit.release()

    async def _exchange(self, request: ChatRequest, asker: Asker, permit: Permit) -> Send | Answer | GiveUp:
        attempt = self._attempt(asker)
        try:
            await self._store.begin_attempt(asker.fence, attempt)
            await permit.clear()
            self._call.payer()
            self._call.on_wire = True
            self._tell_sent(attempt, asker, permit)
            sent = self._clock.monotonic()
            outcome = await self._complete(request)
        except (asyncio.CancelledError, CallStopped):
            await self._abandon(attempt, asker)
            raise
        took = self._clock.monotonic() - sent
        self._meter.call_s += took
        if isinstance(outcome, StepError):
            return await self._failed(outcome, attempt, asker, took)
        return await self._answered(outcome, attempt, asker, took)

    async def _abandon(self, attempt: AttemptRecord, asker: Asker) -> None:
        """The run stops: a request that is out may have been paid for, one that is not was not."""
        not_sent = {"type": "NotSent", "message": "the run was stopped before it was sent", "hint": ""}
        ended = replace(
            attempt,
            status=AttemptStatus.UNKNOWN if self._call.on_wire else AttemptStatus.FAILED,
            finished_at=self._clock.now(),
            error=None if self._call.on_wire else not_sent,
        )
        with contextlib.suppress(StoreError):
            await self._store.settle(attempt=ended, attempt_fence=asker.fence)

    async def _complete(self, request: ChatRequest) -> Completion | StepError:
        left = max(0.001, self._ask.timeout - self._meter.active_s)
        timeout = min(self._ask.retry.attempt_timeout, left)
        try:
            completion = await self._ask.provider.complete(request, timeout=timeout)
        except StepError as error:
            return error
        text = self._redactor.text(completion.text)  # a server may echo what it was sent
        return completion if text is completion.text else replace(completion, text=text)

    async def _failed(
        self, error: StepError, attempt: AttemptRecord, asker: Asker, took: float
    ) -> Send | GiveUp:
        provider = self._ask.provider
        if isinstance(error, RateLimited) and error.retry_after:
            self._limiter.pause(provider.account, error.retry_after)
        usage = error.usage or Usage()
        cost = provider.cost(attempt.model, usage) if error.usage else 0.0
        self._meter.pay(cost)
        ended = replace(
            attempt,
            status=AttemptStatus.UNKNOWN if _may_be_paid(error) else AttemptStatus.FAILED,
            finished_at=self._clock.now(),
            error=error.as_dict(),
            usage=usage,
            cost_usd=cost,
        )
        await self._store.settle(attempt=ended, attempt_fence=asker.fence)
        self._tell_ended(ended, asker, took)
        return self._dialogue.failed(error)

    async def _answered(
        self, completion: Completion, attempt: AttemptRecord, asker: Asker, took: float
    ) -> Send | Answer | GiveUp:
        ask = self._ask
        following = self._dialogue.answered(completion)
        cost = ask.provider.cost(completion.model or attempt.model, completion.usage)
        self._meter.pay(cost)
        ended = replace(
            attempt,
            status=AttemptStatus.SUCCEEDED,
            finished_at=self._clock.now(),
            error=None if isinstance(following, Accept) else _why(following),
            usage=completion.usage,
            cost_usd=cost,
        )
        if not isinstance(following, Accept):
            await self._store.settle(attempt=ended, attempt_fence=asker.fence)
            self._tell_ended(ended, asker, took)
            return following
        answer = _answer(following, completion, ask, self._dialogue.usage, self._meter)
        memo = record_of(ask.key, answer, now=self._clock.now()) if ask.write_memo else None
        rows = self._call.settle(answer)
        await self._store.settle(attempt=ended, attempt_fence=asker.fence, memo=memo, nodes=rows)
        self._tell_ended(ended, asker, took)
        return answer

    def _attempt(self, asker: Asker) -> AttemptRecord:
        return AttemptRecord(
            attempt_id=uuid.uuid4().hex,
            run_id=asker.fence.run_id,
            node_id=asker.node_id,
            key=self._ask.key,
            number=self._meter.attempts,
            provider=self._ask.provider.name,
            model=self._ask.request.model,
            started_at=self._clock.now(),
        )

    def _tell_sent(self, attempt: AttemptRecord, asker: Asker, permit: Permit) -> None:
        asker.emit(
            RequestSent(
                run_id=attempt.run_id,
                node_id=attempt.node_id,
                at=attempt.started_at,
                attempt=attempt.number,
                model=attempt.model,
                provider=attempt.provider,
                queue_s=permit.queue_s,
            )
        )

    def _tell_ended(self, attempt: AttemptRecord, asker: Asker, took: float) -> None:
        asker.emit(
            RequestEnded(
                run_id=attempt.run_id,
                node_id=attempt.node_id,
                at=self._clock.now(),
                attempt=attempt.number,
                model=attempt.model,
                provider=attempt.provider,
                call_s=took,
                error=attempt.error,
                usage=attempt.usage,
                cost_usd=attempt.cost_usd,
            )
        )


def _answer(accept: Accept, completion: Completion, ask: Ask, usage: Usage, meter: _Meter) -> Answer:
    return Answer(
        value=accept.value,
        model=completion.model or ask.request.model,
        provider=ask.provider.name,
        usage=usage,
        cost_usd=meter.cost_usd,
        truncated=accept.truncated,
        attempts=meter.attempts,
        queue_s=meter.queue_s,
        call_s=meter.call_s,
    )


def _why(following: Send | GiveUp) -> dict[str, str] | None:
    return following.error.as_dict() if following.error is not None else None


def _may_be_paid(error: StepError) -> bool:
    """The request went out and no answer was seen: nobody knows whether the provider worked for it."""
    if isinstance(error, ConnectionFailed):
        return error.reason in {"reset", "closed"}
    return isinstance(error, AttemptTimedOut)


def _timed_out(ask: Ask, error: StepError) -> NodeTimedOut:
    return NodeTimedOut(
        f"gave up after {ask.timeout:g} s, the step's timeout; the last attempt: {error.message}",
        hint=error.hint or "raise `timeout`, or see what the provider is doing",
        answer=error.answer,
    )
