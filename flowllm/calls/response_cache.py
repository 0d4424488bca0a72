"""What was answered once is not asked again: the response cache is looked into before anything else."""

from __future__ import annotations

from dataclasses import replace

from flowllm.calls.base import Layer, PendingCall
from flowllm.calls.stored_answer import answer_of, usable
from flowllm.core.clock import Clock
from flowllm.core.request import Answer
from flowllm.core.types import WaitReason
from flowllm.storage.base import Store


class ResponseCache:
    """A layer that answers from the store where it can."""

    def __init__(self, inner: Layer, store: Store, clock: Clock) -> None:
        self._inner = inner
        self._store = store
        self._clock = clock

    async def answer(self, pending: PendingCall) -> Answer:
        """The stored answer, or the inner layer's."""
        found = await recalled(pending, self._store, self._clock)
        if found is None:
            pending.call.missed()
            return await self._inner.answer(pending)
        return found


def waited(pending: PendingCall, reason: WaitReason, seconds: float) -> None:
    """Add seconds that a call has waited to all nodes that did."""
    for caller in pending.callers():
        caller.waited(reason, seconds)


async def recalled(
    pending: PendingCall, store: Store, clock: Clock, *, attempts: int = 0, cost_usd: float | None = 0.0
) -> Answer | None:
    """A stored answer that will do for this call, with its rows, durable; None if there is none. `attempts` and `cost_usd`
    are what the call has taken by itself."""
    call = pending.call
    if not call.read_memo:
        return None
    began = clock.monotonic()
    record = await store.memo(call.key)
    waited(pending, WaitReason.CACHE_LOOKUP, clock.monotonic() - began)
    if record is None or not usable(record, call.ttl, now=clock.now(), keep_truncated=call.keep_truncated):
        return None
    answer = replace(answer_of(record), attempts=attempts, cost_usd=cost_usd)
    if rows := pending.rows_for(answer):
        await store.commit(nodes=rows)
    return answer
