"""Values as a page has them in hand: harmless, and no longer than somebody looks at. What was cut can be asked for whole."""

from __future__ import annotations

import json
from itertools import repeat
from typing import Final

from flowllm.core.records import dataclass
from flowllm.core.types import Json
from flowllm.reporting.text import json_text, one_line, readable, visible

MOST_TEXT: Final = 20_000
"""Characters of a text that are shown at first."""
MOST_JSON: Final = 200_000
"""Characters of a value that is shown as a tree; of a longer one the beginning of its text is shown."""
VECTOR: Final = 16
"""Numbers from which on a list of nothing else is a vector, and shortened."""
_FIRST: Final = 3
_MOST_ENTRIES: Final = 500
_DEEPEST: Final = 60
_EXACT: Final = 2**53
"""Larger whole numbers are others in a browser."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A value for the eye."""

    text: str | None
    """None: it is shown as the tree of `value`."""
    value: Json = None
    size: int
    """Characters of all of it."""
    cut: bool
    """Less is shown than there is."""

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        return {"text": self.text, "value": self.value, "size": self.size, "cut": self.cut}


def shown(value: Json) -> Shown:
    """Text as text, all else as a tree in which vectors and long lists are shortened."""
    if isinstance(value, str):
        return Shown(text=visible(value[:MOST_TEXT]), size=len(value), cut=len(value) > MOST_TEXT)
    display = _shorter(value, 0)
    size = len(json.dumps(value))
    if size <= MOST_JSON or len(json.dumps(display)) <= MOST_JSON:
        return Shown(text=None, value=display, size=size, cut=display != value)
    return Shown(text=readable(display)[:MOST_TEXT], size=size, cut=True)


def preview(value: Json, longest: int = 300) -> str | None:
    """The beginning of a value on one line; None for none."""
    if value is None:
        return None
    if isinstance(value, str):
        return one_line(value[: 4 * longest], longest)
    display = _shorter(value, 0)
    if isinstance(display, dict) and len(display) == 1 and isinstance(only := next(iter(display.values())), str):
        return one_line(only, longest)
    if isinstance(display, dict) and display:
        return one_line(", ".join(f"{name}: {_word(one)}" for name, one in display.items()), longest)
    return one_line(_word(display), longest)


def _word(value: Json) -> str:
    return value if isinstance(value, str) else json_text(value, indent=None)


def whole(value: Json) -> str:
    """All of a value, as it is copied: a text as it is, all else as JSON, indented if it is short, else with a line for each entry."""
    if isinstance(value, str):
        return value
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= MOST_JSON:
        return json.dumps(value, ensure_ascii=False, indent=2)
    if not isinstance(value, (list, dict)):
        return text
    names = (f"{json.dumps(name, ensure_ascii=False)}: " for name in value) if isinstance(value, dict) else repeat("")
    entries = value.values() if isinstance(value, dict) else value
    lines = ",\n".join(name + json.dumps(one, ensure_ascii=False) for name, one in zip(names, entries, strict=False))
    return f"{{\n{lines}\n}}" if isinstance(value, dict) else f"[\n{lines}\n]"


def _shorter(value: Json, depth: int) -> Json:
    if not isinstance(value, (list, dict)):
        return _leaf(value)
    if depth == _DEEPEST:
        return "…"
    if isinstance(value, dict):
        return {visible(name): _shorter(one, depth + 1) for name, one in value.items()}
    if len(value) >= VECTOR and all(type(one) in {int, float} for one in value):
        return [*value[:_FIRST], f"… {len(value) - _FIRST:,} more numbers"]
    begin = [_shorter(one, depth + 1) for one in value[:_MOST_ENTRIES]]
    return begin if len(value) <= _MOST_ENTRIES else [*begin, f"… {len(value) - _MOST_ENTRIES:,} more entries"]


def _leaf(value: Json) -> Json:
    if isinstance(value, int) and abs(value) > _EXACT:
        return str(value)
    if not isinstance(value, str):
        return value
    more = len(value) - MOST_TEXT
    return visible(value) if more <= 0 else f"{visible(value[:MOST_TEXT])}… {more:,} more characters"
