"""What an unquoted scalar means, and the small texts that stand for times and shares.

The rule is that of YAML 1.2 read narrowly: only `true`, `false`, `null` (or nothing, or `~`) and plain
decimal numbers are not text. So `no`, `on`, `012`, `12:30`, `0x1F`, `.inf` and `2026-11-21` are text.
"""

from __future__ import annotations

import math
import re

from flowllm.core.types import Json

_WORDS: dict[str, Json] = {"": None, "~": None, "null": None, "true": True, "false": False}
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_WHOLE = r"(?:0|[1-9][0-9]*(?:_[0-9]+)*)"
_INTEGER = re.compile(rf"[-+]?{_WHOLE}")
_DECIMAL = re.compile(rf"[-+]?(?:{_WHOLE}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][-+]?[0-9]+)?")
_LONGEST_NUMBER = 100
"""Characters; longer runs of digits are text (no number that anyone means, and slow to convert)."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s?(ms|s|m|h|d)")
_SHARE = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s?%")
_LONGEST_DURATION = 36500 * 86400.0

DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?|\.[0-9]+) ?(ms|s|m|h|d)$"
SHARE_PATTERN = r"^([0-9]+(\.[0-9]+)?|\.[0-9]+) ?%$"


def resolve(text: str) -> Json:
    """The value of an unquoted scalar: None, a bool, an int, a float, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _LONGEST_NUMBER:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text


def parse_duration(text: str) -> float:
    """Seconds of a duration such as `500ms`, `30s`, `5m`, `1h` or `7d`. Raises ValueError in plain words."""
    match = _DURATION.fullmatch(text.strip())
    if match:
        seconds = float(match[1]) * _SECONDS[match[2]]
        if seconds > _LONGEST_DURATION:
            raise ValueError(f"the duration {text} is longer than a hundred years")
        return seconds
    if type(resolve(text.strip())) in {int, float}:
        raise ValueError(f"the duration {text} has no unit: write {text}s for seconds (ms, s, m, h, d)")
    raise ValueError(f"`{text}` is not a duration: write it like 500ms, 30s, 5m, 1h or 7d")


def parse_share(text: str) -> float:
    """A share such as `5%` as a number from 0 to 1. Raises ValueError in plain words."""
    match = _SHARE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"`{text}` is not a share: write it like 5%")
    share = float(match[1]) / 100
    if share > 1:
        raise ValueError(f"the share {text} is more than 100%")
    return share
