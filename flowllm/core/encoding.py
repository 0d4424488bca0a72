"""Values as JSON text, quickly."""

from __future__ import annotations

import json
from collections.abc import Callable

from flowllm.core.types import Json


def encoder(*, sort_keys: bool = False, ascii_only: bool = True) -> Callable[[Json], str]:
    """What writes a value without blanks, as `JSONEncoder.encode`, whose part in C is made once here and not for each value,
    which takes as long as a short one does. Raises ValueError for NaN and infinities, TypeError for what JSON cannot hold,
    RecursionError for what holds itself or is nested too deeply."""
    usual = json.JSONEncoder(sort_keys=sort_keys, ensure_ascii=ascii_only, allow_nan=False, separators=(",", ":"))
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return usual.encode
    text = json.encoder.encode_basestring_ascii if ascii_only else json.encoder.encode_basestring
    pieces = make(None, usual.default, text, None, ":", ",", sort_keys, False, False)
    return lambda value: text(value) if isinstance(value, str) else "".join(pieces(value, 0))
