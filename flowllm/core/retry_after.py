"""How long a server asks to wait, in its headers, `Retry-After` first, or in its text. Pure.

Providers and http steps put it on the error of a refusal (`retry_after`), and `calls/conversation.py` sends the refused
request again after it. A refused model is held back for that long, with all other requests to it, by
`limits/account_limiter.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from flowllm.core.types import Json

LONGEST_WAIT = 31 * 86_400.0
"""Seconds; what a server asks for beyond a month's quota is nonsense, and counts as this."""
LONGEST_PAUSE = 3600.0
"""Seconds that a request or a model waits at a time for what a server asks; then it is asked again."""

_MOMENT = 1e9
"""A number from here on is a time (seconds since 1970) and no duration; from a thousand times that on, in milliseconds."""
_UNITS = {
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 0.001),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
}
_PART = r"\d{1,12}(?:\.\d{1,9})? ?(?:" + "|".join(sorted(_UNITS, key=len, reverse=True)) + r")\b ?(?:and |, ?)?"
_GLUED = r"\d{1,12}(?:\.\d{1,9})?(?:ms|[smhd])"
_LENGTH = rf"((?:{_GLUED}){{1,5}}\b|(?:{_PART}){{1,5}})"
_ONE = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]+)")
_ASKED = re.compile(
    r"(?:try again|retry|retrying|wait|available|resets?|retry.after|retrydelay)"
    rf"(?: again)?(?: your request)?(?: the request)?(?: after| in| for|:|=)? ?(?:about |at least )?{_LENGTH}"
)
_DATE = r"(\d{4}-\d\d-\d\d[t ]\d\d:\d\d(?::\d\d)?(?:\.\d{1,9})?(?: ?(?:z|utc|[+-]\d\d:?\d\d))?)"
_UNTIL = re.compile(rf"(?:try again|retry|available|resets?|until|wait)(?: again)?(?: at| after| on| until)? {_DATE}")
_FIELDS = ("retry_after", "retryAfter", "retryDelay", "retry_after_seconds", "retry-after", "Retry-After")
_MILLISECONDS = ("retry_after_ms", "retryAfterMs", "retry-after-ms")
_DEEPEST = 4
_RESETS = re.compile(
    r"(?:x-ratelimit-reset(?P<what>-[a-z-]+)?|anthropic-ratelimit-(?P<own>[a-z-]+)-reset|ratelimit-reset|x-rate-limit-reset)"
)


def requested_wait(headers: Mapping[str, str], payload: Json, text: str, *, now: float) -> float | None:
    """Seconds that a refusal asks to wait, at most LONGEST_WAIT; None if it says nothing that can be understood.

    In this order: `retry-after-ms` and `retry-after` (seconds, a length such as `1m30s`, an HTTP or ISO date), fields
    of the body, its text (`try again in 20s`), and the headers that tell when a used-up quota is there again.
    `text` is in lower case; `now` is the wall clock in seconds since 1970 UTC.
    """
    sources = (_of_headers(headers, now), _of_body(payload, now), _of_text(text, now), _of_resets(headers, now))
    return next((wait for source in sources for wait in source if wait is not None), None)


def _of_headers(headers: Mapping[str, str], now: float) -> Iterator[float | None]:
    milliseconds = _number(headers.get("retry-after-ms", ""))
    yield None if milliseconds is None else _clamped(milliseconds / 1000)
    yield wait_of(headers.get("retry-after", ""), now=now)


def _of_body(value: Json, now: float, depth: int = 0) -> Iterator[float | None]:
    if depth > _DEEPEST:
        return
    if isinstance(value, list):
        for item in value[:10]:
            yield from _of_body(item, now, depth + 1)
    if not isinstance(value, Mapping):
        return
    for name in _MILLISECONDS:
        milliseconds = _number(str(value.get(name, "")))
        yield None if milliseconds is None else _clamped(milliseconds / 1000)
    for name in _FIELDS:
        if isinstance(found := value.get(name), str | int | float):
            yield wait_of(str(found), now=now)
    if isinstance(headers := value.get("headers"), Mapping):  # OpenRouter: error.metadata.headers
        lowered = {str(name).lower(): str(text) for name, text in headers.items()}
        yield from (*_of_headers(lowered, now), *_of_resets(lowered, now))
    for name in ("error", "details", "metadata", "detail"):
        yield from _of_body(value.get(name), now, depth + 1)


def _of_text(text: str, now: float) -> Iterator[float | None]:
    if (moment := _UNTIL.search(text)) is not None:
        yield wait_of(moment[1].strip().upper(), now=now)
    if (length := _ASKED.search(text)) is not None:
        yield wait_of(length[1], now=now)


def _of_resets(headers: Mapping[str, str], now: float) -> Iterator[float | None]:
    """When the quota that is used up is there again, the last of several; of those not known to be used up, the
    first."""
    waits = []
    for name, text in headers.items():
        found = _RESETS.fullmatch(name)
        if found is None:
            continue
        remaining = _number(headers.get(name.replace("reset", "remaining"), ""))
        wait = wait_of(text, now=now)
        if wait and not remaining:
            waits.append((remaining is None, wait))
    used_up = [wait for unknown, wait in waits if not unknown]
    if used_up:
        yield max(used_up)
    elif waits:
        yield min(wait for _, wait in waits)


def wait_of(text: str, *, now: float) -> float | None:
    """Seconds from now that a text stands for: a number, a length such as `2h44m` or `7 seconds`, a moment as a number
    or as a date. What is over is 0; None for anything else."""
    text = text.strip()
    number = _number(text)
    if number is not None:
        if number == math.inf or not _MOMENT <= number <= _MOMENT * 1e4:
            return _clamped(number)
        moment = number / 1000 if number >= _MOMENT * 1000 else number
        # a length that makes no sense, and no moment either
        return _clamped(moment - now if abs(moment - now) <= LONGEST_WAIT else number)
    if re.fullmatch(_LENGTH, text.lower()):
        return _clamped(math.fsum(float(n) * _UNITS.get(unit, 0.0) for n, unit in _ONE.findall(text.lower())))
    return _date(text, now)


def _date(text: str, now: float) -> float | None:
    for read in (parsedate_to_datetime, _iso):
        try:
            moment = read(text)
            moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
            return _clamped(moment.timestamp() - now)
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
    return None


def _iso(text: str) -> datetime:
    return datetime.fromisoformat(text.replace(" UTC", "+00:00").replace("UTC", "+00:00"))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value


def _clamped(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST_WAIT)
