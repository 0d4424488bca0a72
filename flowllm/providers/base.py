"""The protocol of a provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from flowllm.core.records import dataclass, field
from flowllm.core.request import ChatRequest, Completion, Embeddings, EmbedRequest, Request
from flowllm.core.types import Json, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Whose limits a request counts against: equal accounts share limits."""

    type: str
    base_url: str
    """Without credentials. For a simulated provider: `simulated:` and its settings that change answers."""
    key_hash: str = ""
    """A few digits of the SHA-256 of the API key, never the key."""
    extras: Mapping[str, Json] = field(default_factory=dict, compare=False)
    """What is sent with every request besides its body and may change the answer: headers and query by name, with a
    hash of each value, null for a secret. Part of keys, not of whose limits these are."""

    @property
    def keyed(self) -> dict[str, Json]:
        """The part of it that is in a request's key."""
        return {"type": self.type, "base_url": self.base_url, **self.extras}

    def __str__(self) -> str:
        return " ".join(filter(None, (self.type, self.base_url, self.key_hash)))


class Provider(Protocol):
    """Something that answers chat requests and embeds texts."""

    @property
    def name(self) -> str:
        """As the workflow calls it."""
        ...

    @property
    def account(self) -> Account:
        """Whose limits its requests count against; its type and base URL are part of every key."""
        ...

    def encode(self, request: Request) -> dict[str, Json]:
        """The body that would be sent for this request. Pure, and all of it is in the key.

        For an image in a file its placeholder: `complete` sends the bytes.
        """
        ...

    async def ready(self) -> None:
        """Load whatever the first request needs: nothing may come between the moment at which a request may go out,
        by its account's limits, and its going out."""
        ...

    async def complete(self, request: ChatRequest, *, timeout: float) -> Completion:
        """Send the request once and give the whole answer, within `timeout` seconds in total.

        Never retries, never follows a redirect. An answer cut at its token limit is returned with
        finish_reason "length"; one that was cut before its first word raises TruncatedAnswer. Raises a
        ProviderError for everything else that is not a whole answer; no text of an error contains a secret.
        """
        ...

    async def embed(self, request: EmbedRequest, *, timeout: float) -> Embeddings:
        """Ask once for the vectors of all texts of the request; as `complete` otherwise.

        Raises WrongVectors for an answer that does not fit the texts, and may with fewer of them.
        """
        ...

    def cost(self, model: str, usage: Usage, *, tier: str = "") -> float | None:
        """US dollars for that many tokens in that service tier; None where the price is unknown, 0.0 where nothing is
        paid."""
        ...


@runtime_checkable
class CopiesTexts(Protocol):
    """A provider that says in which bodies the texts of messages stand as they are: those are encoded once for many."""

    def copies_texts(self, request: ChatRequest) -> bool:
        """In the body of this request, and of any that has other whole texts in their places, they stand as they are, and
        nothing else of it depends on them."""
        ...
