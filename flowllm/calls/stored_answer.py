"""What the response cache keeps of an answer, and whether that will do. Pure."""

from __future__ import annotations

from flowllm.core.request import Answer
from flowllm.core.types import Usage
from flowllm.storage.base import MemoRecord


def fresh(record: MemoRecord, ttl: float | None, *, now: float) -> bool:
    """It is not older than `ttl` seconds; None: it never is."""
    return ttl is None or now - record.created_at <= ttl


def usable(record: MemoRecord, ttl: float | None, *, now: float, keep_truncated: bool) -> bool:
    """It is fresh, and whole or wanted all the same."""
    return fresh(record, ttl, now=now) and (keep_truncated or not record.answer["truncated"])


def answer_of(record: MemoRecord) -> Answer:
    """An answer as the response cache keeps it."""
    kept = record.answer
    return Answer(
        value=kept["value"],
        model=kept["model"],
        provider=kept["provider"],
        usage=Usage(**kept["usage"]),
        cost_usd=0.0,  # it was paid for when it was asked
        truncated=kept["truncated"],
        cached=True,
    )


def memo_record(key: str, answer: Answer, *, now: float) -> MemoRecord:
    """What the response cache keeps of an answer."""
    return MemoRecord(
        key=key,
        provider=answer.provider,
        model=answer.model,
        created_at=now,
        answer={
            "value": answer.value,
            "model": answer.model,
            "provider": answer.provider,
            "usage": answer.usage.as_dict(),
            "cost_usd": answer.cost_usd,
            "truncated": answer.truncated,
        },
    )
