"""One request on record: written before it is sent, and again when its outcome is known."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

from flowllm.calls.base import Call, Caller
from flowllm.calls.budget import BudgetReservation
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
from flowllm.core.events import RequestEnded, RequestSent
from flowllm.core.types import AttemptStatus, Json, Usage
from flowllm.storage.base import AttemptRecord, MemoRecord, NodeWrite, Store

_OK = 200
_STOPPED = {"type": "Stopped", "message": "the run was stopped before its answer came", "hint": ""}
_NOT_SENT = {"type": "NotSent", "message": "the run was stopped before it was sent", "hint": ""}


class Attempt:
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
