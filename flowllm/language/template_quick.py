"""The syntax tree of a text that only names things, without Jinja's lexer and parser: what they would make of it, in a
twentieth of the time (`tests/unit/language/test_template_quick.py` compares the two)."""

from __future__ import annotations

import re
from typing import Final

from jinja2 import nodes

from flowllm.language.template_errors import MAX_SOURCE

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_KEY: Final = re.compile(rf"\.({_NAME})|\[(0|[1-9][0-9]{{0,8}})\]|\['([ -&(-\[\]-~]*)'\]")
"""One key of a path: a name, a number, or a text of plain ASCII without quotes and escapes."""
_PATH: Final = re.compile(rf"\{{\{{ *({_NAME})((?:{_KEY.pattern.replace('(', '(?:')}){{0,20}}) *\}}\}}")
_WORDS: Final = frozenset({"not", "true", "false", "none", "True", "False", "None"})
"""Names that are no names to Jinja where an expression begins."""


def quick_tree(text: str) -> nodes.Template | None:
    """The tree of a text in normal form, None where it takes Jinja to tell. Line numbers are offsets, from 1."""
    if "{%" in text or "{#" in text or len(text) > MAX_SOURCE:
        return None
    found: list[nodes.Expr] = []
    end = 0
    while (begin := text.find("{{", end)) >= 0:
        path = _PATH.match(text, begin)
        if path is None or path[1] in _WORDS:
            return None
        if begin > end:
            found.append(nodes.TemplateData(text[end:begin], lineno=end + 1))
        found.append(_path(path))
        end = path.end()
    if end < len(text):
        found.append(nodes.TemplateData(text[end:], lineno=end + 1))
    return nodes.Template([nodes.Output(found, lineno=found[0].lineno)], lineno=1)


def _path(path: re.Match[str]) -> nodes.Expr:
    node: nodes.Expr = nodes.Name(path[1], "load", lineno=path.start(1) + 1)
    if path[2]:
        for key in _KEY.finditer(path.string, path.start(2), path.end(2)):
            offset, name = key.start() + 1, key[1]
            if name is not None:
                node = nodes.Getattr(node, name, "load", lineno=offset)
                continue
            index: int | str = key[3] if key[2] is None else int(key[2])
            node = nodes.Getitem(node, nodes.Const(index, lineno=offset + 1), "load", lineno=offset)
    return node
