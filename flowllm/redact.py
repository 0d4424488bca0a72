"""Secrets are taken out of every text before it is stored, shown or logged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowllm.types import Json

MASK = "***"
SHORTEST = 4
"""Values shorter than this are not masked: they would blot out ordinary text."""
SHORTEST_TARGET = 12
"""The same for the path and query of a URL, which may be as plain as `/v1/items`."""
_LEFT_IN_URLS = "/:?#@!$&'()*+,;=%"
"""Characters that clients do not encode in the path of a URL."""


def _spellings(secret: str) -> Iterable[str]:
    """A secret as it is, and as it stands inside of JSON and of URLs; of one that is a URL, what a server is told of it."""
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield quote(secret, safe="", errors="replace")
    yield quote_plus(secret, errors="replace")
    yield quote(secret, errors="replace")
    yield quote(secret, safe=_LEFT_IN_URLS, errors="replace")
    if secret.startswith(("http://", "https://")):
        target = secret.partition("://")[2].partition("/")[2]
        if len(target) >= SHORTEST_TARGET:
            yield from {f"/{target}", quote(f"/{target}", safe=_LEFT_IN_URLS, errors="replace")}


class Redactor:
    """Replaces known secret values, wherever they stand, by `***`."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: list[str] = []
        self.add(secrets)

    @property
    def knows_none(self) -> bool:
        """There is nothing to mask."""
        return not self._secrets

    def add(self, secrets: Iterable[str]) -> None:
        """Learn more secret values. The longest is replaced first, so that none leaves a tail behind."""
        fresh = {spelling for secret in secrets for spelling in _spellings(secret) if len(secret) >= SHORTEST}
        self._secrets = sorted(fresh.union(self._secrets), key=len, reverse=True)

    def text(self, text: str) -> str:
        """The text with every secret masked."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, MASK)
        return text

    def value(self, value: Json) -> Json:
        """A JSON value with every secret masked, in keys too, however deep."""
        if not self._secrets:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item) for item in value]
        return value
