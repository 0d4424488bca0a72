"""Calls that one request can carry gather here, from many steps and items, and share it.

Above the executor, below the response cache: what is known is not sent, and who waits here holds no slot. A batch goes as soon as
it is full, or when its first call has waited as long as it may. One that the server refuses is halved and sent again,
down to the single call that is at fault: it fails alone. If both halves are refused, a few calls are tried alone: it may
be that nothing in them is at fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from dataclasses import replace

from flowllm.calls.base import AnyRequest, Batching, Call, Caller, Layer, PendingCall
from flowllm.calls.batch_parts import divide, join, may_be_one_alone, tried_alone, words_of
from flowllm.core.cancel import CallStopped
from flowllm.core.clock import Clock
from flowllm.core.errors import ServerFailed
from flowllm.core.fingerprint import fingerprint
from flowllm.core.request import Answer
from flowllm.core.tasks import start_task
from flowllm.core.types import Json, Priority, Usage, WaitReason
from flowllm.storage.base import NodeWrite

_MOST_ATTEMPTS = 2
"""Of a request for several calls, before they are tried alone."""
_URGENCY = (Priority.HIGH, Priority.NORMAL, Priority.LOW)


class _Member:
    """One call's place in a batch."""

    __slots__ = ("batch", "future", "pending")

    def __init__(self, pending: PendingCall) -> None:
        self.pending = pending
        self.future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.batch: _Batch | None = None
        """The one that it was sent with last; None while it gathers."""


class _Batch:
    """Calls that share a request. To the executor it is one call, with a request of its own."""

    def __init__(self, members: Sequence[_Member], name: str, *, suspect: bool = False) -> None:
        """`name` is unlike any other batch's. `suspect`: one of them may be at fault for all of them."""
        self.members = list(members)
        """Those that still wait."""
        self.sent = list(members)
        """Those whose request went out, or will."""
        self.suspect = suspect
        self.error: Exception | None = None
        """Why there is no answer."""
        self.call = _joined([member.pending.call for member in members], suspect=suspect)
        self.task: asyncio.Task[None] | None = None
        self.looked = min(member.pending.looked for member in members)
        self._name = name
        self._on_wire = False
        self._ended = False
        self._parts: Sequence[Answer] = ()
        for member in members:
            member.batch = self

    @property
    def on_wire(self) -> bool:
        """The request is out, and so it is for each of its calls."""
        return self._on_wire

    @on_wire.setter
    def on_wire(self, value: bool) -> None:
        self._on_wire = value
        for member in self.members:
            member.pending.on_wire = value

    def payer(self) -> Caller:
        """The payer of the first call that has one."""
        for member in list(self.members):
            with contextlib.suppress(CallStopped):
                return member.pending.payer()
        raise CallStopped

    def callers(self) -> Sequence[Caller]:
        """Each node once, however many of its calls are in the batch."""
        found = (caller for member in self.members for caller in member.pending.callers())
        return list({id(caller.waits): caller for caller in found}.values())

    def holds_secret(self, value: Json) -> bool:
        """Of any of its calls."""
        return any(member.pending.holds_secret(value) for member in self.members)

    async def recalled(self, recall: Callable[[PendingCall], Awaitable[Answer | None]]) -> Answer | None:
        """What the response cache has by now of its calls goes to them, and they leave; an answer if none is left."""
        members = list(self.members)
        outcomes = await asyncio.gather(*(recall(member.pending) for member in members), return_exceptions=True)
        last: Answer | None = None
        for member, found in zip(members, outcomes, strict=True):
            if found is None or member not in self.members:
                continue
            self.members.remove(member)
            if isinstance(found, BaseException):
                member.future.set_exception(found)
            elif not member.future.done():
                last = found
                member.future.set_result(found)
        if self.members:
            return None
        self._ended, self.sent = True, []
        if last is None:
            raise CallStopped
        return last

    def departing(self, request: AnyRequest) -> AnyRequest:
        """The request of those that still wait."""
        if len(self.members) == len(self.sent):
            return request
        self.sent = list(self.members)
        return join([member.pending.call.request for member in self.sent])

    def shares(self, answer: Answer) -> Sequence[tuple[PendingCall, Answer]]:
        """Each call that was sent with its part; also one that was left since, for what is paid for is kept."""
        calls = [member.pending.call for member in self.sent]
        self._parts = [replace(part, batch=self._name) for part in divide(answer, calls)]
        return [(member.pending, part) for member, part in zip(self.sent, self._parts, strict=True)]

    def rows_for(self, answer: Answer) -> Sequence[NodeWrite]:  # noqa: ARG002 - the protocol's shape
        """None: the rows are its calls'."""
        return ()

    def deliver(self) -> None:
        """The answer is durable: each call gets its part."""
        self._ended = True
        for member, part in zip(self.sent, self._parts, strict=True):
            if not member.future.done():
                member.future.set_result(part)

    def fail(self, error: BaseException) -> None:
        """There is no answer, for any of them."""
        self._ended = True
        for member in self.members:
            if not member.future.done():
                member.future.set_exception(error)

    def halves(self) -> tuple[list[_Member], list[_Member]]:
        """Those that still wait, in two: this batch is over."""
        self._ended = True
        middle = (len(self.members) + 1) // 2
        return self.members[:middle], self.members[middle:]

    def leave(self, member: _Member) -> asyncio.Task[None] | None:
        """That call no longer waits. Gives the batch's task, to be waited for, if it was the last one."""
        if self._ended or member not in self.members:
            return None
        self.members.remove(member)
        if self.members or self.task is None:
            return None
        self.task.cancel()
        return self.task


