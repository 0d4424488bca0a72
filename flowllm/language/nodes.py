"""The tree that a YAML file is read to: scalars, lists and mappings, each with its place."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TypeAlias

from flowllm.core.records import dataclass
from flowllm.core.types import Json
from flowllm.language.problems import Location

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
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s?(KiB|MiB|GiB|TiB)")
_BYTES = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_LONGEST_DURATION = 36500 * 86400.0

DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?|\.[0-9]+) ?(ms|s|m|h|d)$"
SIZE_PATTERN = r"^([0-9]+(\.[0-9]+)?|\.[0-9]+) ?(KiB|MiB|GiB|TiB)$"
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


def parse_size(text: str) -> int:
    """Bytes of a size such as `512MiB` or `4GiB`. Raises ValueError in plain words."""
    match = _SIZE.fullmatch(text.strip())
    if match:
        return int(float(match[1]) * _BYTES[match[2]])
    raise ValueError(f"`{text}` is not a size: write it like 512MiB or 4GiB (KiB, MiB, GiB, TiB)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalar:
    """A text as it stands in the file."""

    where: Location
    text: str
    style: str = ""
    """Empty for an unquoted scalar, else one of ' " | >."""
    source: str = ""
    """The whole file's text, and"""
    start: int = 0
    """the offset in it at which the scalar's content begins."""
    comment: Location | None = None
    """Where a comment begins that stands behind an unquoted scalar on its line."""

    @property
    def plain(self) -> bool:
        """It is written without quotes."""
        return self.style == ""

    @property
    def value(self) -> Json:
        """What it means: null, true, false, a number, or text."""
        return resolve(self.text) if self.plain else self.text

    @property
    def is_text(self) -> bool:
        """It is neither null, true, false nor a number."""
        return isinstance(self.value, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """A list."""

    where: Location
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One key of a mapping with its value."""

    key: str
    where: Location
    value: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """A mapping; its keys are text as written, each once."""

    where: Location
    entries: tuple[Entry, ...]

    def get(self, key: str) -> Node | None:
        """The value of a key."""
        entry = self.entry(key)
        return entry.value if entry else None

    def entry(self, key: str) -> Entry | None:
        """A key with its value and place."""
        for entry in self.entries:
            if entry.key == key:
                return entry
        return None

    def keys(self) -> dict[str, Location]:
        """All keys in order, with their places."""
        return {entry.key: entry.where for entry in self.entries}


Node: TypeAlias = Scalar | Sequence | Mapping


def kind_of(node: Node) -> str:
    """What a node is, for a sentence."""
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    value = node.value
    if value is None:
        return "nothing" if node.text == "" else "null"
    if isinstance(value, bool):
        return f"`{node.text}`"
    return "text" if isinstance(value, str) else "a number"


def plain_data(node: Node) -> Json:
    """The JSON value that a node stands for."""
    if isinstance(node, Mapping):
        return {entry.key: plain_data(entry.value) for entry in node.entries}
    if isinstance(node, Sequence):
        return [plain_data(item) for item in node.items]
    return node.value


def scalars(node: Node) -> Iterator[Scalar]:
    """All scalars below a node, keys left out."""
    if isinstance(node, Scalar):
        yield node
    elif isinstance(node, Sequence):
        for item in node.items:
            yield from scalars(item)
    else:
        for entry in node.entries:
            yield from scalars(entry.value)


def constant(text: str, where: Location) -> Scalar:
    """A quoted text that stands in no file, such as a command line's."""
    return Scalar(where=where, text=text, style='"')
