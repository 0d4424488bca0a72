"""What was answered once is not asked again: the response cache is looked into before anything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flowllm.calls.base import Layer, PendingCall
from flowllm.calls.stored_answer import answer_of, usable_answer
from flowllm.core.clock import Clock
from flowllm.core.events import Notice
from flowllm.core.request import Answer
from flowllm.core.types import WaitReason
from flowllm.storage.base import Store

_UNREADABLE = "is not as this version of flowllm writes them; it is asked for anew, as are others like it"


class ResponseCache:
    """A layer that answers from the store where it can."""

    def __init__(self, inner: Layer, store: Store, clock: Clock) -> None:
        self._inner = inner
        self._store = store
        self._clock = clock
        self._told: set[str] = set()
        """Runs that were told of an answer that cannot be read."""

    async def answer(self, pending: PendingCall) -> Answer:
        """The stored answer, or the inner layer's."""
        pending.looked = self._clock.monotonic()
        found = await recalled(pending, self._store, self._clock, unreadable=lambda: self._tell(pending))
        if found is None:
            pending.call.missed()
            return await self._inner.answer(pending)
        return found

    def _tell(self, pending: PendingCall) -> None:
        for caller in pending.callers():
            run = caller.lease.run_id
            if run not in self._told:
                self._told.add(run)
                message = f"the stored answer of {caller.node_id} {_UNREADABLE}"
                caller.emit(Notice(run_id=run, at=self._clock.now(), message=message))


def waited(pending: PendingCall, reason: WaitReason, seconds: float) -> None:
    """Add seconds that a call has waited to all nodes that did."""
    for caller in pending.callers():
        caller.waited(reason, seconds)


async def recalled(
    pending: PendingCall,
    store: Store,
    clock: Clock,
    *,
    attempts: int = 0,
    cost_usd: float | None = 0.0,
    unreadable: Callable[[], None] | None = None,
) -> Answer | None:
    """A stored answer that will do for this call, with its rows, durable; None if there is none. `attempts` and `cost_usd`
    are what the call has taken by itself; `unreadable` is called where what is stored is no answer."""
    call = pending.call
    if not call.read_memo:
        return None
    began = clock.monotonic()
    record = await store.memo(call.key)
    waited(pending, WaitReason.CACHE_LOOKUP, clock.monotonic() - began)
    if record is None:
        return None
    answer = usable_answer(record, call.ttl, now=clock.now(), keep_truncated=call.keep_truncated)
    if answer is None:
        if unreadable is not None and answer_of(record) is None:
            unreadable()
        return None
    answer = replace(answer, attempts=attempts, cost_usd=cost_usd)
    if rows := pending.rows_for(answer):
        await store.commit(nodes=rows)
    return answer
