"""The paths of a text that only names things, without Jinja's lexer, parser and tree: what these would make of it, in a
twentieth of the time (`tests/unit/language/test_template_quick.py` compares the two)."""

from __future__ import annotations

import re
from typing import Final

from flowllm.language.template_errors import MAX_SOURCE
from flowllm.language.template_paths import Key, Path

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_KEY: Final = re.compile(rf"\.({_NAME})|\[(0|[1-9][0-9]{{0,8}})\]|\['([ -&(-\[\]-~]*)'\]")
"""One key of a path: a name, a number, or a text of plain ASCII without quotes and escapes."""
_PATH: Final = re.compile(rf"\{{\{{ *({_NAME})((?:{_KEY.pattern.replace('(', '(?:')}){{0,20}}) *\}}\}}")
_WORDS: Final = frozenset({"not", "true", "false", "none", "True", "False", "None"})
"""Names that are no names to Jinja where an expression begins."""


def quick_parts(text: str) -> list[str | Path] | None:
    """What a text in normal form consists of, None where it takes Jinja to tell. Offsets count from 1."""
    if "{%" in text or "{#" in text or len(text) > MAX_SOURCE:
        return None
    found: list[str | Path] = []
    end = 0
    while (begin := text.find("{{", end)) >= 0:
        path = _PATH.match(text, begin)
        if path is None or path[1] in _WORDS:
            return None
        if begin > end:
            found.append(text[end:begin])
        found.append(Path(path[1], path.start(1) + 1, _keys(path) if path[2] else ()))
        end = path.end()
    if end < len(text):
        found.append(text[end:])
    return found


def _keys(path: re.Match[str]) -> tuple[Key, ...]:
    keys = []
    for key in _KEY.finditer(path.string, path.start(2), path.end(2)):
        name, number, text = key.groups()
        before = key.start() + 1
        if number is not None:
            keys.append(Key(int(number), before, before))
        else:
            keys.append(Key(text if name is None else name, before, before + 1, name is not None))
    return tuple(keys)
