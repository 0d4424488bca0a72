"""The key of a request: SHA-256 over canonical JSON of everything that is sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from flowllm.core.types import Json

KEY_SCHEME = 2
"""Raised when the meaning of a key changes, so that old keys are never mistaken for new ones."""


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


def canonical(value: Json) -> str:
    """JSON text that is the same for equal values: sorted keys, no blanks, plain ASCII.

    Raises ValueError for NaN and infinities, TypeError for what JSON cannot hold. 1, 1.0, true and "1"
    stay different; so do a missing key and null.
    """
    return _CANONICAL(value)


def digest(text: str) -> str:
    """Hexadecimal SHA-256 of a text that is plain ASCII or UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(parts: Mapping[str, Json]) -> str:
    """The key of a request, given all its parts by name; 64 hexadecimal digits."""
    return digest(canonical({"scheme": KEY_SCHEME, **parts}))


def changed_parts(before: Mapping[str, Json], after: Mapping[str, Json]) -> list[str]:
    """The dotted paths at which two requests' parts differ, such as `body.messages.0.content`."""
    return [path for path, _, _ in differences(before, after)]


def differences(before: Json, after: Json, path: str = "") -> list[tuple[str, Json, Json]]:
    """Every (path, before, after) at which two JSON values differ; a missing side is None."""
    if type(before) is type(after) and before == after and canonical(before) == canonical(after):
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for key in [*before, *(k for k in after if k not in before)]:
            found += differences(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
        return found
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        found = []
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            found += differences(old, new, f"{path}.{index}" if path else str(index))
        return found
    return [(path, before, after)]
