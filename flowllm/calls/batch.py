"""Asks that one request can carry gather here, from many steps and items, and share it.

Above the line, below the memo: what is known is not sent, and who waits here holds no slot. A batch goes as soon as
it is full, or when its first ask has waited as long as it may. One that the server refuses is halved and sent
again, down to the single ask that is at fault: it fails alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from flowllm.calls.gate import CallStopped
from flowllm.errors import RequestRejected, RequestTooLarge, UnknownModel, WrongVectors
from flowllm.fingerprint import fingerprint
from flowllm.tasks import start_task
from flowllm.types import Priority, Usage

if TYPE_CHECKING:
    from collections.abc import Coroutine, Hashable, Sequence

    from flowllm.calls.base import Ask, Asker, Batching, Call, Layer
    from flowllm.clock import Clock
    from flowllm.request import Answer, Request
    from flowllm.store.base import NodeWrite

_ITS_FAULT = frozenset({None, 400, 413, 422})
"""HTTP statuses of a refusal that may be one ask's fault; None: it was refused here, as too large."""
_URGENCY = (Priority.HIGH, Priority.NORMAL, Priority.LOW)


class _Member:
    """One call's place in a batch."""

    __slots__ = ("batch", "call", "future")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.batch: _Batch | None = None
        """The one that it was sent with last; None while it gathers."""


class _Batch:
    """Calls that share a request. To the line it is one call, with a request of its own."""

    def __init__(self, members: Sequence[_Member], name: str) -> None:
        """`name` is unlike any other batch's."""
        self.members = list(members)
        """Those that still wait."""
        self.sent = list(members)
        """Those whose request went out, or will."""
        self.ask = _joined([member.call.ask for member in members])
        self.task: asyncio.Task[None] | None = None
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
            member.call.on_wire = value

    def payer(self) -> Asker:
        """The payer of the first call that has one."""
        for member in list(self.members):
            with contextlib.suppress(CallStopped):
                return member.call.payer()
        raise CallStopped

    def departing(self, request: Request) -> Request:
        """The request of those that still wait."""
        if len(self.members) == len(self.sent):
            return request
        self.sent = list(self.members)
        return _how(self.sent[0].call.ask).join([member.call.ask.request for member in self.sent])

    def shares(self, answer: Answer) -> Sequence[tuple[Call, Answer]]:
        """Each call that was sent with its part; also one that was left since, for what is paid for is kept."""
        asks = [member.call.ask for member in self.sent]
        self._parts = [replace(part, batch=self._name) for part in _how(asks[0]).divide(answer, asks)]
        return [(member.call, part) for member, part in zip(self.sent, self._parts, strict=True)]

    def settle(self, answer: Answer) -> Sequence[NodeWrite]:  # noqa: ARG002 - the protocol's shape
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
        if self._ended:
            return None
        self.members.remove(member)
        if self.members or self.task is None:
            return None
        self.task.cancel()
        return self.task


class _Gathering:
    """Members of one group that wait for others."""

    def __init__(self) -> None:
        self.members: list[_Member] = []
        self.tokens = 0
        self.size = 0
        """The smallest of the members' sizes."""
        self.due = 0.0
        """Monotonic seconds."""
        self.timer: asyncio.Task[None] | None = None

    def add(self, member: _Member, how: Batching, now: float) -> bool:
        """One more; whether it is due earlier by that."""
        earlier = not self.members or now + how.wait < self.due
        self.size = min(self.size, how.size) if self.members else how.size
        self.due = now + how.wait if earlier else self.due
        self.members.append(member)
        self.tokens += _tokens(member)
        return earlier

    def remove(self, member: _Member) -> None:
        """It no longer waits."""
        self.members.remove(member)
        self.tokens -= _tokens(member)


class Batches:
    """The layer in which calls gather."""

    def __init__(self, inner: Layer, clock: Clock) -> None:
        self._inner = inner
        self._clock = clock
        self._gathering: dict[Hashable, _Gathering] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._names = itertools.count(1)

    async def answer(self, call: Call) -> Answer:
        """The call's part of a batch's answer; an ask without a batch goes straight on."""
        if call.ask.batch is None:
            return await self._inner.answer(call)
        member, group = _Member(call), _group(call.ask)
        self._gather(member, call.ask.batch, group)
        try:
            return await member.future
        finally:
            await self._leave(member, group)

    def _gather(self, member: _Member, how: Batching, group: Hashable) -> None:
        found = self._gathering.get(group)
        if found is not None and found.tokens + _tokens(member) > how.most_tokens:
            self._flush(group)
        gathering = self._gathering.setdefault(group, _Gathering())
        earlier = gathering.add(member, how, self._clock.monotonic())
        if len(gathering.members) >= gathering.size:
            self._flush(group)
        elif earlier:
            _cancel(gathering.timer)
            gathering.timer = self._start(self._flush_after(group, how.wait))

    async def _flush_after(self, group: Hashable, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._gathering[group].timer = None
        self._flush(group)

    def _flush(self, group: Hashable) -> None:
        gathering = self._gathering.pop(group)
        _cancel(gathering.timer)
        self._send(gathering.members)

    def _send(self, members: Sequence[_Member]) -> None:
        if members:
            batch = _Batch(members, f"batch-{next(self._names)}")
            batch.task = self._start(self._carry_out(batch))

    async def _carry_out(self, batch: _Batch) -> None:
        try:
            await self._inner.answer(batch)
        except asyncio.CancelledError:
            batch.fail(CallStopped())
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is each waiter's to deal with
            if len(batch.members) > 1 and _may_be_one_alone(error):
                for half in batch.halves():
                    self._send(half)
            else:
                batch.fail(error)
        else:
            batch.deliver()

    async def _leave(self, member: _Member, group: Hashable) -> None:
        if member.batch is not None:
            ending = member.batch.leave(member)
            if ending is not None:
                await asyncio.wait([ending])
            return
        gathering = self._gathering[group]
        gathering.remove(member)
        if not gathering.members:
            _cancel(gathering.timer)
            del self._gathering[group]

    def _start(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = start_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _how(ask: Ask) -> Batching:
    if ask.batch is None:
        raise AssertionError("an ask that goes alone is in a batch")
    return ask.batch


def _group(ask: Ask) -> Hashable:
    """What may share a request: of one tenant, under one policy, and on one purse if there is one."""
    purse = None if ask.asker.purse is None else ask.asker.fence.run_id
    return (_how(ask).group, ask.retry, ask.timeout, ask.asker.tenant, purse)


def _joined(asks: Sequence[Ask]) -> Ask:
    """The ask for all of them. What it completes is their business: it has no rows and no place in the memo."""
    first = asks[0]
    if len(asks) == 1:
        return first
    return replace(
        first,
        request=_how(first).join([ask.request for ask in asks]),
        key=fingerprint({"batch": [ask.key for ask in asks]}),
        priority=min((ask.priority for ask in asks), key=_URGENCY.index),
        expected=sum((ask.expected for ask in asks), Usage()),
    )


def _tokens(member: _Member) -> int:
    return member.call.ask.expected.input_tokens


def _may_be_one_alone(error: Exception) -> bool:
    """One of the batch may be why all of it was refused."""
    if isinstance(error, RequestTooLarge):
        return True
    if isinstance(error, RequestRejected):
        return error.status in _ITS_FAULT and not isinstance(error, UnknownModel)
    return isinstance(error, WrongVectors)


def _cancel(timer: asyncio.Task[None] | None) -> None:
    if timer is not None:
        timer.cancel()
