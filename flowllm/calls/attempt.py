"""One request on record: written before it is sent, and again when its outcome is known."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flowllm.calls.base import AnyRequest, Call, Caller, PendingCall
from flowllm.calls.budget import BudgetReservation
from flowllm.calls.conversation import Accept, Conversation, GiveUp, Send
from flowllm.calls.response_cache import record_of, waited
from flowllm.calls.validation import Verdict
from flowllm.calls.wire import send
from flowllm.core.clock import Clock
from flowllm.core.errors import (
    AttemptTimedOut,
    ConnectionFailed,
    InvalidAnswer,
    OwnershipLost,
    ProviderError,
    StepError,
    StoreError,
)
from flowllm.core.events import Notice, RequestEnded, RequestSent
from flowllm.core.money import Spend
from flowllm.core.request import Answer, Completion, Reply
from flowllm.core.types import AttemptStatus, Json, Usage, WaitReason
from flowllm.limits.limiter import Permit
from flowllm.storage.base import AttemptRecord, MemoRecord, NodeWrite, Store

_SHORT = 20_000
"""Characters of an answer that is checked at once, if that takes no more than these seconds."""
_AT_ONCE = 0.05
_OK = 200
_STOPPED = {"type": "Stopped", "message": "the run was stopped before its answer came", "hint": ""}
_NOT_SENT = {"type": "NotSent", "message": "the run was stopped before it was sent", "hint": ""}


@dataclass(slots=True)
class CallMeter:
    """What a call has taken so far, in seconds, dollars and requests."""

    attempts: int = 0
    queue_s: float = 0.0
    call_s: float = 0.0
    waited_s: float = 0.0
    """Backoff between attempts."""
    cost_usd: float | None = field(default=0.0)

    def pay(self, cost: float | None) -> None:
        """One unknown price makes the sum unknown."""
        self.cost_usd = None if cost is None or self.cost_usd is None else self.cost_usd + cost


class CallState:
    """What all attempts of one call share."""

    def __init__(
        self,
        pending: PendingCall,
        conversation: Conversation,
        store: Store,
        clock: Clock,
        reported_ends: set[tuple[str, str, str]],
    ) -> None:
        self.pending = pending
        self.call = pending.call
        self.conversation = conversation
        self.store = store
        self.clock = clock
        self.reported_ends = reported_ends
        self.meter = CallMeter()

    @property
    def active_s(self) -> float:
        """What counts against the step's timeout."""
        return self.meter.call_s + self.meter.waited_s - self.call.idle()

    def waiting(self, reason: WaitReason, until: float | None) -> None:
        """Tell that the call waits for that, until about then (wall clock)."""
        for caller in self.pending.callers():
            caller.tell_waiting(reason, at=self.clock.now(), until=until)

    def waited(self, reason: WaitReason, seconds: float) -> None:
        """Add seconds that the call has waited."""
        waited(self.pending, reason, seconds)


