"""What a server's rate-limit headers say: OpenAI's `x-ratelimit-*`, which many others send too."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|d|h|m|s)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """One quota as the server tells it; what it does not tell is None."""

    limit: float | None = None
    """Units a minute, or a day."""
    remaining: float | None = None
    """Units left now."""
    reset: float | None = None
    """Seconds until all of it is there again."""

    @property
    def rate(self) -> float | None:
        """Units a second that come back.

        Some servers tell a limit of a day in these headers; how long the rest takes to come back gives that away.
        """
        if not self.limit:
            return None
        rate = self.limit / 60
        if self.remaining is not None and self.reset and self.limit - self.remaining >= 1:
            returning = (self.limit - self.remaining) / self.reset
            rate = returning if returning < rate / 2 else rate
        return rate


def read_quota(headers: Mapping[str, str], what: str) -> Quota:
    """The quota of `what` (requests or tokens) in lower-case headers. Nonsense counts as not told."""
    return Quota(
        limit=_number(headers.get(f"x-ratelimit-limit-{what}")),
        remaining=_number(headers.get(f"x-ratelimit-remaining-{what}")),
        reset=parse_reset(headers.get(f"x-ratelimit-reset-{what}")),
    )


def parse_reset(text: str | None) -> float | None:
    """Seconds from texts such as `6m0s`, `1.5s`, `120ms` or a plain number; None for anything else."""
    if text is None:
        return None
    text = text.strip().lower()
    plain = _number(text)
    if plain is not None:
        return plain
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return math.fsum(float(number) * _UNITS[unit] for number, unit in parts)


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) and number >= 0 else None
