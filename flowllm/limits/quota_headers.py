"""What a server's rate-limit headers say, in the spellings that servers use.

`x-ratelimit-limit-requests` (OpenAI, Groq, LiteLLM, Azure), the same with `-minute` or `-day` (Cerebras) and in
Mistral's words, `anthropic-ratelimit-requests-limit`, and `ratelimit-limit`, `ratelimit` and `ratelimit-policy` as the
IETF drafts have them. None of them says for sure over which time a limit counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from flowllm.core.records import dataclass
from flowllm.core.retry_after import wait_of
from flowllm.limits.rates import MINUTE

DAY = 86_400.0
LONGEST_WINDOW = 1.1 * MINUTE
"""Seconds; a limit over a longer time is no rate at which to send."""
RATE_HEADERS = re.compile(r"(x-|anthropic-)?ratelimit.*", re.IGNORECASE)
"""Names of headers that may speak of limits."""
_NAMES = {"requests": ("requests", "req"), "tokens": ("tokens",)}
_SPANS = {"second": 1.0, "minute": MINUTE, "hour": 3_600.0, "day": DAY, "month": 30 * DAY}
_PARAMETER = re.compile(r"(?:^|[;,\s])(limit|remaining|reset|q|r|t|w)\s*=\s*\"?([^;,\"\s]+)", re.IGNORECASE)
_LEADING = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:[,;]|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """One quota as the server tells it; what it does not tell is None."""

    limit: float | None = None
    """Units a window."""
    remaining: float | None = None
    """Units left now."""
    reset: float | None = None
    """Seconds until the window is over, or all of a bucket is there again."""
    window: float | None = None
    """Seconds over which the limit counts, where that is told."""

    @property
    def rate(self) -> float | None:
        """Units a second, where the limit is one of a minute or less; None: it is not, or that does not show.

        In a bucket what was taken comes back after a share of the window; in a fixed window the reset is at most
        its length. So a limit that is used to some part and takes no longer to come back is a minute's.
        """
        if not self.limit:
            return None
        window = self.window
        if window is None and self.reset is not None and self.remaining is not None:
            used = self.limit - self.remaining
            if used >= 1 and self.reset * self.limit <= LONGEST_WINDOW * used:
                window = MINUTE
        if window is None or window > LONGEST_WINDOW or (self.reset or 0.0) > LONGEST_WINDOW:
            return None
        return self.limit / window


def read_quotas(headers: Mapping[str, str], what: str, *, now: float) -> list[Quota]:
    """The quotas of `what` (requests or tokens) in lower-case headers; nonsense counts as not told.

    `now` is the wall clock, in seconds since 1970: a reset may be told as a moment.
    """
    found = []
    for pattern, window in _families(headers, what):
        quota = Quota(
            limit=_number(_first(headers.get(pattern.format("limit")))),
            remaining=_number(headers.get(pattern.format("remaining"))),
            reset=_wait(headers.get(pattern.format("reset")), now),
            window=window,
        )
        if quota != Quota(window=window):
            found.append(quota)
    if what == "requests":
        found += _drafts(headers, now)
    return found


def _families(headers: Mapping[str, str], what: str) -> Iterator[tuple[str, float | None]]:
    """Patterns of the names of a limit, what remains of it and its reset, with the seconds of its window."""
    for name in _NAMES[what]:
        yield f"x-ratelimit-{{}}-{name}", _number(headers.get(f"x-ratelimit-renewalperiod-{name}")) or None
        for span, seconds in _SPANS.items():
            yield f"x-ratelimit-{{}}-{name}-{span}", seconds
        yield f"anthropic-ratelimit-{name}-{{}}", None
    if what == "requests":
        yield "x-ratelimit-{}", None
        yield "ratelimit-{}", _parameters(headers.get("ratelimit-limit")).get("w")


def _drafts(headers: Mapping[str, str], now: float) -> Iterator[Quota]:
    """`ratelimit: limit=100, remaining=50, reset=5`, or `"burst";r=50;t=30` with `ratelimit-policy: "burst";q=100;w=60`."""
    told, policies = headers.get("ratelimit"), headers.get("ratelimit-policy", "")
    if told is None:
        return
    if "remaining" in told:
        parameters = _parameters(told)
        yield Quota(
            limit=parameters.get("limit"),
            remaining=parameters.get("remaining"),
            reset=_wait(parameters.get("reset"), now),
            window=_parameters(policies).get("w"),
        )
        return
    known = {_name(policy): _parameters(policy) for policy in policies.split(",")}
    for item in told.split(","):
        parameters, policy = _parameters(item), known.get(_name(item), {})
        yield Quota(
            limit=policy.get("q"),
            remaining=parameters.get("r"),
            reset=_wait(parameters.get("t"), now),
            window=policy.get("w"),
        )


def _name(item: str) -> str:
    return item.partition(";")[0].strip().strip('"')


def _parameters(text: str | None) -> dict[str, float]:
    found = ((name.lower(), _number(value)) for name, value in _PARAMETER.findall(text or ""))
    return {name: value for name, value in found if value is not None}


def _wait(told: str | float | None, now: float) -> float | None:
    return None if told is None else wait_of(str(told), now=now)


def _first(text: str | None) -> str | None:
    """`100, 100;w=60` starts with the limit that is nearest."""
    match = _LEADING.match(text or "")
    return text if match is None else match[1]


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) and number >= 0 else None
