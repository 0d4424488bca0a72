"""Why a rendering failed: where in the template, what happened, and what to do, in an author's words."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from jinja2 import nodes

from flowllm.core.types import Json
from flowllm.language.sandbox import LookupFailed
from flowllm.language.sandbox_limits import RenderFailed
from flowllm.language.template_syntax import Fault, parse

if TYPE_CHECKING:
    import jinja2


_BEFORE_KEY: Final = re.compile(r"[.\[\s]*")
_PYTHON_TYPES: Final = {
    "'str'": "text",
    "'int'": "a number",
    "'float'": "a number",
    "'bool'": "true or false",
    "'list'": "a list",
    "'tuple'": "a list",
    "'dict'": "a mapping",
    "'NoneType'": "null",
}
_REWORDED: Final = (
    (re.compile(r" on line \d+"), ""),
    (re.compile(r"^'(.+)' not supported between (.+) and (.+)$"), r"`\1` cannot compare \2 with \3"),
    (re.compile(r"^object of (.+) has no len\(\)$"), r"\1 has no length"),
    (re.compile(r"^bad operand type for unary (.): (.+)$"), r"`\1` cannot work on \2"),
    (re.compile(r"\b(?:sync_)?(?:do_|_)(\w+)\(\)"), r"`\1`"),
)
_KNOWN: Final[tuple[tuple[type[Exception], str, str], ...]] = (
    (ZeroDivisionError, "division by zero", "test the divisor first: `a / b if b else 0`"),
    (RecursionError, "values or macros are nested too deeply", "a macro must not call itself without end"),
    (MemoryError, "the template needs too much memory", ""),
    (OverflowError, "a number is too large", ""),
)


class Failure:
    """A template that failed. It is parsed again, since nothing is kept for the case that it fails."""

    def __init__(self, text: str, program: jinja2.Template | None, *, single: bool) -> None:
        """`single`: the template is exactly one expression."""
        self._text = text
        self._program = program
        self._single = single

    def told(self, error: Exception, steps: Collection[str], records: Mapping[str, Json]) -> Fault:
        """What happened, what to do about it, and where."""
        if isinstance(error, RenderFailed):
            offset = self._key_at(error.offset) or self._running(error)
            return Fault(offset=offset, message=error.message, hint=error.hint)
        if isinstance(error, LookupFailed) and error.name is not None:
            return self._told_name(error.name, self._running(error), steps, records)
        if isinstance(error, LookupFailed):
            offset = self._key_at(error.offset) or self._running(error)
            return Fault(offset=offset, message=(error.message or "a value is not there").rstrip("."))
        message, hint = plain_words(error)
        return Fault(offset=self._running(error), message=message, hint=hint)

    def _told_name(self, name: str, start: int, steps: Collection[str], records: Mapping[str, Json]) -> Fault:
        uses = [node.lineno for node in parse(self._text).find_all(nodes.Name) if node.name == name]
        offset = min((use for use in uses if use >= start), default=start)
        if name not in steps:
            hint = "it is set only under a condition, or in another block"
            return Fault(offset=offset, message=f"`{name}` has no value here", hint=hint)
        status = (records.get(name) or {}).get("status") or "skipped"
        return Fault(
            offset=offset,
            message=f"step `{name}` has no output: its status is {status}",
            hint=f"`{name} is defined` tests for it, `{name} | default('')` stands in for it",
        )

    def _key_at(self, offset: int) -> int:
        """From the dot or bracket of an access to the key behind it."""
        found = _BEFORE_KEY.match(self._text, offset - 1) if offset else None
        return found.end() + 1 if found else offset

    def _running(self, error: Exception) -> int:
        """The offset of the tag or expression that was being rendered."""
        if self._single:
            return expression_start(self._text)
        offset, trace, program = 1, error.__traceback__, self._program
        while trace is not None:
            running = trace.tb_frame.f_globals.get("__jinja_template__")
            if running is program and program is not None:
                offset = program.get_corresponding_lineno(trace.tb_lineno)
            trace = trace.tb_next
        for output in parse(self._text).find_all(nodes.Output):
            for child in output.nodes:
                if child.lineno == offset:
                    return _leftmost([child], offset)
        return offset


def expression_start(text: str) -> int:
    """The offset of the expression in a template that is exactly one."""
    outputs = parse(text).find_all(nodes.Output)
    return _leftmost(next(iter(outputs)).nodes, 1)


def _leftmost(expressions: Sequence[nodes.Expr], otherwise: int) -> int:
    """Where the text of the first expression begins."""
    for expression in expressions:
        if not isinstance(expression, nodes.TemplateData):
            return min([expression.lineno, *(node.lineno for node in expression.find_all(nodes.Expr))])
    return otherwise


def plain_words(error: Exception) -> tuple[str, str]:
    """What an error of Python's or Jinja's means, and what to do about it."""
    for kind, message, hint in _KNOWN:
        if isinstance(error, kind):
            return message, hint
    text = str(error) or type(error).__name__
    for python, plain in _PYTHON_TYPES.items():
        for shown in (f"type {python}", f"instances of {python}", python):
            text = text.replace(shown, plain)
    for pattern, words in _REWORDED:
        text = pattern.sub(words, text)
    return text.rstrip("."), ""
