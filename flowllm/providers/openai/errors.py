"""What a server's refusal means, as a typed error with words for people. Pure; `error_table.py` is the table it follows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from flowllm.core.errors import (
    BadAnswer,
    ContentFiltered,
    InvalidAnswer,
    PathNotFound,
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
from flowllm.providers.openai.error_body import Words, parsed, read_words
from flowllm.providers.openai.error_table import meaning_of
from flowllm.providers.openai.meanings import Meaning
from flowllm.providers.openai.retry_after import told_wait

LARGEST_ERROR_BODY = 64 * 1024
"""Bytes of an error's body that are read."""
LONGEST_RAW = 64 * 1024
"""Characters of raw text that an error keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Who was asked, for messages."""

    provider: str
    server: str
    """host:port, or host."""
    model: str = ""
    key_env: str = ""
    at: float = 0.0
    """When: seconds since 1970 UTC."""
    tools: bool = False
    """Tools were sent, so that a call of one is an answer."""

    @property
    def who(self) -> str:
        """Provider and server."""
        return f"{self.provider} ({self.server})"


_FORMAT = re.compile(r"response_?format|json_?schema|text\.format|structured[ _]output", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One refusal."""

    status: int
    words: Words
    asked: Asked
    wait: float | None = None

    @property
    def said(self) -> str:
        return f": {self.words.message}" if self.words.message else ""


def failure(status: int, headers: Mapping[str, str], body: str, asked: Asked, *, now: float) -> StepError:
    """The error for an answer whose status is not 2xx, with the whole body in `answer`. `headers` have lower-case
    names; `now` is the wall clock in seconds since 1970 UTC, for waits that are dates."""
    if 300 <= status < 400:  # noqa: PLR2004 - HTTP's own classes of status
        return _redirected(status, headers, asked)
    payload = parsed(body)
    words = read_words(payload, body, model=asked.model)
    wait = told_wait(headers, payload, words.spoken, now=now)
    meaning = meaning_of(status, words) or Meaning.REJECTED
    error = _ERRORS[meaning](_Case(status=status, words=words, asked=asked, wait=wait))
    return _with(error, body)


def error_at_200(payload: Mapping[str, Json], raw: str, asked: Asked) -> StepError:
    """The error for a 200 whose body is an error, as some gateways send; the raw text is kept."""
    words = read_words(payload, raw, model=asked.model)
    meaning = meaning_of(words.status, words)
    if meaning is None:
        told = words.message or "without a word of why"
        error: StepError = BadAnswer(f"{asked.who} answered 200, but with an error: {told}", status=200)
    else:
        wait = told_wait({}, payload, words.spoken, now=asked.at)
        error = _ERRORS[meaning](_Case(status=words.status or 200, words=words, asked=asked, wait=wait))
    return _with(error, raw)


def _with(error: StepError, raw: str) -> StepError:
    """The error with the server's words; a model's answer that it refused has its own."""
    if not isinstance(error, InvalidAnswer):
        error.answer = raw[:LONGEST_RAW] or None
    return error


def is_error(payload: Mapping[str, Json]) -> bool:
    """Whether a body that came with status 200 is an error and no answer."""
    base = payload.get("base_resp")  # MiniMax
    if isinstance(base, dict) and base.get("status_code") not in (0, None):
        return True
    return bool(payload.get("error")) or payload.get("object") == "error"


def says_something(payload: Mapping[str, Json]) -> bool:
    """Whether a body without an answer has words of why."""
    return any(payload.get(name) for name in ("message", "msg", "detail", "errors", "error_msg", "error_message"))


def _no_money(case: _Case) -> StepError:
    return QuotaExhausted(
        f"{case.asked.who} says the account has nothing left to spend{case.said}",
        hint="add credit or raise the account's limit, then `flowllm resume`",
        status=case.status,
    )


def _filtered(case: _Case) -> StepError:
    return ContentFiltered(
        f"the content filter of {case.asked.who} stopped the request ({case.status}){case.said}",
        hint="reword the prompt, or name a `fallback` model",
        status=case.status,
    )


def _too_large(case: _Case) -> StepError:
    return RequestTooLarge(
        f"the request is too large for {case.asked.model or 'the model'} at {case.asked.who} ({case.status}){case.said}",
        hint="the prompt is too long for this model: shorten it, lower max_tokens, or name a `fallback` that takes more",
        status=case.status,
    )


def _no_model(case: _Case) -> StepError:
    return UnknownModel(
        f"{case.asked.who} does not have the model {case.asked.model!r}{case.said}",
        hint="check the spelling of `model`, and that the account may use it",
        status=case.status,
    )


def _no_entry(case: _Case) -> StepError:
    asked = case.asked
    what = "refused access" if case.status == 403 else "refused the key"  # noqa: PLR2004
    hint = f"check the key in the environment variable {asked.key_env}"
    if not asked.key_env:
        hint = "set `api_key_env` of the provider to the environment variable that holds its key"
    return Unauthorized(f"{asked.who} {what} ({case.status}){case.said}", hint=hint, status=case.status)


def _slow_down(case: _Case) -> StepError:
    return RateLimited(
        f"{case.asked.who} says to slow down ({case.status}){case.said}", retry_after=case.wait, status=case.status
    )


def _trouble(case: _Case) -> StepError:
    return ServerFailed(
        f"{case.asked.who} failed ({case.status}){case.said}", status=case.status, retry_after=case.wait
    )


def _bad_json(case: _Case) -> StepError:
    """What json_object and json_schema promise is checked by some servers; it is asked again as one checked here is.
    The model reads it: no word of where the server is."""
    return InvalidAnswer(
        f"the server refused the model's own answer ({case.status}){case.said}", answer=case.words.generation or ""
    )


def _no_path(case: _Case) -> StepError:
    return PathNotFound(
        f"{case.asked.who} has nothing at that address ({case.status}){case.said}",
        hint="check the provider's `base_url`: it usually ends in /v1",
        status=case.status,
    )


def _rejected(case: _Case) -> StepError:
    hint = "the request itself is at fault: `flowllm show` with the run and the step prints what was sent"
    if _FORMAT.search(case.said):
        hint = (
            "if the server does not take schemas so, set `structured` of the provider to json_object_schema, "
            "json_object or prompt; `flowllm show` with the run and the step prints what was sent"
        )
    return RequestRejected(
        f"{case.asked.who} does not accept the request ({case.status}){case.said}", hint=hint, status=case.status
    )


_ERRORS: Mapping[Meaning, Callable[[_Case], StepError]] = {
    Meaning.NO_MONEY: _no_money,
    Meaning.FILTERED: _filtered,
    Meaning.TOO_LARGE: _too_large,
    Meaning.NO_MODEL: _no_model,
    Meaning.NO_ENTRY: _no_entry,
    Meaning.SLOW_DOWN: _slow_down,
    Meaning.TROUBLE: _trouble,
    Meaning.BAD_JSON: _bad_json,
    Meaning.NO_PATH: _no_path,
    Meaning.REJECTED: _rejected,
}


def _redirected(status: int, headers: Mapping[str, str], asked: Asked) -> PathNotFound:
    try:
        host = urlsplit(headers.get("location", "")).hostname
    except ValueError:
        host = None
    where = f" to {host}" if host else ""
    return PathNotFound(
        f"{asked.who} redirects{where} ({status}); redirects are not followed",
        hint="set the provider's `base_url` to the address that answers",
        status=status,
    )
