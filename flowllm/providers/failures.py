"""What a server's refusal means: HTTP status, headers and words to a typed error. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flowllm.errors import (
    BadAnswer,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    ServerFailed,
    Unauthorized,
    UnknownModel,
)

if TYPE_CHECKING:
    from flowllm.types import Json

LONGEST_RETRY_AFTER = 3600.0
"""Seconds; a server that asks for more is asked again after this."""
LONGEST_WORDS = 1000
"""Characters of a server's own words that go into a message."""
LONGEST_RAW = 64 * 1024
"""Characters of raw text that an error keeps."""

_QUOTA = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "credit_exhausted"}
)
_RATE = frozenset({"rate_limit_exceeded", "rate_limit_error", "too_many_requests", "slow_down"})
_MODEL = frozenset({"model_not_found", "model_not_available", "unknown_model"})
_SERVER = frozenset(
    {"server_error", "internal_error", "overloaded_error", "service_unavailable", "api_error"}
)
_KEY = frozenset({"invalid_api_key", "authentication_error", "permission_error"})
_CODE_STATUS = (
    *((code, 429) for code in (*_QUOTA, *_RATE)),
    *((code, 404) for code in _MODEL),
    *((code, 500) for code in _SERVER),
    *((code, 401) for code in _KEY),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Who was asked, for messages."""

    provider: str
    server: str
    """host:port, or host."""
    model: str = ""
    key_env: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """What a server said of its error."""

    message: str = ""
    codes: frozenset[str] = frozenset()
    """Its `code` and `type`, lower case."""
    status: int | None = None
    """A status that stands in the body."""


def failure(status: int, headers: Mapping[str, str], body: str, asked: Asked, *, now: float) -> ProviderError:
    """The error for an answer whose status is not 2xx. `headers` have lower-case names; `now` is the wall clock
    in seconds since 1970 UTC, for a Retry-After that is a date."""
    words = _words(_parsed(body), body)
    if 300 <= status < 400:  # noqa: PLR2004 - HTTP's own classes of status
        return _redirected(status, headers, asked)
    return _typed(status, words, asked, retry_after(headers, now=now))


def error_at_200(payload: Mapping[str, Json], raw: str, asked: Asked) -> ProviderError:
    """The error for a 200 whose body is an error, as some gateways send; the raw text is kept."""
    words = _words(payload, raw)
    status = words.status or next((status for code, status in _CODE_STATUS if code in words.codes), None)
    if status is None:
        told = words.message or "without a word of why"
        return BadAnswer(
            f"{asked.provider} ({asked.server}) answered 200, but with an error: {told}",
            answer=raw[:LONGEST_RAW],
            status=200,
        )
    error = _typed(status, words, asked, None)
    error.answer = raw[:LONGEST_RAW]
    return error


def _typed(status: int, words: _Words, asked: Asked, wait: float | None) -> ProviderError:
    who = f"{asked.provider} ({asked.server})"
    said = f": {words.message}" if words.message else ""
    if words.codes & _QUOTA or status == 402:  # noqa: PLR2004
        return QuotaExhausted(
            f"{who} says the account has nothing left to spend{said}",
            hint="add credit or raise the account's limit, then `flowllm resume`",
            status=status,
        )
    if status == 429:  # noqa: PLR2004
        return RateLimited(f"{who} says to slow down (429){said}", retry_after=wait)
    if status in (401, 403):
        return Unauthorized(f"{who} refused the key ({status}){said}", hint=_key_hint(asked), status=status)
    if status in (408, 409) or status >= 500:  # noqa: PLR2004
        return ServerFailed(f"{who} failed ({status}){said}", status=status, retry_after=wait)
    return _rejected(status, words, asked)


def _rejected(status: int, words: _Words, asked: Asked) -> RequestRejected:
    who = f"{asked.provider} ({asked.server})"
    said = f": {words.message}" if words.message else ""
    if words.codes & _MODEL or _names_missing_model(status, words, asked):
        return UnknownModel(
            f"{who} does not have the model {asked.model!r}{said}",
            hint="check the spelling of `model`, and that the account may use it",
            status=status,
        )
    hint = "the request itself is at fault: `flowllm show` with the run and the step prints what was sent"
    if "context_length_exceeded" in words.codes or "maximum context length" in words.message.lower():
        hint = "the prompt is too long for this model: shorten it, or take a model with a longer context"
    elif status in (404, 405):
        hint = "check the provider's `base_url`: it usually ends in /v1"
    return RequestRejected(f"{who} does not accept the request ({status}){said}", hint=hint, status=status)


def _names_missing_model(status: int, words: _Words, asked: Asked) -> bool:
    """Servers other than OpenAI's often say it in words alone."""
    said = words.message.lower()
    missing = any(
        phrase in said for phrase in ("not found", "does not exist", "not a valid model", "no such model")
    )
    named = "model" in said and bool(asked.model) and asked.model.lower() in said
    return status in (400, 404) and missing and named


def _key_hint(asked: Asked) -> str:
    if not asked.key_env:
        return "set `api_key_env` of the provider to the environment variable that holds its key"
    return f"check the key in the environment variable {asked.key_env}"


def _redirected(status: int, headers: Mapping[str, str], asked: Asked) -> RequestRejected:
    try:
        host = urlsplit(headers.get("location", "")).hostname
    except ValueError:
        host = None
    where = f" to {host}" if host else ""
    return RequestRejected(
        f"{asked.provider} ({asked.server}) redirects{where} ({status}); redirects are not followed",
        hint="set the provider's `base_url` to the address that answers",
        status=status,
    )


def _parsed(body: str) -> Json:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _words(payload: Json, body: str) -> _Words:
    """The message and codes in `{"error": {message, type, code}}` and in the shapes that other servers use."""
    if not isinstance(payload, Mapping):
        return _Words(message=_shortened(body) if "<" not in body[:200] else "")
    error = payload.get("error", payload)
    if not isinstance(error, Mapping):
        return _Words(message=_shortened(str(error)))
    message = next(
        (error[key] for key in ("message", "detail", "msg") if isinstance(error.get(key), str)), ""
    )
    codes = frozenset(str(error[key]).lower() for key in ("code", "type") if isinstance(error.get(key), str))
    status = error.get("code") if isinstance(error.get("code"), int) else error.get("status")
    in_range = isinstance(status, int) and 400 <= status < 600  # noqa: PLR2004
    return _Words(message=_shortened(message), codes=codes, status=status if in_range else None)


def _shortened(text: str) -> str:
    flat = " ".join(text[: 4 * LONGEST_WORDS].split())
    return flat if len(flat) <= LONGEST_WORDS else flat[:LONGEST_WORDS] + " …"


def retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds that the server asks to wait, from 0 to 3600; None if it says nothing that can be understood.

    Reads `retry-after-ms`, then `retry-after` as seconds or as an HTTP date (RFC 9110, section 10.2.3).
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return _clamped(milliseconds / 1000)
    text = headers.get("retry-after", "").strip()
    seconds = _number(text)
    if seconds is not None:
        return _clamped(seconds)
    try:
        return _clamped(parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value


def _clamped(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
