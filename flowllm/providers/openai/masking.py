"""A server may echo what it was sent, in any field: secrets leave what it says before anything reads it."""

from __future__ import annotations

import json
import re
from typing import Final

from flowllm.core.redact import Redactor

_HIDDEN: Final = re.compile(r"\\u00[2-7]")
"""JSON may spell any character like this."""


def masked_body(raw: bytes, redactor: Redactor) -> bytes:
    """The body with every secret masked, in whatever field it stands; the very same bytes where there is none."""
    text = raw.decode(errors="surrogateescape")
    masked = redactor.text(text)
    if masked == text and not (_HIDDEN.search(text) and not redactor.knows_none):
        return raw
    try:
        payload = json.loads(text)
        clean = redactor.value(payload)
    except (ValueError, RecursionError):
        return masked.encode(errors="surrogateescape")
    return raw if clean == payload else json.dumps(clean).encode()
