"""How embeddings of single texts share a request: put together, and what each text has of the answer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from flowllm.calls.base import AnyRequest, Call
from flowllm.core.request import Answer, EmbedRequest, Request
from flowllm.core.types import Usage


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
