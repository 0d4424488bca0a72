"""What the response cache keeps of an answer, and whether that will do. Pure."""

from __future__ import annotations

from operator import itemgetter
from typing import Final

from flowllm.core.request import Answer
from flowllm.core.types import USAGE_FIELDS, Usage
from flowllm.storage.base import MemoRecord

_KEPT: Final = itemgetter("value", "model", "provider", "truncated", "usage")
_COUNTED: Final = frozenset({int, type(None)})
_COSTS: Final = frozenset({float, int, type(None)})


def fresh(record: MemoRecord, ttl: float | None, *, now: float) -> bool:
    """It is not older than `ttl` seconds; None: it never is."""
    return ttl is None or now - record.created_at <= ttl


def usable_answer(record: MemoRecord, ttl: float | None, *, now: float, keep_truncated: bool) -> Answer | None:
    """The answer, if it is fresh, and whole or wanted all the same."""
    answer = answer_of(record) if fresh(record, ttl, now=now) else None
    return None if answer is None or (answer.truncated and not keep_truncated) else answer


def answer_of(record: MemoRecord) -> Answer | None:
    """An answer as the response cache keeps it; None where it is not one, as what was written by hand or by another version."""
    try:
        value, model, provider, cut, used = _KEPT(record.answer)
        cost = record.answer.get("cost_usd")
        counts = {name: used[name] for name in USAGE_FIELDS if name in used}
    except (KeyError, TypeError):
        return None
    kinds = [type(one) for one in (model, provider, cut, used)]
    if (
        kinds != [str, str, bool, dict]
        or type(cost) not in _COSTS
        or not _COUNTED.issuperset(map(type, counts.values()))
    ):
        return None
    return Answer(
        value=value,
        model=model,
        provider=provider,
        usage=Usage(**counts),
        cost_usd=0.0,  # it was paid for when it was asked
        saved_usd=cost,
        truncated=cut,
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
