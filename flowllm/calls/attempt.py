"""One request on record: written before it is sent, and again when its outcome is known."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias, TypeVar, cast

from flowllm.calls.base import AnyRequest, Caller, PendingCall
from flowllm.calls.budget import BudgetReservation
from flowllm.calls.call_state import CallState
from flowllm.calls.conversation import Accept, GiveUp, Send
from flowllm.calls.elsewhere import SentElsewhere
from flowllm.calls.stored_answer import memo_record
from flowllm.core.cancel import CallStopped
from flowllm.core.errors import (
    AttemptTimedOut,
    ConnectionFailed,
    InvalidAnswer,
    OwnershipLost,
    ProviderError,
    StepError,
    StoreError,
)
from flowllm.core.events import NodeHedged, Notice, RequestEnded, RequestSent
from flowllm.core.money import Spend
from flowllm.core.request import Answer, ChatRequest, Completion, LocalReply, LocalRequest, Reply, service_tier
from flowllm.core.types import ABANDONED, AttemptStatus, Json, Usage, WaitReason
from flowllm.limits.give_up import FailureReport
from flowllm.limits.limiter import Permit
from flowllm.providers.base import Provider
from flowllm.storage.base import AttemptRecord, MemoRecord, NodeWrite

Outcome: TypeAlias = Reply | StepError
T = TypeVar("T")

_OK = 200
_STOPPED = {"type": "Stopped", "message": "the run was stopped before its answer came", "hint": ""}
_NOT_SENT = {"type": "NotSent", "message": "the run was stopped before it was sent", "hint": ""}
_ABANDONED = {"type": ABANDONED, "message": "another attempt at the same was answered first", "hint": ""}


class Attempt:
    """One request of a call: its record, its two events, and what follows from its outcome."""

    def __init__(
        self,
        state: CallState,
        caller: Caller,
        permit: Permit,
        reservation: BudgetReservation,
        *,
        first_sent_at: float | None = None,
    ) -> None:
        """`first_sent_at`: since when an equal one is on the wire, of which this is the second attempt (monotonic seconds)."""
        call = state.call
        state.attempts += 1
        self._state = state
        self._caller = caller
        self._permit = permit
        self._reservation = reservation
        self._spend: Spend | None = None
        """What it took; None: nobody knows."""
        self._first_sent_at = first_sent_at
        self.on_wire = False
        """It went out."""
        self._open = True
        self.abandoned = False
        """Its answer is no longer wanted."""
        self.sent_at = 0.0
        """Monotonic seconds."""
        self.took = 0.0
        """Seconds on the wire."""
        self._saved: float | None = 0.0
        """US dollars, by the provider's cache."""
        self._tier = service_tier(call.request)
        self._list_price = ""
        """The model whose list price its cost is reckoned by."""
        self.record = AttemptRecord(
            attempt_id=_attempt_id(state.clock.now()),
            run_id=caller.lease.run_id,
            node_id=caller.node_id,
            key=call.key,
            number=state.attempts,
            provider=call.provider.name,
            model=call.request.model,
            started_at=state.clock.now(),
            reserved_tokens=reservation.tokens,
            reserved_usd=reservation.usd,
        )

    async def exchange(
        self, request: AnyRequest, send: Callable[[AnyRequest], Awaitable[Outcome | None]]
    ) -> Outcome | None:
        """Put it on record, durably, and send it by `send`, which gives None where it was abandoned: call `abandon` then.
        Raises StoreError, CallStopped, SentElsewhere."""
        state = self._state
        try:
            await self._begin()
            await self._permit.depart()
            outcome = await send(self._departing(request))
            self._landed()
        except StoreError:
            raise
        except SentElsewhere:
            state.attempts -= 1
            self._spend = Spend()
            raise
        except BaseException:
            if self.on_wire:
                self._landed()
            await self.abandon()
            raise
        return outcome

    async def _begin(self) -> None:
        """Put it on record; a second attempt whatever others do, since the first is out already. Raises SentElsewhere."""
        state = self._state
        clock, joins = state.clock, state.joins and self._first_sent_at is None
        looked = clock.monotonic() - state.looked
        begin = state.store.begin_attempt(self._caller.lease, self.record, joins=joins, looked=looked)
        state.elsewhere = await self._committed(begin)
        if state.elsewhere is not None:
            raise SentElsewhere

    def _departing(self, request: AnyRequest) -> AnyRequest:
        """It goes out now. Raises CallStopped if its run is stopping: then the first attempt, if this is the second, goes on."""
        pending = self._state.pending
        if self._first_sent_at is None:
            pending.payer()
            pending.on_wire = True
            request = pending.departing(request)
        elif self._caller.token.stopped:
            raise CallStopped
        self._report_sent()
        return request

    def _landed(self) -> None:
        now = self._state.clock.monotonic()
        self.took = now - self.sent_at
        if not self._state.uncounted(self._first_sent_at):  # else the first, which is out still, counts for both
            self._state.called(self.sent_at, now)

    async def _committed(self, write: Coroutine[object, object, T]) -> T:
        """Wait for a commit that the node's own row is not part of."""
        clock = self._state.clock
        began = clock.monotonic()
        found = await write
        if self._first_sent_at is None:
            self._state.waited(WaitReason.COMMIT, clock.monotonic() - began)
        return found

    async def send(self, request: AnyRequest) -> Outcome:
        """Over the wire, once; what a step does by itself may take what is left for all its attempts."""
        call = self._state.call
        left = max(0.001, call.timeout - self._state.active_s - self._state.uncounted(self._first_sent_at))
        timeout = min(call.retry.attempt_timeout, left)
        try:
            if isinstance(request, LocalRequest):
                return LocalReply(value=await request.perform(timeout, left))
            provider = cast("Provider", call.provider)
            if isinstance(request, ChatRequest):
                key = self._permit.cache_key
                request = replace(request, cache_key=key) if key else request
                return await provider.complete(request, timeout=timeout)
            return await provider.embed(request, timeout=timeout)
        except StepError as error:
            return error

    async def settle(self, outcome: Outcome) -> Send | Answer | GiveUp:
        """What follows from it for the call; it is durable when this returns. Raises StoreError, ProviderDown."""
        if isinstance(outcome, StepError):
            return self.follows(outcome, await self.fail(outcome))
        return await self._answered(outcome)

    def follows(self, error: StepError, report: FailureReport) -> Send | GiveUp:
        """What follows for the call from a failure that is on record. Raises ProviderDown."""
        if report.down is not None:
            raise report.down
        return self._state.conversation.failed(error, free=report.free, doubted=report.doubted)

    @property
    def age(self) -> float:
        """Seconds since it went out."""
        return self._state.clock.monotonic() - self.sent_at

    def close(self) -> None:
        """Give back what it held, once: its slot, and what was set aside for it and not taken."""
        if self._open and self._caller.budget is not None:
            unknown = _taken(Usage.unknown(), None, self._reservation)
            self._caller.budget.reconcile(self._reservation, unknown if self._spend is None else self._spend)
        self._open = False
        self._permit.release()

    async def fail(self, error: StepError) -> FailureReport:
        """Put on record that no answer came, and tell its account; gives what that means there."""
        report = self._permit.failed(error)
        usage = usage_of(error)
        if usage.total != 0:
            error.usage = usage
        cost = self._charge(error.cost_usd, usage, self.record.model)
        status = AttemptStatus.UNKNOWN if may_be_paid(error) else AttemptStatus.FAILED
        await self._committed(self._commit(status, usage, cost, error=error.as_dict()))
        self._notice(report.notice)
        return report

    async def discard(self, reply: Reply) -> None:
        """Put on record that it was answered, though another attempt was before."""
        self._tier = reply.service_tier or self._tier
        used, written = _taken(reply.usage, None, self._reservation).tokens, reply.usage.output_tokens
        self._notice(self._permit.answered(reply.headers, used=used, output_tokens=written))
        cost = self._charge(reply.cost_usd, reply.usage, reply.model)
        self._state.conversation.spent(reply.usage)
        await self._commit(AttemptStatus.SUCCEEDED, reply.usage, cost, error=_ABANDONED)

    async def _answered(self, reply: Reply) -> Send | Answer | GiveUp:
        state, usage = self._state, reply.usage
        self._list_price = reply.list_price
        self._tier = reply.service_tier or self._tier
        known, cached = usage.at_least, usage.cached_input_tokens
        charged = known if usage.total is not None else max(known, self._reservation.tokens)
        written = usage.output_tokens
        self._notice(self._permit.answered(reply.headers, used=charged, cached=cached, output_tokens=written))
        validator = state.call.validator
        verdict = None
        if validator is not None and isinstance(reply, Completion):
            verdict = await validator.verdict_aside(reply.text)
        following = state.conversation.answered(reply, verdict)
        cost = self._charge(reply.cost_usd, usage, reply.model)
        if not isinstance(following, Accept):
            error = None if following.error is None else self._shown(following.error, reply).as_dict()
            await self._committed(self._commit(AttemptStatus.SUCCEEDED, usage, cost, error=error))
            return following
        if following.unknown_end:
            self._report_end(following.unknown_end)
        answer = Answer(
            value=following.value,
            model=reply.model or self.record.model,
            provider=self.record.provider,
            usage=state.conversation.usage,
            cost_usd=state.cost_usd,
            truncated=following.truncated,
            unknown_end=following.unknown_end,
            attempts=state.attempts,
            queue_s=state.queue_s,
            call_s=state.call_s,
        )
        await self._keep([self._kept(pending, part) for pending, part in state.pending.shares(answer)], usage, cost)
        return answer

    def _shown(self, error: StepError, reply: Reply) -> StepError:
        """What is wrong with an answer quotes parts of it: not where one of them could be a part of a secret."""
        text = reply.text if isinstance(reply, Completion) else ""
        if isinstance(error, InvalidAnswer) and self._state.pending.holds_secret(text):
            error.message = "the answer is not what was asked for; as a secret stands in it, it is not quoted"
        return error

    def _charge(self, told: float | None, usage: Usage, model: str) -> float | None:
        """Add what the request took to the call and to the budget; gives its price."""
        cost = self._priced(told, usage, model)
        self._state.pay(cost)
        if self._caller.budget is not None:
            self._spend = _taken(usage, cost, self._reservation)
        if usage.cached_input_tokens:
            whole = self._priced(None, replace(usage, cached_input_tokens=0, cache_write_tokens=0), model)
            read = self._priced(None, usage, model)
            self._saved = None if whole is None or read is None else whole - read
        return cost

    def _priced(self, told: float | None, usage: Usage, model: str) -> float | None:
        """US dollars: as the server says, else by its tokens and the model that it names, which may be a dated version
        that only the asked one's price is known of."""
        if told is not None:
            return told
        if usage.total is None:  # where nothing is paid, nobody needs to know
            return 0.0 if self._reservation.usd == 0 else None
        if not usage.total:
            return 0.0
        asked, cost = self.record.model, self._state.call.provider.cost
        named = cost(model or asked, usage, tier=self._tier)
        return cost(asked, usage, tier=self._tier) if named is None else named

    def _kept(self, pending: PendingCall, answer: Answer) -> tuple[MemoRecord | None, Sequence[NodeWrite]]:
        memo = None
        may = pending.call.write_memo and not answer.unknown_end
        if may and not pending.holds_secret([answer.value, answer.model]):
            memo = memo_record(pending.call.key, answer, now=self._state.clock.now())
        return memo, pending.rows_for(answer)

    async def _keep(
        self, parts: Sequence[tuple[MemoRecord | None, Sequence[NodeWrite]]], usage: Usage, cost: float | None
    ) -> None:
        """The attempt with the first part, and all others in the same tick: the store commits them together."""
        memo, rows = parts[0]
        first = self._commit(AttemptStatus.SUCCEEDED, usage, cost, memo=memo, nodes=rows)
        others = (self._state.store.commit(memo=memo, nodes=rows) for memo, rows in parts[1:] if memo or rows)
        if len(parts) == 1:
            await first
            return
        outcomes = await asyncio.gather(first, *others, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def _report_end(self, reason: str) -> None:
        """Once a run for each."""
        reported, this = self._state.reported_ends, (self.record.run_id, self.record.provider, reason)
        if this not in reported:
            reported.add(this)
            self._notice(
                f"ended an answer with {reason!r}, which flowllm does not know: such answers may be cut; they are kept, "
                "marked as truncated, and not reused for equal requests"
            )

    def _notice(self, message: str | None) -> None:
        if message is not None:
            told = self._caller.redactor.text(f"provider {self.record.provider} {message}")
            self._caller.emit(Notice(run_id=self.record.run_id, at=self._state.clock.now(), message=told))

    async def abandon(self) -> None:
        """It broke off, mostly because its run stops: a request that is out may have been paid for."""
        state, free = self._state, self.record.reserved_usd == 0
        ended = replace(
            self.record,
            status=AttemptStatus.UNKNOWN if self.on_wire else AttemptStatus.NOT_SENT,
            finished_at=self._finished_at(),
            error=_ABANDONED if self.abandoned else _STOPPED if self.on_wire else _NOT_SENT,
        )
        if self.on_wire:
            unknown = Usage() if state.call.local else Usage.unknown()
            ended = replace(ended, usage=unknown, cost_usd=0.0 if free else None)
            state.pay(ended.cost_usd)
            state.conversation.spent(unknown)
            self._report_outcome(ended)
        else:
            state.attempts -= 1
            self._spend = Spend()
        with contextlib.suppress(StoreError):
            await state.store.commit(attempt=ended, attempt_lease=self._caller.lease)

    async def _commit(
        self,
        status: AttemptStatus,
        usage: Usage,
        cost_usd: float | None,
        *,
        error: Mapping[str, Json] | None = None,
        memo: MemoRecord | None = None,
        nodes: Sequence[NodeWrite] = (),
    ) -> None:
        """Put the outcome on record, with what it completes; of an answer `error` says why it will not do, if so."""
        store = self._state.store
        error = None if error is None else self._caller.redactor.value(dict(error))
        finished_at = self._finished_at()
        ended = replace(
            self.record, status=status, finished_at=finished_at, error=error, usage=usage, cost_usd=cost_usd
        )
        # What goes out in its place does so once it is on record, and the store takes it behind this outcome: so there are
        # never more requests whose outcome is not durable than slots.
        self.close()
        try:
            await store.commit(attempt=ended, attempt_lease=self._caller.lease, memo=memo, nodes=nodes)
        except OwnershipLost:
            # The run that paid may have left this call and have been resumed since; the others keep the answer.
            if nodes:
                await store.commit(memo=memo, nodes=nodes)
        except asyncio.CancelledError:  # the store goes on with it
            self._report_outcome(ended)
            raise
        self._report_outcome(ended)

    def _report_sent(self) -> None:
        self.on_wire = True
        self.sent_at = self._state.clock.monotonic()
        now = self._state.clock.now()
        record = self.record = replace(self.record, started_at=now)  # it was put on record before
        if self._first_sent_at is not None:
            self._caller.emit(NodeHedged(run_id=record.run_id, node_id=record.node_id, at=now, attempt=record.number))
        if self._state.call.local:
            return
        self._caller.emit(
            RequestSent(
                run_id=record.run_id,
                node_id=record.node_id,
                at=now,
                attempt=record.number,
                model=record.model,
                provider=record.provider,
                queue_s=self._permit.queue_s,
                hedge=self._first_sent_at is not None,
            )
        )

    def _finished_at(self) -> float:
        """Of what went out when its answer came, not when that was checked."""
        return self.record.started_at + self.took if self.on_wire else self._state.clock.now()

    def _report_outcome(self, ended: AttemptRecord) -> None:
        if self._state.call.local:
            return
        self._caller.emit(
            RequestEnded(
                run_id=ended.run_id,
                node_id=ended.node_id,
                at=self._state.clock.now(),
                attempt=ended.number,
                model=ended.model,
                provider=ended.provider,
                call_s=self.took,
                error=ended.error,
                usage=ended.usage,
                cost_usd=ended.cost_usd,
                reserved_tokens=ended.reserved_tokens,
                reserved_usd=ended.reserved_usd,
                saved_usd=self._saved,
                list_price=self._list_price,
            )
        )


def _taken(usage: Usage, cost: float | None, reserved: BudgetReservation) -> Spend:
    return Spend.of(usage, cost, reserved_tokens=reserved.tokens, reserved_usd=reserved.usd)


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


def _attempt_id(now: float) -> str:
    """In the order of time, so that a database's index of them grows at its end (as UUIDs of version 7)."""
    return f"{int(now * 1000):012x}{uuid.uuid4().hex[16:]}"
