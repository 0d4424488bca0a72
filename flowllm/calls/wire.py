"""What differs between the kinds of requests on their way to a provider; attempts treat them all alike."""

from __future__ import annotations

from typing import cast

from flowllm.calls.base import AnyRequest, Performer
from flowllm.core.request import ChatRequest, LocalReply, LocalRequest, Reply
from flowllm.core.types import estimate_tokens
from flowllm.providers.base import Provider


async def send(performer: Performer, request: AnyRequest, *, timeout: float, left: float) -> Reply:
    """Send the request once, within `timeout` seconds, of the `left` ones of all attempts. Raises as Provider.complete
    and Provider.embed do, and StepError for work of a step's own."""
    if isinstance(request, LocalRequest):
        return LocalReply(value=await request.perform(timeout, left))
    provider = cast("Provider", performer)
    if isinstance(request, ChatRequest):
        return await provider.complete(request, timeout=timeout)
    return await provider.embed(request, timeout=timeout)


def added_tokens(request: AnyRequest, *, since: AnyRequest) -> int:
    """About how many tokens were added to a question in order to ask it again."""
    if request is since or not (isinstance(request, ChatRequest) and isinstance(since, ChatRequest)):
        return 0
    added = request.messages[len(since.messages) :]
    return sum(estimate_tokens(str(message["content"])) for message in added)
