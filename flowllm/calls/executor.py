"""The line to the providers: admission, the attempt on record, the wire, and what to send next.

A request's attempt is durable before it is sent. Its slot is given back only when its outcome is durable too, so
that a crash repeats at most what was admitted at that moment.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace

from flowllm.calls.attempt import Attempt, usage_of
from flowllm.calls.base import AnyRequest, Call, Caller, PendingCall
from flowllm.calls.budget import BudgetReservation, RunBudget
from flowllm.calls.conversation import Accept, Conversation, GiveUp, Send
from flowllm.calls.response_cache import recalled, record_of, waited
from flowllm.calls.validation import Verdict
from flowllm.calls.wire import added_tokens, send
from flowllm.core.clock import Clock
from flowllm.core.errors import InvalidAnswer, NodeTimedOut, StepError, StoreError
from flowllm.core.events import NodeRetrying, Notice
from flowllm.core.money import Spend
from flowllm.core.request import Answer, Completion, Reply
from flowllm.core.types import Usage, WaitReason
from flowllm.limits.limiter import Limiter, Permit
from flowllm.storage.base import MemoRecord, NodeWrite, Store

_SHORT = 20_000
"""Characters of an answer that is checked at once, if that takes no more than these seconds."""
_AT_ONCE = 0.05
LOOK_AGAIN = 0.05
"""Seconds after which the memo is asked once more before a request goes out."""
ELSEWHERE = 0.2
PATIENCE = 60.0
"""Seconds between looks at a request that another process has sent, and after which it is sent here too."""
SAFETY = 1.2
"""By so much more than a prompt's estimate is reserved."""


@dataclass(slots=True)
class _Meter:
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


class Deferred:
    """An equal request of another process is on its way."""


class CallExecutor:
    """The innermost layer."""

    def __init__(
        self, limiter: Limiter, store: Store, clock: Clock, *, draw: Callable[[], float] = random.random
    ) -> None:
        """`draw` gives even draws from [0, 1), for jitter."""
        self.limiter = limiter
        self.store = store
        self.clock = clock
        self._draw = draw
        self.ends_told: set[tuple[str, str, str]] = set()
        """Run, provider and unknown end of an answer."""

    async def answer(self, pending: PendingCall) -> Answer:
        """Ask until there is a valid answer, or no sense in asking again."""
        call = pending.call
        conversation = Conversation(
            call.request,
            policy=call.retry,
            validator=call.validator,
            keep_truncated=call.keep_truncated,
            random=self._draw,
        )
        return await _Talk(self, pending, conversation).answer()


