"""What differs between the kinds of requests on their way to a provider; the line treats them all alike."""

from __future__ import annotations

from flowllm.core.request import ChatRequest, Reply, Request
from flowllm.core.types import estimate_tokens
from flowllm.providers.base import Provider


async def send(provider: Provider, request: Request, *, timeout: float) -> Reply:
    """Send the request once. Raises as Provider.complete and Provider.embed do."""
    if isinstance(request, ChatRequest):
        return await provider.complete(request, timeout=timeout)
    return await provider.embed(request, timeout=timeout)


def added_tokens(request: Request, *, since: Request) -> int:
    """About how many tokens were added to a question in order to ask it again."""
    if request is since or not (isinstance(request, ChatRequest) and isinstance(since, ChatRequest)):
        return 0
    added = request.messages[len(since.messages) :]
    return sum(estimate_tokens(str(message["content"])) for message in added)
