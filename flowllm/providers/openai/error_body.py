"""What a server says of its error, in whatever shape it says it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowllm.core import strict_json
from flowllm.providers.openai.meanings import letters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowllm.core.types import Json

LONGEST_WORDS = 1000
"""Characters of a server's own words that go into a message; the whole of them is in the record."""

_SAYING = ("message", "detail", "msg", "error_description", "error_message", "errorMessage", "error_msg", "status_msg")
_SAYING_LESS = ("error", "errors", "reason", "description", "title", "Message")
_CODES = ("code", "type", "status", "reason", "error_type", "error_code", "errorCode", "__type")
_WITHIN = ("error", "innererror", "inner_error", "details", "metadata", "errors", "base_resp")
_STATUSES = ("code", "status", "status_code", "statusCode")
_DEEPEST = 4
_SHORTEST_NAME = 4
_MOST = 10
_TITLE = re.compile(r"<title[^>]{0,100}>([^<]{1,300})", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_NUMBER = r"([\d,]{1,20})"
_LIMIT_FIRST = re.compile(rf"\blimit:? (?:is |of )?{_NUMBER}\b.{{0,60}}?\brequest(?:ed)?:? (?:is |of )?{_NUMBER}\b")
_LIMIT_LAST = re.compile(
    rf"\b(?:requested:?|request (?:of|with)|requires|needs|uses) {_NUMBER}\b.{{0,60}}?\blimit:? (?:is |of )?{_NUMBER}\b"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a server said of its error."""

    message: str = ""
    """For people, shortened; one line."""
    spoken: str = ""
    """Message and codes in lower case, for phrases."""
    codes: frozenset[str] = frozenset()
    """Its codes, types and reasons as `letters` gives them; `baserespN` as MiniMax numbers them, and
    `requestedmorethanlimit` where the figures in the message say so."""
    status: int | None = None
    """A status that stands in the body."""
    generation: str | None = None
    """What the model wrote, where the server refused that."""


def read_words(payload: Json, body: str, *, model: str = "") -> Words:
    """The words in a body that was parsed as `payload` (None: it is no JSON). `model` is the one that was asked: to
    phrases its name is the word `model`."""
    if payload is None:
        return _plain(body, model)
    said = _shortened(_said(payload) or (json.dumps(payload, ensure_ascii=False) if payload else ""))
    named = [code for code in _codes(payload) if code]
    spoken = _spoken(" ".join([said, *(code for code in named if " " in code)]), model)
    codes = [*named, *(["requested_more_than_limit"] if _asks_too_much(spoken) else [])]
    return Words(
        message=said,
        spoken=spoken,
        codes=frozenset(map(letters, codes)),
        status=_status(payload),
        generation=_generation(payload),
    )


def parsed(body: str) -> Json:
    """The JSON in a body, None if it has none."""
    try:
        return strict_json.loads(body)
    except ValueError:
        return None


def _spoken(text: str, model: str) -> str:
    """In lower case. A name of a few letters may be a word of another meaning."""
    lower = text.lower()
    return lower.replace(model.lower(), "model") if len(model) >= _SHORTEST_NAME else lower


def _plain(body: str, model: str) -> Words:
    """A web page is known by its title, XML and pages without one by their text."""
    start = body[:1000].lstrip()
    if start.startswith("<"):
        title = _TITLE.search(body[:10_000])
        text = _shortened(_TAG.sub(" ", body[: 4 * LONGEST_WORDS]))
        said = f"a web page, {' '.join(title[1].split())!r}" if title else text
    else:
        said = _shortened(body)
    return Words(message=said, spoken=_spoken(said, model))


def _said(value: Json, depth: int = 0) -> str:
    """The message in a value: its own words first, those of what is within it else."""
    if isinstance(value, str):
        return value.strip()
    if depth > _DEEPEST:
        return ""
    if isinstance(value, list):
        found = (_said(item, depth + 1) for item in value[:_MOST])
        return "; ".join(dict.fromkeys(filter(None, found)))
    if not isinstance(value, Mapping):
        return ""
    inner = value.get("error")
    if isinstance(inner, Mapping) and (text := _said(inner, depth + 1)):
        return text
    found = (_said(value.get(name), depth + 1) for name in _SAYING)
    text = next(filter(None, found), "")
    if isinstance(inner, str) and inner.strip() and text:
        text = f"{inner.strip()}: {text}"
    if not text:
        text = next(filter(None, (_said(value.get(name), depth + 1) for name in _SAYING_LESS)), "")
    for name in ("errors", "details", "detail"):
        if text and isinstance(value.get(name), list) and (more := _said(value[name], depth + 1)) not in text:
            text = f"{text} ({more})"
    return _from_upstream(value, _placed(value, text) or _of_base(value, depth))


def _placed(value: Mapping[str, Json], text: str) -> str:
    """A problem of validation with the place of the field, as FastAPI tells it."""
    place = value.get("loc")
    if not text or not isinstance(place, list):
        return text
    return f"{'.'.join(str(part) for part in place[:_MOST])}: {text}"


def _of_base(value: Mapping[str, Json], depth: int) -> str:
    return _said(value.get("base_resp"), depth + 1)


def _from_upstream(value: Mapping[str, Json], text: str) -> str:
    """A gateway's words, and those of the server behind it."""
    metadata = value.get("metadata")
    if not isinstance(metadata, Mapping):
        return text
    raw = metadata.get("raw")
    upstream = _said(parsed(raw)) or raw if isinstance(raw, str) else ""
    reasons = metadata.get("reasons")
    told = [text, upstream, ", ".join(map(str, reasons)) if isinstance(reasons, list) else ""]
    return ": ".join(filter(None, told))


def _codes(value: Json, depth: int = 0) -> Iterator[str]:
    if depth > _DEEPEST:
        return
    if isinstance(value, list):
        for item in value[:_MOST]:
            yield from _codes(item, depth + 1)
    if not isinstance(value, Mapping):
        return
    for name in _CODES:
        found = value.get(name)
        if isinstance(found, str):
            yield found.rpartition("#")[2]
    if "flagged_input" in value:
        yield "flagged_input"
    if isinstance(value.get("status_code"), int) and "status_msg" in value:
        yield f"base_resp_{value['status_code']}"
    for name in _WITHIN:
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
    places = (place for place in (inner, value) if isinstance(place, Mapping))
    found = (place.get("failed_generation") for place in places)
    return next((text for text in found if isinstance(text, str)), None)


def _asks_too_much(spoken: str) -> bool:
    """Whether the figures of a refusal say that the request alone is more than the limit."""
    if (found := _LIMIT_FIRST.search(spoken)) is not None:
        return _figure(found[2]) > _figure(found[1])
    found = _LIMIT_LAST.search(spoken)
    return found is not None and _figure(found[1]) > _figure(found[2])


def _figure(text: str) -> int:
    return int(text.replace(",", "") or 0)


def _shortened(text: str) -> str:
    flat = " ".join(text[: 4 * LONGEST_WORDS].split())
    return flat if len(flat) <= LONGEST_WORDS else flat[:LONGEST_WORDS] + " …"
