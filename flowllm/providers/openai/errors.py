"""A server's error, in whatever shape it says it, as a typed error with a message for people; without the secrets that it
echoes. Pure; `tables.py` decides which type."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from flowllm.core import strict_json
from flowllm.core.errors import (
    BadAnswer,
    InvalidAnswer,
    PathNotFound,
    ProviderError,
    RateLimited,
    RequestRejected,
    ServerFailed,
    StepError,
    Unauthorized,
)
from flowllm.core.records import dataclass
from flowllm.core.redact import Redactor
from flowllm.core.retry_after import requested_wait
from flowllm.core.types import Json
from flowllm.providers.openai.tables import MESSAGES, error_type, normalized

LARGEST_ERROR_BODY = 64 * 1024
"""Bytes of an error's body that are read."""
LONGEST_RAW = 64 * 1024
"""Characters of raw text that an error keeps."""
_FORMAT: Final = re.compile(r"response_?format|json_?schema|text\.format|structured[ _]output", re.IGNORECASE)


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
    return _with_response(
        _error(error_type(status, body.codes, body.text) or RequestRejected, status, body, info), raw, wait
    )


def error_at_200(payload: Mapping[str, Json], raw: str, info: RequestInfo) -> StepError:
    """The error for a 200 whose body is an error, as some gateways send; the raw text is kept."""
    body = read_error(payload, raw, model=info.model)
    kind = error_type(body.status, body.codes, body.text)
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
    template, hint = MESSAGES[kind]
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
            "json_object or prompt; `flowllm show` prints what was sent"
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


LONGEST_MESSAGE: Final = 1000
"""Characters of a server's own message that go into ours; the whole of it is in the record."""

