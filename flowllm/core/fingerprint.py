"""The key of a request: SHA-256 over canonical JSON of everything that is sent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from flowllm.core.encoding import encoder
from flowllm.core.types import Json

KEY_SCHEME = 2
"""Raised when the meaning of a key changes, so that old keys are never mistaken for new ones."""


_CANONICAL = encoder(sort_keys=True)


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
    return digest(key_text(parts))


def key_text(parts: Mapping[str, Json]) -> str:
    """The text whose digest the key is."""
    return canonical({"scheme": KEY_SCHEME, **parts})


def differences(before: Json, after: Json, path: str = "") -> list[tuple[str, Json, Json]]:
    """Every (path, before, after) at which two JSON values differ, by dotted paths such as `body.messages.0.content`; a
    missing side is None."""
    if type(before) is type(after) and before == after and canonical(before) == canonical(after):
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        pairs = [(key, before.get(key), after.get(key)) for key in {**before, **after}]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = [(index, *pair) for index, pair in enumerate(zip(before, after, strict=True))]
    else:
        return [(path, before, after)]
    return [
        found for name, old, new in pairs for found in differences(old, new, f"{path}.{name}" if path else str(name))
    ]
