"""What an error of a server can mean, and the form of a row that says how it is recognised. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container

    from flowllm.core.types import Json
    from flowllm.providers.openai.error_body import Words


class Meaning(StrEnum):
    """What an error says about the request, the account or the server."""

    NO_MONEY = "no_money"  # the account has nothing left to spend
    FILTERED = "filtered"  # a content filter or moderation stopped it
    TOO_LARGE = "too_large"  # more than the model's context, or than a minute's limit: it can never go
    NO_MODEL = "no_model"  # the server does not have the model, or not for this account
    NO_ENTRY = "no_entry"  # the key is missing, wrong or not allowed
    SLOW_DOWN = "slow_down"  # a rate limit
    TROUBLE = "trouble"  # the server's fault, or of the moment: it may go better later
    BAD_JSON = "bad_json"  # the server checked the model's JSON itself
    NO_PATH = "no_path"  # the address is not that of the API
    REJECTED = "rejected"  # the request itself is at fault


def letters(name: str) -> str:
    """A code or reason without case and separators: `contentFilter`, `content-filter` and `CONTENT_FILTER` are one."""
    return "".join(character for character in name.lower() if character.isalnum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way in which servers say something."""

    meaning: Meaning
    example: tuple[int, Json]
    """Status and body as a server sent them."""
    source: str
    """Whose server, or the report that shows it."""
    statuses: Container[int] = ()
    """HTTP statuses for which it holds; empty: any."""
    codes: str = ""
    """Separated by spaces; any of them as `code`, `type`, `status` or `reason`; case and separators do not matter."""
    phrases: tuple[str, ...] = ()
    """Regular expressions, any of them in the message, in lower case. Each is linear: no repetition within another."""

    def fits(self, status: int | None, words: Words) -> bool:
        """Whether it says this. Of an error at status 200 that names no other, codes and phrases decide alone."""
        if self.statuses and not (status in self.statuses or (status is None and (self.codes or self.phrases))):
            return False
        if not (self.codes or self.phrases):
            return True
        if any(letters(code) in words.codes for code in self.codes.split()):
            return True
        return any(re.search(phrase, words.spoken) for phrase in self.phrases)
