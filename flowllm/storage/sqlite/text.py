"""How values become text that any database keeps byte for byte, and back.

JSON is written in plain ASCII: lone surrogates, NUL and integers of any size pass through it unharmed. Short
texts (names, models, paths) stay readable and are escaped only where a database would refuse or cut them.
"""

from __future__ import annotations

import hashlib
import json

from flowllm.core.types import Json

_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))
_DECODER = json.JSONDecoder()


def to_json(value: Json) -> str:
    """ASCII JSON text, keys in their order. Raises ValueError for what JSON cannot hold."""
    if value is None:
        return "null"
    try:
        return _ENCODER.encode(value)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"This value cannot be stored as JSON: {error}") from error


def from_json(text: str) -> Json:
    """The value of a JSON text. Raises ValueError if it is none."""
    try:
        value, end = _DECODER.raw_decode(text)  # what stands here has no blanks around it
    except RecursionError as error:
        raise ValueError("This JSON is nested too deeply.") from error
    if end != len(text):
        raise ValueError(f"There is more behind the end of this JSON, at {end}.")
    return value


def to_text(text: str) -> str:
    """A short text in a form that a database column takes: itself, unless it has a backslash, a NUL or a lone
    surrogate; then as in a JSON string. Equal texts stay equal, so a query may compare them."""
    if text.isascii() and "\\" not in text and "\0" not in text:
        return text
    if "\\" in text or "\0" in text or not _encodable(text):
        return json.dumps(text)[1:-1]
    return text


def from_text(text: str) -> str:
    """The reverse of `to_text`. Raises ValueError for a broken escape."""
    return str(json.loads(f'"{text}"', strict=False)) if "\\" in text else text


def content_hash(*texts: str) -> str:
    """Hexadecimal SHA-256 of ASCII texts, each ended by a newline."""
    joined = "\n".join((*texts, ""))
    return hashlib.sha256(joined.encode(errors="surrogatepass")).hexdigest()


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
