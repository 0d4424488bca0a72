"""Bytes to a JSON value, exactly as `json` reads it, but for what could not be written again."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowllm.types import Json

MAX_DEPTH: Final = 200
"""Lists and mappings within each other; far below where Python's own recursion ends."""
_SHOWN: Final = 40
_TOO_DEEP: Final = f"nested more than {MAX_DEPTH} deep"


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text:.{_SHOWN}} is too large")
    return number


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_float)


def json_of(data: bytes) -> Json:
    """Raises ValueError, which `reason` tells in words."""
    try:
        value: Json = _DECODER.decode(data.decode())
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise ValueError(_TOO_DEEP)
    return value


def reason(error: ValueError) -> str:
    """What is wrong with a row, in a few words."""
    match error:
        case json.JSONDecodeError():
            return f"not JSON: {error.msg} (character {error.pos + 1})"
        case UnicodeDecodeError():
            return f"not UTF-8 (byte {error.start + 1})"
    return "a number with too many digits" if "digits" in str(error) else str(error)


def _depth(value: Json) -> int:
    """Lists and mappings within each other; level by level, so that no depth is too much."""
    depth, level = 0, _containers([value])
    while level:
        depth += 1
        level = _containers(inner for outer in level for inner in _inside(outer))
    return depth


def _containers(values: Iterable[Json]) -> list[dict[str, Json] | list[Json]]:
    return [value for value in values if isinstance(value, dict | list)]


def _inside(value: dict[str, Json] | list[Json]) -> Iterable[Json]:
    return value.values() if isinstance(value, dict) else value