class _OpenBatch:
    """Members of one group that wait for others."""

    def __init__(self) -> None:
        self.members: list[_Member] = []
        self.tokens = 0
        self.size = 0
        """The smallest of the members' sizes."""
        self.due = 0.0
        """Monotonic seconds."""
        self.timer: asyncio.Task[None] | None = None
        self.callers: dict[int, tuple[Caller, float]] = {}
        """Each node that waits here, and since when."""

    def add(self, member: _Member, how: Batching, now: float) -> bool:
        """One more; whether it is due earlier by that."""
        earlier = not self.members or now + how.wait < self.due
        self.size = min(self.size, how.size) if self.members else how.size
        self.due = now + how.wait if earlier else self.due
        self.members.append(member)
        self.tokens += _tokens(member)
        return earlier

    def wait(self, member: _Member, clock: Clock) -> None:
        """The member's node waits for others, if it did not already."""
        for caller in member.pending.callers():
            if id(caller.waits) not in self.callers:
                self.callers[id(caller.waits)] = caller, (since := clock.monotonic())
                at = clock.now()
                caller.tell_waiting(WaitReason.BATCH, at=at, until=at + self.due - since)

    def remove(self, member: _Member) -> None:
        """It no longer waits."""
        self.members.remove(member)
        self.tokens -= _tokens(member)


