"""Carries calls out: backoff, budget, admission, and attempts until there is an answer.

A request's attempt is durable before it is sent. Its slot is given back as its outcome is handed to the store, which is
durable before the next attempt is: so a crash repeats at most as many as there are slots.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

from flowllm.calls.attempt import Attempt
from flowllm.calls.base import AnyRequest, Call, Caller, PendingCall
from flowllm.calls.budget import BudgetReservation, RunBudget
from flowllm.calls.call_state import CallState
from flowllm.calls.conversation import Conversation, GiveUp, Send
from flowllm.calls.elsewhere import OtherProcesses, SentElsewhere
from flowllm.calls.hedge import HedgedRequest, Hedges
from flowllm.calls.response_cache import recalled
from flowllm.core.clock import Clock
from flowllm.core.errors import NodeTimedOut
from flowllm.core.events import NodeRetrying
from flowllm.core.money import Spend
from flowllm.core.prefix import PromptPrefix
from flowllm.core.request import Answer, ChatRequest, service_tier
from flowllm.core.types import Usage, WaitReason, estimate_tokens
from flowllm.limits.follower import Follower
from flowllm.limits.limiter import Limiter, Permit
from flowllm.limits.prefix_cache import Lineup
from flowllm.storage.base import Elsewhere, Store

LOOK_AGAIN = 0.05
"""Seconds after which the cache is asked once more before a request goes out, if others write to it."""
SAFETY = 1.2
"""By so much more than a prompt's estimate is reserved."""


class CallExecutor:
    """The innermost layer: sends calls to their providers."""

    def __init__(
        self, limiter: Limiter, store: Store, clock: Clock, *, draw: Callable[[], float] = random.random
    ) -> None:
        """`draw` gives even draws from [0, 1), for jitter."""
        self.limiter = limiter
        self.store = store
        self.clock = clock
        self.hedges = Hedges(limiter, store, clock)
        self.others = OtherProcesses(store, clock)
        self._draw = draw
        self.reported_ends: set[tuple[str, str, str]] = set()
        """Run, provider and unknown end of an answer."""

    async def answer(self, pending: PendingCall) -> Answer:
        """Send until there is a valid answer, or no sense in asking again."""
        call = pending.call
        conversation = Conversation(
            call.request,
            policy=call.retry,
            validator=call.validator,
            keep_truncated=call.keep_truncated,
            random=self._draw,
        )
        return await CallExecution(self, pending, conversation).answer()