class _Talk:
    """One call on the line: carries out what its dialogue decides."""

    def __init__(self, line: CallExecutor, pending: PendingCall, conversation: Conversation) -> None:
        self.limiter = line.limiter
        self.store = line.store
        self.clock = line.clock
        self.ends_told = line.ends_told
        self.pending = pending
        self.call = pending.call
        self.conversation = conversation
        self.meter = _Meter()
        self._looked = self.clock.monotonic()
        """When the memo was asked last."""
        self._deferred = 0.0

    @property
    def active_s(self) -> float:
        """What counts against the step's timeout."""
        return self.meter.call_s + self.meter.waited_s - self.call.idle()

    async def answer(self) -> Answer:
        following: Send | Answer | GiveUp = self.conversation.start()
        while isinstance(following, Send):
            await self._pause_before(following)
            following = await self._send(following.request)
        if isinstance(following, GiveUp):
            raise following.error
        return following

    async def _pause_before(self, send: Send) -> None:
        if send.error is None:
            return
        own = max(0.0, send.delay - send.asked)  # what the server asks for is no backoff of ours
        if self.active_s + own >= self.call.timeout:
            raise _timed_out(self.call, send)
        caller = self.pending.payer()
        caller.emit(
            NodeRetrying(
                run_id=caller.lease.run_id,
                node_id=caller.node_id,
                at=self.clock.now(),
                attempt=self.meter.attempts,
                delay_s=send.delay,
                error=caller.redactor.value(send.error.as_dict()),
            )
        )
        if send.delay > 0:
            asked, until = send.delay - own, self.clock.now() + send.delay
            self.waiting(WaitReason.SERVER_PAUSE if asked > own else WaitReason.BACKOFF, until)
            await self.clock.sleep(send.delay)
            self.meter.waited_s += own
            self.waited(WaitReason.BACKOFF, own)
            self.waited(WaitReason.SERVER_PAUSE, asked)

    def waiting(self, reason: WaitReason, until: float | None) -> None:
        """Tell that the call waits for that, until about then (wall clock)."""
        for caller in self.pending.callers():
            caller.tell_waiting(reason, at=self.clock.now(), until=until)

    def waited(self, reason: WaitReason, seconds: float) -> None:
        """Add seconds that the call has waited."""
        waited(self.pending, reason, seconds)

    async def _send(self, request: AnyRequest) -> Send | Answer | GiveUp:
        call = self.call
        reservation = self._reservation(request)
        await call.provider.ready()
        while True:
            caller, permit = await self._admitted(reservation)
            try:
                found = await self._done_elsewhere()
            except BaseException:
                _unused(caller.budget, reservation, permit)
                raise
            if found is None:
                break
            _unused(caller.budget, reservation, permit)
            self.meter.queue_s += permit.queue_s
            if isinstance(found, Answer):
                return found
            self.waiting(WaitReason.CACHE_LOOKUP, None)
            await self.clock.sleep(ELSEWHERE)
            self.waited(WaitReason.CACHE_LOOKUP, ELSEWHERE)
            self.meter.queue_s += ELSEWHERE
            self._deferred += ELSEWHERE
        try:
            self.meter.attempts += 1
            self.meter.queue_s += permit.queue_s
            return await _Exchange(self, caller, permit, reservation).carry_out(request)
        finally:
            self.pending.on_wire = False
            permit.release()

    async def _done_elsewhere(self) -> Answer | Deferred | None:
        """What another process has answered while this call waited, in the queue or between attempts; or that one is asking
        the same right now."""
        now = self.clock.monotonic()
        if not self.call.read_memo or now - self._looked < LOOK_AGAIN:
            return None
        self._looked = now
        attempts, cost = self.meter.attempts, self.meter.cost_usd
        found = await self.pending.recalled(
            lambda pending: recalled(pending, self.store, self.clock, attempts=attempts, cost_usd=cost)
        )
        if found is not None or not self.call.join or self._deferred >= PATIENCE:
            return found
        since = self.clock.now() - PATIENCE
        sent = await self.store.sent_elsewhere(self.call.key, since=since)
        return Deferred() if sent else None

    async def _admitted(self, reservation: BudgetReservation) -> tuple[Caller, Permit]:
        """Who pays, with the money set aside, and then a slot: nobody holds one while waiting for a budget."""
        call = self.call
        while True:
            caller = self.pending.payer()
            budget = caller.budget
            if budget is not None:
                await self._reserve(budget, reservation)
            permit = None
            try:
                permit = await self.limiter.acquire(
                    call.provider.account,
                    priority=call.priority,
                    tokens=reservation.tokens,
                    model=call.request.model,
                    tenant=caller.tenant,
                    listener=self,
                )
                payer = self.pending.payer()
                if payer.budget is budget:
                    return payer, permit
            except BaseException:
                _unused(budget, reservation, permit)
                raise
            _unused(budget, reservation, permit)

    async def _reserve(self, budget: RunBudget, reservation: BudgetReservation) -> None:
        began = self.clock.monotonic()

        def full() -> None:
            self.waiting(WaitReason.BUDGET, None)

        if await budget.reserve(reservation, model=self.call.request.model, waiting=full):
            self.waited(WaitReason.BUDGET, self.clock.monotonic() - began)

    def _reservation(self, request: AnyRequest) -> BudgetReservation:
        """For the question as it was, and for what was added to it to ask again."""
        more = Usage(input_tokens=added_tokens(request, since=self.call.request))
        reckon = self.call.reckon
        expected = (self.call.expected if reckon is None else reckon()) + more
        most = replace(expected, input_tokens=math.ceil((expected.input_tokens or 0) * SAFETY))
        return BudgetReservation(tokens=most.at_least, usd=self.call.provider.cost(self.call.request.model, most))


