"""What a server says of its error, in whatever shape it says it; without the secrets that it echoes. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from flowllm.core import strict_json
from flowllm.core.redact import Redactor
from flowllm.core.types import Json

LONGEST_MESSAGE: Final = 1000
"""Characters of a server's own message that go into ours; the whole of it is in the record."""

_MESSAGES: Final = (
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


def normalized(name: str) -> str:
    """A code or reason without case and separators: `contentFilter`, `content-filter` and `CONTENT_FILTER` are one."""
    return "".join(character for character in name.lower() if character.isalnum())


def masked_body(raw: bytes, redactor: Redactor) -> bytes:
    """The body with every secret masked, in whatever field it stands; the very same bytes where there is none."""
    text = raw.decode(errors="surrogateescape")
    masked = redactor.text(text)
    if masked == text and not (_ESCAPED.search(text) and not redactor.is_empty):
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
    text = _first_message(value, _MESSAGES, depth)
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