class CallExecution(CallState):
    """One call: admits and sends what its conversation decides."""

    def __init__(self, executor: CallExecutor, pending: PendingCall, conversation: Conversation) -> None:
        super().__init__(pending, conversation, executor.store, executor.clock, executor.reported_ends)
        self.limiter = executor.limiter
        self.hedges = executor.hedges
        self._others = executor.others
        request = pending.call.request
        if isinstance(request, ChatRequest):
            self.lineup = Lineup(PromptPrefix(request))

    async def answer(self) -> Answer:
        """Send until there is a valid answer, or no sense in sending again."""
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
                attempt=self.attempts,
                delay_s=send.delay,
                error=caller.redactor.value(send.error.as_dict()),
            )
        )
        if send.delay > 0:
            asked, until = send.delay - own, self.clock.now() + send.delay
            self.waiting(WaitReason.SERVER_PAUSE if asked > own else WaitReason.BACKOFF, until)
            await self.clock.sleep(send.delay)
            self.backoff_s += own
            self.waited(WaitReason.BACKOFF, own)
            self.waited(WaitReason.SERVER_PAUSE, asked)

    async def _send(self, request: AnyRequest) -> Send | Answer | GiveUp:
        call = self.call
        reservation = self._reservation(request)
        await call.provider.ready()
        while True:
            caller, permit = await self._admitted(reservation)
            try:
                found = await self._answered_meanwhile()
            except BaseException:
                _unused(caller.budget, reservation, permit)
                raise
            self.queue_s += permit.queue_s
            if found is not None:
                _unused(caller.budget, reservation, permit)
                return found
            first = Attempt(self, caller, permit, reservation)
            try:
                return await HedgedRequest(self.hedges, self, first, reservation).execute(request)
            except SentElsewhere:
                found = await self._outlast_others()
                if found is not None:
                    return found
            finally:
                self.pending.on_wire = False

    async def _answered_meanwhile(self) -> Answer | None:
        """What was answered while this call waited, in the queue or between attempts: in another scope, or some of a batch. For
        one alone that is looked at where it begins."""
        now = self.clock.monotonic()
        if not self.call.read_memo or now - self.looked < LOOK_AGAIN:
            return None
        if self.call.scope or (self.call.batch is not None and self.store.others_wrote(now - self.looked)):
            self.looked = now
            return await self._recalled()
        return None

    async def _recalled(self) -> Answer | None:
        """What the response cache has by now."""
        attempts, cost = self.attempts, self.cost_usd
        return await self.pending.recalled(
            lambda pending: recalled(pending, self.store, self.clock, attempts=attempts, cost_usd=cost)
        )

    async def _outlast_others(self) -> Answer | None:
        """Wait while another process has an equal request on its way, without a slot; its answer, if there is one that will do."""
        if self.elsewhere is Elsewhere.SENT:
            began = self.clock.monotonic()
            self.waiting(WaitReason.EQUAL_CALL, None)
            patience = min(self.call.retry.attempt_timeout, self.call.timeout)
            self.joins = await self._others.ended(self.call.key, patience=patience)
            took = self.clock.monotonic() - began
            self.waited(WaitReason.EQUAL_CALL, took)
            self.queue_s += took
        self.looked = self.clock.monotonic()
        found = await self._recalled()
        if found is None and self.elsewhere is Elsewhere.ANSWERED:
            self.looked = math.inf  # it is there, and will not do
        return found

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
                    lineup=self.lineup,
                )
                payer = self.pending.payer()
                if payer.budget is budget and isinstance(permit, Permit):
                    return payer, permit
            except BaseException:
                _unused(budget, reservation, permit)
                raise
            _unused(budget, reservation, permit)
            if isinstance(permit, Follower):
                await permit.released(self.clock)
                self.queue_s += permit.queue_s

    async def _reserve(self, budget: RunBudget, reservation: BudgetReservation) -> None:
        began = self.clock.monotonic()

        def full() -> None:
            self.waiting(WaitReason.BUDGET, None)

        if await budget.reserve(reservation, model=self.call.request.model, waiting=full):
            self.waited(WaitReason.BUDGET, self.clock.monotonic() - began)

    def _reservation(self, request: AnyRequest) -> BudgetReservation:
        """For the question as it was, and for what was added to it to ask again."""
        more = Usage(input_tokens=_added_tokens(request, since=self.call.request))
        reckon = self.call.reckon
        expected = (self.call.expected if reckon is None else reckon()) + more
        self.length = expected.output_tokens or expected.input_tokens or 0
        most = replace(expected, input_tokens=math.ceil((expected.input_tokens or 0) * SAFETY))
        usd = self.call.provider.cost(request.model, most.dearest, tier=service_tier(request))
        return BudgetReservation(tokens=most.at_least, usd=usd)


def _unused(budget: RunBudget | None, reservation: BudgetReservation, permit: Permit | Follower | None) -> None:
    if budget is not None:
        budget.reconcile(reservation, Spend())
    if isinstance(permit, Permit):
        permit.release()


def _timed_out(call: Call, send: Send) -> NodeTimedOut:
    """Waiting for an attempt that would come too late helps nobody."""
    last = send.error.message if send.error is not None else ""
    return NodeTimedOut(
        f"the next attempt, in {send.delay:.3g} s, would pass the step's timeout of {call.timeout:g} s; "
        f"the last one: {last}",
        hint="raise `timeout`, or see what the provider is doing",
        answer=None if send.error is None else send.error.answer,
    )


def _added_tokens(request: AnyRequest, *, since: AnyRequest) -> int:
    """About how many tokens were added to a question in order to ask it again."""
    if request is since or not (isinstance(request, ChatRequest) and isinstance(since, ChatRequest)):
        return 0
    added = request.messages[len(since.messages) :]
    return sum(estimate_tokens(str(message["content"])) for message in added)