class _Exchange:
    """One request of a call, from its record to what follows from its outcome."""

    def __init__(self, talk: _Talk, caller: Caller, permit: Permit, reservation: BudgetReservation) -> None:
        self._talk = talk
        self._call = talk.pending
        self._ask = talk.call
        self._meter = talk.meter
        self._dialogue = talk.conversation
        self._clock = talk.clock
        self._caller = caller
        self._permit = permit
        self._reservation = reservation
        self._spent = _taken(Usage.unknown(), None, reservation)
        self._attempt = Attempt(
            self._ask, caller, number=self._meter.attempts, reserved=reservation, store=talk.store, clock=self._clock
        )

    async def carry_out(self, request: AnyRequest) -> Send | Answer | GiveUp:
        try:
            outcome = await self._through_the_wire(request)
            if isinstance(outcome, StepError):
                return await self._failed(outcome)
            return await self._answered(outcome)
        finally:
            if self._caller.budget is not None:
                self._caller.budget.settle(self._reservation, self._spent)

    async def _through_the_wire(self, request: AnyRequest) -> Reply | StepError:
        try:
            await self._committed(self._attempt.begin())
            await self._permit.depart()
            self._call.payer()
            self._call.on_wire = True
            self._attempt.sent(queue_s=self._permit.queue_s)
            outcome = await self._complete(self._call.departing(request))
        except StoreError:
            raise
        except BaseException:
            if not self._call.on_wire:
                self._spent = Spend()
            await self._attempt.abandon(on_wire=self._call.on_wire)
            raise
        self._attempt.came_back()
        self._meter.call_s += self._attempt.took
        return outcome

    async def _committed(self, write: Coroutine[object, object, None]) -> None:
        """Wait for a commit that the node's own row is not part of."""
        began = self._clock.monotonic()
        await write
        self._talk.waited(WaitReason.COMMIT, self._clock.monotonic() - began)

    async def _complete(self, request: AnyRequest) -> Reply | StepError:
        left = max(0.001, self._ask.timeout - self._talk.active_s)
        timeout = min(self._ask.retry.attempt_timeout, left)
        try:
            return await send(self._ask.provider, request, timeout=timeout, left=left)
        except StepError as error:
            return error

    async def _failed(self, error: StepError) -> Send | GiveUp:
        report = self._permit.failed(error)
        usage = usage_of(error)
        if usage.total != 0:
            error.usage = usage
        cost = self._priced(error.cost_usd, usage, self._ask.request.model)
        self._meter.pay(cost)
        self._spent = _taken(usage, cost, self._reservation)
        await self._committed(self._attempt.failed(error, usage=usage, cost_usd=cost))
        self._notice(report.notice)
        if report.down is not None:
            raise report.down
        return self._dialogue.failed(error, free=report.free, doubted=report.doubted)

    async def _answered(self, reply: Reply) -> Send | Answer | GiveUp:
        call, usage = self._ask, reply.usage
        self._attempt.list_price = reply.list_price
        charged = _taken(usage, None, self._reservation).tokens
        self._notice(self._permit.answered(reply.headers, used=charged))
        following = self._dialogue.answered(reply, await self._checked(reply))
        cost = self._priced(reply.cost_usd, usage, reply.model)
        self._meter.pay(cost)
        self._spent = _taken(usage, cost, self._reservation)
        if not isinstance(following, Accept):
            error = None if following.error is None else self._shown(following.error, reply).as_dict()
            await self._committed(self._attempt.answered(usage=usage, cost_usd=cost, unusable=error))
            return following
        if following.unknown_end:
            self._tell_end(following.unknown_end)
        answer = _answer(following, reply, call, self._dialogue.usage, self._meter)
        await self._keep([self._kept(pending, part) for pending, part in self._call.shares(answer)], usage, cost)
        return answer

    def _shown(self, error: StepError, reply: Reply) -> StepError:
        """What is wrong with an answer quotes parts of it: not where one of them could be a part of a secret."""
        if isinstance(error, InvalidAnswer) and self._call.holds_secret(_text(reply)):
            error.message = "the answer is not what was asked for; as a secret stands in it, it is not quoted"
        return error

    async def _checked(self, reply: Reply) -> Verdict | None:
        """What the validator says. What takes it long is looked at off the event loop: signals and others go on."""
        validator = self._ask.validator
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
        asked, cost = self._ask.request.model, self._ask.provider.cost
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
        first = self._attempt.answered(usage=usage, cost_usd=cost, memo=memo, nodes=rows)
        others = (self._talk.store.settle(memo=memo, nodes=rows) for memo, rows in parts[1:] if memo or rows)
        if len(parts) == 1:
            await first
            return
        outcomes = await asyncio.gather(first, *others, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def _tell_end(self, reason: str) -> None:
        """Once a run for each."""
        told, this = self._talk.ends_told, (self._caller.lease.run_id, self._ask.provider.name, reason)
        if this not in told:
            told.add(this)
            self._notice(
                f"ended an answer with {reason!r}, which flowllm does not know: such answers may be cut; they are kept, "
                "marked as truncated, and not reused for equal requests"
            )

    def _notice(self, message: str | None) -> None:
        if message is not None:
            run_id = self._caller.lease.run_id
            told = self._caller.redactor.text(f"provider {self._ask.provider.name} {message}")
            self._caller.emit(Notice(run_id=run_id, at=self._clock.now(), message=told))


def _text(reply: Reply) -> str:
    return reply.text if isinstance(reply, Completion) else ""


def _unused(budget: RunBudget | None, reservation: BudgetReservation, permit: Permit | None) -> None:
    if budget is not None:
        budget.settle(reservation, Spend())
    if permit is not None:
        permit.release()


def _taken(usage: Usage, cost: float | None, reserved: BudgetReservation) -> Spend:
    return Spend.of(usage, cost, reserved_tokens=reserved.tokens, reserved_usd=reserved.usd)


def _answer(accept: Accept, reply: Reply, call: Call, usage: Usage, meter: _Meter) -> Answer:
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


def _timed_out(call: Call, send: Send) -> NodeTimedOut:
    """Waiting for an attempt that would come too late helps nobody."""
    last = send.error.message if send.error is not None else ""
    return NodeTimedOut(
        f"the next attempt, in {send.delay:.3g} s, would pass the step's timeout of {call.timeout:g} s; "
        f"the last one: {last}",
        hint="raise `timeout`, or see what the provider is doing",
        answer=None if send.error is None else send.error.answer,
    )