class Attempt:
    """One request of a call, from its record to what follows from its outcome."""

    def __init__(self, state: CallState, caller: Caller, permit: Permit, reservation: BudgetReservation) -> None:
        self._state = state
        self._pending = state.pending
        self._call = state.call
        self._meter = state.meter
        self._conversation = state.conversation
        self._clock = state.clock
        self._caller = caller
        self._permit = permit
        self._reservation = reservation
        self._spend = _taken(Usage.unknown(), None, reservation)
        self._log = AttemptLog(
            self._call, caller, number=self._meter.attempts, reserved=reservation, store=state.store, clock=self._clock
        )

    async def execute(self, request: AnyRequest) -> Send | Answer | GiveUp:
        """Send it; its outcome is durable when this returns. Raises StoreError, ProviderDown, CallStopped."""
        try:
            outcome = await self._exchange(request)
            if isinstance(outcome, StepError):
                return await self._failed(outcome)
            return await self._answered(outcome)
        finally:
            if self._caller.budget is not None:
                self._caller.budget.settle(self._reservation, self._spend)

    async def _exchange(self, request: AnyRequest) -> Reply | StepError:
        try:
            await self._committed(self._log.begin())
            await self._permit.depart()
            self._pending.payer()
            self._pending.on_wire = True
            self._log.sent(queue_s=self._permit.queue_s)
            outcome = await self._complete(self._pending.departing(request))
        except StoreError:
            raise
        except BaseException:
            if not self._pending.on_wire:
                self._spend = Spend()
            await self._log.abandon(on_wire=self._pending.on_wire)
            raise
        self._log.came_back()
        self._meter.call_s += self._log.took
        return outcome

    async def _committed(self, write: Coroutine[object, object, None]) -> None:
        """Wait for a commit that the node's own row is not part of."""
        began = self._clock.monotonic()
        await write
        self._state.waited(WaitReason.COMMIT, self._clock.monotonic() - began)

    async def _complete(self, request: AnyRequest) -> Reply | StepError:
        left = max(0.001, self._call.timeout - self._state.active_s)
        timeout = min(self._call.retry.attempt_timeout, left)
        try:
            return await send(self._call.provider, request, timeout=timeout, left=left)
        except StepError as error:
            return error

    async def _failed(self, error: StepError) -> Send | GiveUp:
        report = self._permit.failed(error)
        usage = usage_of(error)
        if usage.total != 0:
            error.usage = usage
        cost = self._priced(error.cost_usd, usage, self._call.request.model)
        self._meter.pay(cost)
        self._spend = _taken(usage, cost, self._reservation)
        await self._committed(self._log.failed(error, usage=usage, cost_usd=cost))
        self._notice(report.notice)
        if report.down is not None:
            raise report.down
        return self._conversation.failed(error, free=report.free, doubted=report.doubted)

    async def _answered(self, reply: Reply) -> Send | Answer | GiveUp:
        call, usage = self._call, reply.usage
        self._log.list_price = reply.list_price
        charged = _taken(usage, None, self._reservation).tokens
        self._notice(self._permit.answered(reply.headers, used=charged))
        following = self._conversation.answered(reply, await self._checked(reply))
        cost = self._priced(reply.cost_usd, usage, reply.model)
        self._meter.pay(cost)
        self._spend = _taken(usage, cost, self._reservation)
        if not isinstance(following, Accept):
            error = None if following.error is None else self._shown(following.error, reply).as_dict()
            await self._committed(self._log.answered(usage=usage, cost_usd=cost, unusable=error))
            return following
        if following.unknown_end:
            self._report_end(following.unknown_end)
        answer = _answer(following, reply, call, self._conversation.usage, self._meter)
        await self._keep([self._kept(pending, part) for pending, part in self._pending.shares(answer)], usage, cost)
        return answer

    def _shown(self, error: StepError, reply: Reply) -> StepError:
        """What is wrong with an answer quotes parts of it: not where one of them could be a part of a secret."""
        if isinstance(error, InvalidAnswer) and self._pending.holds_secret(_text(reply)):
            error.message = "the answer is not what was asked for; as a secret stands in it, it is not quoted"
        return error

    async def _checked(self, reply: Reply) -> Verdict | None:
        """What the validator says. What takes it long is looked at off the event loop: signals and others go on."""
        validator = self._call.validator
        if validator is None or not isinstance(reply, Completion):
            return None
        if len(reply.text) <= _SHORT:
            verdict = validator.verdict(reply.text, within=_AT_ONCE)
            if verdict is not None:
                return verdict
        verdict = await asyncio.to_thread(validator.verdict, reply.text)
        return verdict or Verdict(error=validator.too_long(reply.text))

    def _priced(self, told: float | None, usage: Usage, model: str) -> float | None:
        """US dollars: as the server says, else by its tokens and the model that it names, which may be a dated version
        that only the asked one's price is known of."""
        if told is not None:
            return told
        if usage.total is None:  # where nothing is paid, nobody needs to know
            return 0.0 if self._reservation.usd == 0 else None
        if not usage.total:
            return 0.0
        asked, cost = self._call.request.model, self._call.provider.cost
        named = cost(model or asked, usage)
        return cost(asked, usage) if named is None else named

    def _kept(self, pending: PendingCall, answer: Answer) -> tuple[MemoRecord | None, Sequence[NodeWrite]]:
        memo = None
        may = pending.call.write_memo and not answer.unknown_end
        if may and not pending.holds_secret([answer.value, answer.model]):
            memo = record_of(pending.call.key, answer, now=self._clock.now())
        return memo, pending.settle(answer)

    async def _keep(
        self, parts: Sequence[tuple[MemoRecord | None, Sequence[NodeWrite]]], usage: Usage, cost: float | None
    ) -> None:
        """The attempt with the first part, and all others in the same tick: the store commits them together."""
        memo, rows = parts[0]
        first = self._log.answered(usage=usage, cost_usd=cost, memo=memo, nodes=rows)
        others = (self._state.store.settle(memo=memo, nodes=rows) for memo, rows in parts[1:] if memo or rows)
        if len(parts) == 1:
            await first
            return
        outcomes = await asyncio.gather(first, *others, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def _report_end(self, reason: str) -> None:
        """Once a run for each."""
        told, this = self._state.reported_ends, (self._caller.lease.run_id, self._call.provider.name, reason)
        if this not in told:
            told.add(this)
            self._notice(
                f"ended an answer with {reason!r}, which flowllm does not know: such answers may be cut; they are kept, "
                "marked as truncated, and not reused for equal requests"
            )

    def _notice(self, message: str | None) -> None:
        if message is not None:
            run_id = self._caller.lease.run_id
            told = self._caller.redactor.text(f"provider {self._call.provider.name} {message}")
            self._caller.emit(Notice(run_id=run_id, at=self._clock.now(), message=told))


def _text(reply: Reply) -> str:
    return reply.text if isinstance(reply, Completion) else ""


def _taken(usage: Usage, cost: float | None, reserved: BudgetReservation) -> Spend:
    return Spend.of(usage, cost, reserved_tokens=reserved.tokens, reserved_usd=reserved.usd)


def _answer(accept: Accept, reply: Reply, call: Call, usage: Usage, meter: CallMeter) -> Answer:
    return Answer(
        value=accept.value,
        model=reply.model or call.request.model,
        provider=call.provider.name,
        usage=usage,
        cost_usd=meter.cost_usd,
        truncated=accept.truncated,
        unknown_end=accept.unknown_end,
        attempts=meter.attempts,
        queue_s=meter.queue_s,
        call_s=meter.call_s,
    )


class AttemptLog:
    """The record of one request and its two events."""

    def __init__(
        self, call: Call, caller: Caller, *, number: int, reserved: BudgetReservation, store: Store, clock: Clock
    ) -> None:
        """`number` counts the requests of the call from 1."""
        self._caller = caller
        self._local = call.local
        self._store = store
        self._clock = clock
        self._sent_at = 0.0
        self.list_price = ""
        """The model whose list price its cost is reckoned by."""
        self.took = 0.0
        """Seconds on the wire."""
        self._record = AttemptRecord(
            attempt_id=uuid.uuid4().hex,
            run_id=caller.lease.run_id,
            node_id=caller.node_id,
            key=call.key,
            number=number,
            provider=call.provider.name,
            model=call.request.model,
            started_at=clock.now(),
            reserved_tokens=reserved.tokens,
            reserved_usd=reserved.usd,
        )

    async def begin(self) -> None:
        """Put it on record. Raises StoreError."""
        await self._store.begin_attempt(self._caller.lease, self._record)

    def sent(self, *, queue_s: float) -> None:
        """It goes out now."""
        self._sent_at = self._clock.monotonic()
        if self._local:
            return
        self._caller.emit(
            RequestSent(
                run_id=self._record.run_id,
                node_id=self._record.node_id,
                at=self._clock.now(),
                attempt=self._record.number,
                model=self._record.model,
                provider=self._record.provider,
                queue_s=queue_s,
            )
        )

    def came_back(self) -> None:
        """Its outcome is known."""
        self.took = self._clock.monotonic() - self._sent_at

    async def answered(
        self,
        *,
        usage: Usage,
        cost_usd: float | None,
        unusable: Mapping[str, Json] | None = None,
        memo: MemoRecord | None = None,
        nodes: Sequence[NodeWrite] = (),
    ) -> None:
        """An answer came; `unusable` says why it will not do, if so. Committed with what it completes."""
        await self._settle(
            AttemptStatus.SUCCEEDED, error=unusable, usage=usage, cost_usd=cost_usd, memo=memo, nodes=nodes
        )

    async def failed(self, error: StepError, *, usage: Usage, cost_usd: float | None) -> None:
        """No answer came."""
        status = AttemptStatus.UNKNOWN if may_be_paid(error) else AttemptStatus.FAILED
        await self._settle(status, error=error.as_dict(), usage=usage, cost_usd=cost_usd)

    async def abandon(self, *, on_wire: bool) -> None:
        """It broke off, mostly because its run stops: a request that is out may have been paid for."""
        ended = replace(
            self._record,
            status=AttemptStatus.UNKNOWN if on_wire else AttemptStatus.FAILED,
            finished_at=self._clock.now(),
            error=_STOPPED if on_wire else _NOT_SENT,
        )
        if on_wire:
            self.came_back()
            free = self._record.reserved_usd == 0
            unknown = Usage() if self._local else Usage.unknown()
            ended = replace(ended, usage=unknown, cost_usd=0.0 if free else None)
            self._tell_end(ended)
        with contextlib.suppress(StoreError):
            await self._store.settle(attempt=ended, attempt_fence=self._caller.lease)

    async def _settle(
        self,
        status: AttemptStatus,
        *,
        error: Mapping[str, Json] | None,
        usage: Usage,
        cost_usd: float | None,
        memo: MemoRecord | None = None,
        nodes: Sequence[NodeWrite] = (),
    ) -> None:
        error = None if error is None else self._caller.redactor.value(dict(error))
        ended = replace(
            self._record, status=status, finished_at=self._clock.now(), error=error, usage=usage, cost_usd=cost_usd
        )
        try:
            await self._store.settle(attempt=ended, attempt_fence=self._caller.lease, memo=memo, nodes=nodes)
        except OwnershipLost:
            # The run that paid may have left this call and have been resumed since; the others keep the answer.
            if nodes:
                await self._store.settle(memo=memo, nodes=nodes)
        self._tell_end(ended)

    def _tell_end(self, ended: AttemptRecord) -> None:
        if self._local:
            return
        self._caller.emit(
            RequestEnded(
                run_id=ended.run_id,
                node_id=ended.node_id,
                at=self._clock.now(),
                attempt=ended.number,
                model=ended.model,
                provider=ended.provider,
                call_s=self.took,
                error=ended.error,
                usage=ended.usage,
                cost_usd=ended.cost_usd,
                reserved_tokens=ended.reserved_tokens,
                reserved_usd=ended.reserved_usd,
                list_price=self.list_price,
            )
        )


def may_be_paid(error: StepError) -> bool:
    """The request went out and no answer was seen: nobody knows whether the provider worked for it."""
    if isinstance(error, ConnectionFailed):
        return error.reason in {"reset", "closed", "protocol"}
    return isinstance(error, AttemptTimedOut)


def usage_of(error: StepError) -> Usage:
    """The tokens that a failed request took: unknown where the provider worked for it, or may have, and did not say."""
    if error.usage is not None:
        return error.usage
    worked = isinstance(error, InvalidAnswer) or (isinstance(error, ProviderError) and error.status == _OK)
    return Usage.unknown() if worked or may_be_paid(error) else Usage()
