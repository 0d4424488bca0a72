"""JSON as RFC 8259 has it and nothing else: whatever is read here can be written again, hashed and stored."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Final

from flowllm.core.types import Json

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


def loads(text: str) -> Json:
    """The value of a text. Raises json.JSONDecodeError for what is no JSON, and another ValueError, in words, for a
    number that no JSON holds (NaN, Infinity, 1e999, thousands of digits) and for more than MAX_DEPTH levels."""
    try:
        value: Json = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise _value_error(error) from None
    _check_depth(value, text.count("[") + text.count("{"))
    return value


def loads_at(text: str, start: int) -> tuple[Json, int]:
    """The value that begins there, and where it ends; whatever stands behind it. Raises as `loads` does."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise _value_error(error) from None
    _check_depth(value, text.count("[", start, end) + text.count("{", start, end))
    return value, end


def json_of(data: bytes) -> Json:
    """The value of a text in UTF-8. Raises ValueError, of which `reason` gives the message."""
    return loads(data.decode())


def reason(error: ValueError) -> str:
    """What is wrong with a text, in a few words."""
    match error:
        case json.JSONDecodeError():
            return f"not JSON: {error.msg} (character {error.pos + 1})"
        case UnicodeDecodeError():
            return f"not UTF-8 (byte {error.start + 1})"
    return str(error)


def _value_error(error: ValueError | RecursionError) -> ValueError:
    if isinstance(error, RecursionError):
        return ValueError(_TOO_DEEP)
    return ValueError("a number with too many digits") if "digits" in str(error) else error


def _check_depth(value: Json, brackets: int) -> None:
    if brackets > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise ValueError(_TOO_DEEP)


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