_MESSAGE_FIELDS: Final = (
    *("message", "detail", "msg", "error_description", "error_message", "errorMessage", "error_msg", "status_msg"),
)
_WEAK_MESSAGES: Final = ("error", "errors", "reason", "description", "title", "Message")
_CODES: Final = ("code", "type", "status", "reason", "error_type", "error_code", "errorCode", "__type")
_NESTED: Final = ("error", "innererror", "inner_error", "details", "metadata", "errors", "base_resp")
_STATUSES: Final = ("code", "status", "status_code", "statusCode")
_MAX_DEPTH: Final = 4
_MAX_ITEMS: Final = 10
_SHORTEST_NAME: Final = 4
_TITLE: Final = re.compile(r"<title[^>]{0,100}>([^<]{1,300})", re.IGNORECASE)
_TAG: Final = re.compile(r"<[^<>]*>")
_ESCAPED: Final = re.compile(r"\\u00[2-7]")
"""JSON may spell any character like this."""
_NUMBER: Final = r"([\d,]{1,20})"
_LIMIT_FIRST: Final = re.compile(
    rf"\blimit:? (?:is |of )?{_NUMBER}\b.{{0,60}}?\brequest(?:ed)?:? (?:is |of )?{_NUMBER}\b"
)
_LIMIT_LAST: Final = re.compile(
    rf"\b(?:requested:?|request (?:of|with)|requires|needs|uses) {_NUMBER}\b.{{0,60}}?\blimit:? (?:is |of )?{_NUMBER}\b"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBody:
    """What a server said of its error."""

    message: str = ""
    """For people, shortened; one line."""
    text: str = ""
    """Message and codes in lower case, for phrases."""
    codes: frozenset[str] = frozenset()
    """Its codes, types and reasons, `normalized`; `baserespN` as MiniMax numbers them, and `requestedmorethanlimit`
    where the figures in the message say so."""
    status: int | None = None
    """A status that stands in the body."""
    generation: str | None = None
    """What the model wrote, where the server refused that."""


def masked_body(raw: bytes, redactor: Redactor) -> bytes:
    """The body with every secret masked, in whatever field it stands; the very same bytes where there is none."""
    if redactor.is_empty:
        return raw
    text = raw.decode(errors="surrogateescape")
    masked = redactor.text(text)
    if masked == text and not _ESCAPED.search(text):
        return raw
    try:
        payload = json.loads(text)
        clean = redactor.value(payload)
    except (ValueError, RecursionError):
        return masked.encode(errors="surrogateescape")
    return raw if clean == payload else json.dumps(clean).encode()


def parsed(body: str) -> Json:
    """The JSON in a body, None if it has none."""
    try:
        return strict_json.loads(body)
    except ValueError:
        return None


def read_error(payload: Json, body: str, *, model: str = "") -> ErrorBody:
    """The error in a body that was parsed as `payload` (None: it is no JSON). `model` is the one that was asked: to
    phrases its name is the word `model`."""
    if payload is None:
        message = _plain_message(body)
        return ErrorBody(message=message, text=_searchable(message, model))
    message = _shortened(_message(payload) or (json.dumps(payload, ensure_ascii=False) if payload else ""))
    codes = [code for code in _codes(payload) if code]
    text = _searchable(" ".join([message, *(code for code in codes if " " in code)]), model)
    if _exceeds_limit(text):
        codes.append("requested_more_than_limit")
    return ErrorBody(
        message=message,
        text=text,
        codes=frozenset(map(normalized, codes)),
        status=_status(payload),
        generation=_generation(payload),
    )


def _searchable(text: str, model: str) -> str:
    """In lower case. A name of a few letters may be a word of another meaning."""
    lower = text.lower()
    return lower.replace(model.lower(), "model") if len(model) >= _SHORTEST_NAME else lower


def _plain_message(body: str) -> str:
    """A web page is known by its title, XML and pages without one by their text."""
    if not body[:1000].lstrip().startswith("<"):
        return _shortened(body)
    if (title := _TITLE.search(body[:10_000])) is not None:
        return f"a web page, {' '.join(title[1].split())!r}"
    return _shortened(_TAG.sub(" ", body[: 4 * LONGEST_MESSAGE]))


def _message(value: Json, depth: int = 0) -> str:
    """The message in a value: its own first, that of what is within it else."""
    if isinstance(value, str):
        return value.strip()
    if depth > _MAX_DEPTH:
        return ""
    if isinstance(value, list):
        found = (_message(item, depth + 1) for item in value[:_MAX_ITEMS])
        return "; ".join(dict.fromkeys(filter(None, found)))
    if not isinstance(value, Mapping):
        return ""
    inner = value.get("error")
    if isinstance(inner, Mapping) and (text := _message(inner, depth + 1)):
        return text
    text = _first_message(value, _MESSAGE_FIELDS, depth)
    if isinstance(inner, str) and inner.strip() and text:
        text = f"{inner.strip()}: {text}"
    text = text or _first_message(value, _WEAK_MESSAGES, depth)
    for name in ("errors", "details", "detail"):
        if text and isinstance(value.get(name), list) and (more := _message(value[name], depth + 1)) not in text:
            text = f"{text} ({more})"
    if text and isinstance(field := value.get("loc"), list):  # a problem of validation, as FastAPI tells it
        text = f"{'.'.join(str(part) for part in field[:_MAX_ITEMS])}: {text}"
    return _with_upstream(value, text or _message(value.get("base_resp"), depth + 1))


def _first_message(value: Mapping[str, Json], names: tuple[str, ...], depth: int) -> str:
    return next(filter(None, (_message(value.get(name), depth + 1) for name in names)), "")


def _with_upstream(value: Mapping[str, Json], text: str) -> str:
    """A gateway's message, and that of the server behind it."""
    metadata = value.get("metadata")
    if not isinstance(metadata, Mapping):
        return text
    raw, reasons = metadata.get("raw"), metadata.get("reasons")
    upstream = _message(parsed(raw)) or raw if isinstance(raw, str) else ""
    return ": ".join(filter(None, [text, upstream, ", ".join(map(str, reasons)) if isinstance(reasons, list) else ""]))


def _codes(value: Json, depth: int = 0) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, list):
        for item in value[:_MAX_ITEMS]:
            yield from _codes(item, depth + 1)
    if not isinstance(value, Mapping):
        return
    for name in _CODES:
        if isinstance(found := value.get(name), str):
            yield found.rpartition("#")[2]
    if "flagged_input" in value:
        yield "flagged_input"
    if isinstance(value.get("status_code"), int) and "status_msg" in value:
        yield f"base_resp_{value['status_code']}"
    for name in _NESTED:
        yield from _codes(value.get(name), depth + 1)


def _status(value: Json) -> int | None:
    """The innermost error's."""
    if isinstance(value, list):
        return _status(value[0]) if value else None
    if not isinstance(value, Mapping):
        return None
    inner = value.get("error")
    found = _status(inner) if isinstance(inner, Mapping) else None
    for name in _STATUSES:
        number = value.get(name)
        if isinstance(number, str) and number.isascii() and number.isdecimal():
            number = int(number[:4])
        if found is None and isinstance(number, int) and 400 <= number < 600:  # noqa: PLR2004 - HTTP's errors
            found = number
    return found


def _generation(value: Json) -> str | None:
    inner = value.get("error") if isinstance(value, Mapping) else None
    found = (part.get("failed_generation") for part in (inner, value) if isinstance(part, Mapping))
    return next((text for text in found if isinstance(text, str)), None)


def _exceeds_limit(text: str) -> bool:
    """Whether the figures of a refusal say that the request alone is more than the limit."""
    if (found := _LIMIT_FIRST.search(text)) is not None:
        return _figure(found[2]) > _figure(found[1])
    found = _LIMIT_LAST.search(text)
    return found is not None and _figure(found[1]) > _figure(found[2])


def _figure(text: str) -> int:
    return int(text.replace(",", "") or 0)


def _shortened(text: str) -> str:
    flat = " ".join(text[: 4 * LONGEST_MESSAGE].split())
    return flat if len(flat) <= LONGEST_MESSAGE else flat[:LONGEST_MESSAGE] + " …"
