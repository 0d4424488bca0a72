"""Whether a value is plain JSON, and what of it is not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowllm.types import Json


def is_list(value: Any) -> bool:
    """It becomes a list of JSON: a list, a tuple, or a sequence whose items are read as they are looked at."""
    if isinstance(value, (list, tuple)):
        return True
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview, range))


def not_json(value: Any, path: str = "") -> str:  # noqa: PLR0911 - one a type
    """What in a value JSON cannot hold, in words; empty if all is well."""
    if value is None or isinstance(value, (bool, int, str)):
        return ""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{value}{_at(path)}, which JSON cannot hold"
    if is_list(value):
        found = (not_json(item, f"{path}[{place}]") for place, item in enumerate(value))
        return next(filter(None, found), "")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"a mapping with the key {key!r}{_at(path)}; keys must be text"
            if problem := not_json(item, f"{path}.{key}"):
                return problem
        return ""
    return f"a {type(value).__name__}{_at(path)}, which JSON cannot hold"


def _at(path: str) -> str:
    return f" at {path.lstrip('.')}" if path else ""


def plain(value: Any) -> Json:
    """The value with tuples as lists, copied, so that nobody changes it later."""
    if is_list(value):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value
