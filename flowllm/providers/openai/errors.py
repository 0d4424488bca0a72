"""A server's error response, as a typed error with a message for people. Pure; `error_table.py` decides which type."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from flowllm.core.errors import (
    BadAnswer,
    ContentFiltered,
    InvalidAnswer,
    PathNotFound,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    RequestTooLarge,
    ServerFailed,
    StepError,
    Unauthorized,
    UnknownModel,
)
from flowllm.core.types import Json
from flowllm.providers.openai.error_body import ErrorBody, parsed, read_error
from flowllm.providers.openai.error_table import error_type
from flowllm.providers.openai.retry_after import requested_wait

LARGEST_ERROR_BODY = 64 * 1024
"""Bytes of an error's body that are read."""
LONGEST_RAW = 64 * 1024
"""Characters of raw text that an error keeps."""
_FORMAT: Final = re.compile(r"response_?format|json_?schema|text\.format|structured[ _]output", re.IGNORECASE)
_MESSAGES: Final[Mapping[type[StepError], tuple[str, str]]] = {
    QuotaExhausted: (
        "{who} says the account has nothing left to spend{reason}",
        "add credit or raise the account's limit, then `flowllm resume`",
    ),
    ContentFiltered: (
        "the content filter of {who} stopped the request ({status}){reason}",
        "reword the prompt, or name a `fallback` model",
    ),
    RequestTooLarge: (
        "the request is too large for {model} at {who} ({status}){reason}",
        "the prompt is too long for this model: shorten it, lower max_tokens, or name a `fallback` that takes more",
    ),
    UnknownModel: (
        "{who} does not have the model {quoted_model}{reason}",
        "check the spelling of `model`, and that the account may use it",
    ),
    Unauthorized: ("{who} refused {refused} ({status}){reason}", ""),
    RateLimited: ("{who} says to slow down ({status}){reason}", ""),
    ServerFailed: ("{who} failed ({status}){reason}", ""),
    # Of JSON that the server checked itself. The model reads it when it is asked again: no word of where the server is.
    InvalidAnswer: ("the server refused the model's own answer ({status}){reason}", ""),
    PathNotFound: (
        "{who} has nothing at that address ({status}){reason}",
        "check the provider's `base_url`: it usually ends in /v1",
    ),
    RequestRejected: (
        "{who} does not accept the request ({status}){reason}",
        "the request itself is at fault: `flowllm show` with the run and the step prints what was sent",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestInfo:
    """To whom a request was sent, for messages."""

    provider: str
    server: str
    """host:port, or host."""
    model: str = ""
    key_env: str = ""
    at: float = 0.0
    """Seconds since 1970 UTC."""
    tools: bool = False
    """Tools were sent, so that a call of one is an answer."""

    @property
    def who(self) -> str:
        """Provider and server."""
        return f"{self.provider} ({self.server})"


def error_of(status: int, headers: Mapping[str, str], raw: str, info: RequestInfo, *, now: float) -> StepError:
    """The error for an answer whose status is not 2xx, with the whole body in `answer`. `headers` have lower-case
    names; `now` is the wall clock in seconds since 1970 UTC, for waits that are dates."""
    if 300 <= status < 400:  # noqa: PLR2004 - HTTP's own classes of status
        return _redirected(status, headers, info)
    payload = parsed(raw)
    body = read_error(payload, raw, model=info.model)
    wait = requested_wait(headers, payload, body.text, now=now)
    return _with_response(_error(error_type(status, body) or RequestRejected, status, body, info), raw, wait)


def error_at_200(payload: Mapping[str, Json], raw: str, info: RequestInfo) -> StepError:
    """The error for a 200 whose body is an error, as some gateways send; the raw text is kept."""
    body = read_error(payload, raw, model=info.model)
    kind = error_type(body.status, body)
    if kind is None:
        reason = body.message or "without a word of why"
        error: StepError = BadAnswer(f"{info.who} answered 200, but with an error: {reason}", status=200)
    else:
        error = _error(kind, body.status or 200, body, info)
    return _with_response(error, raw, requested_wait({}, payload, body.text, now=info.at))


def is_error(payload: Mapping[str, Json]) -> bool:
    """Whether a body that came with status 200 is an error and no answer."""
    base = payload.get("base_resp")  # MiniMax
    if isinstance(base, dict) and base.get("status_code") not in (0, None):
        return True
    return bool(payload.get("error")) or payload.get("object") == "error"


def has_message(payload: Mapping[str, Json]) -> bool:
    """Whether a body without an answer says why."""
    return any(payload.get(name) for name in ("message", "msg", "detail", "errors", "error_msg", "error_message"))


def _error(kind: type[StepError], status: int, body: ErrorBody, info: RequestInfo) -> StepError:
    template, hint = _MESSAGES[kind]
    message = template.format(
        who=info.who,
        status=status,
        reason=f": {body.message}" if body.message else "",
        model=info.model or "the model",
        quoted_model=repr(info.model),
        refused="access" if status == 403 else "the key",  # noqa: PLR2004 - Forbidden
    )
    if kind is Unauthorized:
        hint = f"check the key in the environment variable {info.key_env}"
        if not info.key_env:
            hint = "set `api_key_env` of the provider to the environment variable that holds its key"
    if kind is RequestRejected and _FORMAT.search(body.message):
        hint = (
            "if the server does not take schemas so, set `structured` of the provider to json_object_schema, "
            "json_object or prompt; `flowllm show` with the run and the step prints what was sent"
        )
    if kind is InvalidAnswer:
        return InvalidAnswer(message, answer=body.generation or "")
    error = kind(message, hint=hint)
    if isinstance(error, ProviderError):
        error.status = status
    return error


def _with_response(error: StepError, raw: str, wait: float | None) -> StepError:
    """The error with the server's text and the wait that it asks for; a model's answer that it refused has its own."""
    if isinstance(error, RateLimited | ServerFailed):
        error.retry_after = wait
    if not isinstance(error, InvalidAnswer):
        error.answer = raw[:LONGEST_RAW] or None
    return error


def _redirected(status: int, headers: Mapping[str, str], info: RequestInfo) -> PathNotFound:
    try:
        host = urlsplit(headers.get("location", "")).hostname
    except ValueError:
        host = None
    where = f" to {host}" if host else ""
    return PathNotFound(
        f"{info.who} redirects{where} ({status}); redirects are not followed",
        hint="set the provider's `base_url` to the address that answers",
        status=status,
    )