class Batches:
    """The layer in which calls gather."""

    def __init__(self, inner: Layer, clock: Clock) -> None:
        self._inner = inner
        self._clock = clock
        self._open: dict[Hashable, _OpenBatch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._names = itertools.count(1)
        self._trials: dict[Hashable, asyncio.Lock] = {}
        self._general: dict[Hashable, object] = {}
        """What a group's requests were refused with whatever was in them."""

    async def answer(self, pending: PendingCall) -> Answer:
        """The call's part of a batch's answer; a call without a batch goes straight on."""
        if pending.call.batch is None:
            return await self._inner.answer(pending)
        member, group = _Member(pending), _group(pending.call)
        self._gather(member, pending.call.batch, group)
        try:
            return await member.future
        finally:
            await self._leave(member, group)

    def _gather(self, member: _Member, how: Batching, group: Hashable) -> None:
        found = self._open.get(group)
        if found is not None and found.tokens + _tokens(member) > how.most_tokens:
            self._flush(group)
        opened = self._open.setdefault(group, _OpenBatch())
        earlier = opened.add(member, how, self._clock.monotonic())
        if len(opened.members) >= opened.size:
            self._flush(group)
            return
        opened.wait(member, self._clock)
        if earlier:
            _cancel(opened.timer)
            opened.timer = self._start(self._flush_after(group, how.wait))

    async def _flush_after(self, group: Hashable, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._open[group].timer = None
        self._flush(group)

    def _flush(self, group: Hashable) -> None:
        opened = self._open.pop(group)
        _cancel(opened.timer)
        now = self._clock.monotonic()
        for caller, since in opened.callers.values():
            caller.waited(WaitReason.BATCH, now - since)
        if opened.members:
            self._send(self._batch(opened.members))

    def _send(self, batch: _Batch) -> None:
        batch.task = self._start(self._execute(batch))

    def _batch(self, members: Sequence[_Member], *, suspect: bool = False) -> _Batch:
        return _Batch(members, f"batch-{next(self._names)}", suspect=suspect)

    async def _execute(self, batch: _Batch) -> None:
        """Ask for all of them; if some of them may be why there is no answer, in parts."""
        await self._ask(batch)
        if batch.error is None:
            return
        group = _group(batch.call)
        if len(batch.members) < 2 or not may_be_one_alone(batch.error):  # noqa: PLR2004 - a pair is a batch
            batch.fail(batch.error)
        elif batch.suspect:
            self._divide(batch)
        else:
            async with self._trials.setdefault(group, asyncio.Lock()):  # one finds out for all that were refused
                await self._find_out(batch, batch.error, group)

    async def _ask(self, batch: _Batch) -> None:
        try:
            await self._inner.answer(batch)
        except asyncio.CancelledError:
            batch.fail(CallStopped())
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is each waiter's to deal with
            batch.error = error
        else:
            self._general.pop(_group(batch.call), None)
            batch.deliver()

    def _divide(self, batch: _Batch) -> None:
        for half in batch.halves():
            if half:
                self._send(self._batch(half, suspect=True))

    async def _find_out(self, batch: _Batch, error: Exception, group: Hashable) -> None:
        """Send those that still wait in halves, and what is refused then in smaller parts, if that can help."""
        said = words_of(error)
        if self._general.get(group) == said:
            batch.fail(error)
            return
        halves = [self._batch(half, suspect=True) for half in batch.halves() if half]
        await self._all_asked(halves)
        refused = [half for half in halves if half.error is not None and words_of(half.error) == said]
        if halves and len(refused) == len(halves) and not await self._one_is_answered(refused, error):
            if not isinstance(error, ServerFailed):  # trouble passes
                self._general[group] = said
            for half in refused:
                half.fail(half.error or error)
            return
        for half in halves:
            if half.error is None:
                continue
            if len(half.members) > 1 and may_be_one_alone(half.error):
                self._divide(half)
            else:
                half.fail(half.error)

    async def _one_is_answered(self, refused: Sequence[_Batch], error: Exception) -> bool:
        """Try a few of them alone; whether one is answered, or refused for another reason."""
        members = [(member, half) for half in refused if len(half.members) > 1 for member in half.members]
        for place in tried_alone([_tokens(member) for member, _ in members], error):
            member, half = members[place]
            if member not in half.members:
                continue
            half.members.remove(member)
            single = self._batch([member])
            await self._all_asked([single])
            if single.error is None:
                return True
            single.fail(single.error)
            if words_of(single.error) != words_of(error):
                return True
        return False

    async def _all_asked(self, batches: Sequence[_Batch]) -> None:
        for batch in batches:
            batch.task = self._start(self._ask(batch))
        if batches:
            await asyncio.wait([batch.task for batch in batches if batch.task is not None])

    async def _leave(self, member: _Member, group: Hashable) -> None:
        if member.batch is not None:
            ending = member.batch.leave(member)
            if ending is not None:
                await asyncio.wait([ending])
            return
        opened = self._open[group]
        opened.remove(member)
        if not opened.members:
            _cancel(opened.timer)
            del self._open[group]

    def _start(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = start_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _group(call: Call) -> Hashable:
    """What may share a request: of one tenant, under one policy, and on one budget if there is one."""
    budget = None if call.caller.budget is None else call.caller.lease.run_id
    group = None if call.batch is None else call.batch.group
    return (group, call.retry, call.timeout, call.caller.tenant, budget)


def _joined(calls: Sequence[Call], *, suspect: bool) -> Call:
    """The call for all of them. Those that are not alone are soon sent in smaller batches rather than again. It has no
    rows and no place in the response cache: its members have."""
    first = calls[0]
    if len(calls) == 1:
        return first
    return replace(
        first,
        request=join([call.request for call in calls]),
        retry=replace(first.retry, max_attempts=min(first.retry.max_attempts, 1 if suspect else _MOST_ATTEMPTS)),
        key=fingerprint({"batch": [call.key for call in calls]}),
        priority=min((call.priority for call in calls), key=_URGENCY.index),
        expected=sum((call.expected for call in calls), Usage()),
    )


def _tokens(member: _Member) -> int:
    return member.pending.call.expected.at_least


def _cancel(timer: asyncio.Task[None] | None) -> None:
    if timer is not None:
        timer.cancel()
