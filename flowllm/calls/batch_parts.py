"""How embeddings of single texts share a request: put together, what each has of the answer, and which are sent alone
when a batch is refused. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from flowllm.calls.base import AnyRequest, Call
from flowllm.core.errors import (
    ContentFiltered,
    PathNotFound,
    RequestRejected,
    RequestTooLarge,
    ServerFailed,
    UnknownModel,
    WrongVectors,
)
from flowllm.core.request import Answer, EmbedRequest, Request
from flowllm.core.types import Usage

_ONE_AT_FAULT = frozenset({None, 200, 400, 413, 415, 422, 424, 451})
"""HTTP statuses of a refusal that may be one call's fault; None: it was refused here, as too large."""
LEAST_TRIED = 3
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")


def may_be_one_alone(error: BaseException) -> bool:
    """One of the batch may be why all of it failed."""
    if isinstance(error, RequestRejected) and not isinstance(error, RequestTooLarge):
        return error.status in _ONE_AT_FAULT and not isinstance(error, UnknownModel | PathNotFound)
    return isinstance(error, RequestTooLarge | ContentFiltered | ServerFailed | WrongVectors)


def words_of(error: BaseException) -> tuple[type, str]:
    """The kind of an error and what it says, numbers and quoted words left out: those name a call."""
    return type(error), _QUOTED.sub("", str(error))


def tried_alone(sizes: Sequence[int], error: BaseException) -> list[int]:
    """The indexes of those calls to try: about log2 of their number, from the smallest to the largest by turns.

    A server in trouble is tried a few times whatever their number: each of them is sent several times.
    """
    wanted = LEAST_TRIED
    if sizes and not isinstance(error, ServerFailed):
        wanted = max(wanted, math.ceil(math.log2(len(sizes))) - 2)
    wanted = min(wanted, len(sizes))
    order = sorted(range(len(sizes)), key=lambda index: sizes[index])
    spread = [order[round(step * (len(order) - 1) / max(1, wanted - 1))] for step in range(wanted)]
    return [spread[step // 2 if step % 2 == 0 else -1 - step // 2] for step in range(wanted)]


def join(requests: Sequence[AnyRequest]) -> Request:
    """One request for the texts of all of them; they differ in nothing else."""
    wanted = cast("Sequence[EmbedRequest]", requests)
    return replace(wanted[0], texts=tuple(text for request in wanted for text in request.texts))


def divide(answer: Answer, calls: Sequence[Call]) -> Sequence[Answer]:
    """To each call, which is for one text, its vector, and tokens and cost by the estimated size of its text."""
    weights = [max(1, call.expected.at_least) for call in calls]
    tokens = shared_out(answer.usage.input_tokens, weights)
    cached = shared_out(answer.usage.cached_input_tokens, weights)
    whole = sum(weights)
    return [
        replace(
            answer,
            value=vector,
            usage=replace(Usage(), input_tokens=fresh, cached_input_tokens=old),
            cost_usd=None if answer.cost_usd is None else answer.cost_usd * weight / whole,
        )
        for vector, fresh, old, weight in zip(answer.value, tokens, cached, weights, strict=True)
    ]


def shared_out(total: int | None, weights: Sequence[int]) -> Sequence[int | None]:
    """Whole numbers that add up to `total`, in proportion to the weights: each is where the running sum rounds to.
    Of an unknown total every share is unknown."""
    if total is None:
        return [None] * len(weights)
    whole, before, shares = sum(weights), 0, []
    reached = 0
    for weight in weights:
        reached += weight
        upto = (2 * total * reached + whole) // (2 * whole)
        shares.append(upto - before)
        before = upto
    return shares
