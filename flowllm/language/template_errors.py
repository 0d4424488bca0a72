"""A template's text to Jinja's syntax tree; its problems, and why its rendering failed, in an author's words."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import jinja2
from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.parser import Parser

from flowllm.core.records import dataclass
from flowllm.core.types import Json
from flowllm.language.sandbox import SANDBOX, LookupFailed
from flowllm.language.sandbox_limits import RenderFailed

MAX_SOURCE = 1024 * 1024
"""Characters of a template."""
_TAG = re.compile(r"\{%[-+]?\s*(\w+)")
_CLOSED_BY_END = frozenset({"if", "for", "macro", "call", "filter", "with", "set", "block", "autoescape"})
_AT_THE_END = ("Unexpected end of template", "unexpected end of template", "unexpected 'end of template'")
_TOKENS = {
    "end of print statement": "`}}`",
    "end of statement block": "`%}`",
    "begin of statement block": "`{%`",
    "begin of print statement": "`{{`",
    "end of template": "the end",
    "name": "a name",
    "string": "a text",
    "integer": "a number",
    "float": "a number",
}
_WORDS = (
    (re.compile(r"^unexpected char (?P<found>.+) at \d+$"), "unexpected {found}"),
    (re.compile(r"^expected token '(?P<wanted>.+)', got '(?P<found>.*)'$"), "expected {wanted}, not {found}"),
    (
        re.compile(r"^unexpected end of template, expected '(?P<wanted>.+)'\.$"),
        "this is not closed: {wanted} is missing",
    ),
    (re.compile(r"^unexpected 'end of template'$"), "this is not closed: the rest of it is missing"),
    (re.compile(r"^unexpected '(?P<found>[^']+)'$"), "unexpected {found}"),
    (
        re.compile(r"^unexpected '(?P<found>[^']+)', expected '(?P<wanted>[^']+)'$"),
        "unexpected {found}, {wanted} should come first",
    ),
    (re.compile(r"^Missing end of comment tag$"), "this comment is not closed: `#}}` is missing"),
    (re.compile(r"^Missing end of raw directive$"), "this `raw` block is not closed: `{{% endraw %}}` is missing"),
    (re.compile(r"^Expected an expression, got '(?P<found>.+)'$"), "an expression is missing before {found}"),
    (
        re.compile(r"^Unexpected end of template\..* needs to be closed is '(?P<tag>\w+)'\.$"),
        "this `{tag}` block is not closed: `{{% end{tag} %}}` is missing",
    ),
    (
        re.compile(r"^Encountered unknown tag '(?P<tag>\w+)'\. You probably made a nesting.* is '(?P<open>\w+)'\.$"),
        "`{tag}` does not close what is open here, a `{open}` block",
    ),
    (re.compile(r"^Encountered unknown tag '(?P<tag>\w+)'"), "there is no tag `{tag}`"),
    (re.compile(r"^can't assign to '(?P<what>.+)'$"), "this cannot be assigned to: it is no free name"),
)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateProblem:
    """One problem of a template; `offset` counts from 1 in its text."""

    offset: int
    message: str
    hint: str = ""


class TemplateSyntaxProblem(Exception):
    """A template has problems: a message on its way to the list of problems."""

    def __init__(self, *problems: TemplateProblem) -> None:
        super().__init__(*problems)
        self.problems = problems


def normal(source: str) -> str:
    r"""The text as Jinja reads it: line ends are `\n`, and one final line end is dropped."""
    if "\r" in source:
        source = source.replace("\r\n", "\n").replace("\r", "\n")
    return source.removesuffix("\n")


def parse(source: str) -> nodes.Template:
    """The syntax tree of a text in normal form. Raises TemplateSyntaxProblem."""
    if len(source) > MAX_SOURCE:
        raise TemplateSyntaxProblem(
            TemplateProblem(offset=1, message=f"a template of over {MAX_SOURCE:,} characters is too long")
        )
    try:
        return Parser(SANDBOX, source).parse()
    except TemplateSyntaxError as error:
        raise TemplateSyntaxProblem(_problem(source, error)) from None
    except Exception as error:  # noqa: BLE001 - Jinja lets Python's own errors through, RecursionError among them
        raise TemplateSyntaxProblem(_python_problem(error)) from None


def compile_problem(error: Exception) -> TemplateProblem:
    """The problem where the tree was fine but no code could be made of it."""
    if isinstance(error, TemplateSyntaxError):
        return TemplateProblem(offset=error.lineno, message=_plain(error.message or ""))
    return _python_problem(error)


def _python_problem(error: Exception) -> TemplateProblem:
    offset = SANDBOX.progress.begins[-1] if SANDBOX.progress.begins else 1
    if isinstance(error, SyntaxError) and "repeated" in error.msg:
        return TemplateProblem(offset=offset, message=error.msg)
    if isinstance(error, (RecursionError, MemoryError, SyntaxError)):
        return TemplateProblem(
            offset=1, message="the template is nested too deeply", hint="compute parts of it in `value` steps"
        )
    if "digits" in str(error):
        return TemplateProblem(offset=offset, message="a number has too many digits")
    return TemplateProblem(offset=offset, message=f"this is not a template: {error}")


def _problem(source: str, error: TemplateSyntaxError) -> TemplateProblem:
    message = error.message or ""
    begins = SANDBOX.progress.begins
    offset = error.lineno
    if message.startswith(_AT_THE_END):
        offset = _unclosed(source, begins, in_tag=message.startswith("u"))
    elif message.startswith(("Missing end of", "unexpected char", "unexpected '")):
        offset = begins[-1] if message.startswith("Missing") else _reached(source, error)
    hint = ""
    if message.startswith("Encountered unknown tag"):
        hint = "for text that only looks like a tag: `{% raw %}…{% endraw %}`"
    return TemplateProblem(offset=min(offset, max(1, len(source))), message=_plain(message), hint=hint)


def _reached(source: str, error: TemplateSyntaxError) -> int:
    """The place of an error: the lexer's own count lines, the parser's count characters."""
    message = error.message or ""
    at = SANDBOX.progress.reached
    found = re.match(r"unexpected '([^']+)'", message)
    from_lexer = message.startswith("unexpected char") or (
        found is not None and found[1] in ")]}" and source[at : at + 1] == found[1]
    )
    return at + 1 if from_lexer else error.lineno


def _unclosed(source: str, begins: list[int], *, in_tag: bool) -> int:
    """The tag that was never closed: the last one, or the innermost block that is still open."""
    if in_tag:
        return begins[-1]
    open_blocks: list[int] = []
    for begin in begins:
        tag = _TAG.match(source, begin - 1)
        if tag is None:
            continue
        if tag[1].startswith("end") and open_blocks:
            open_blocks.pop()
        elif tag[1] in _CLOSED_BY_END and not _is_plain_set(source, tag):
            open_blocks.append(begin)
    return open_blocks[-1] if open_blocks else begins[-1]


def _is_plain_set(source: str, tag: re.Match[str]) -> bool:
    end = source.find("%}", tag.end())
    return tag[1] == "set" and "=" in source[tag.end() : end].replace("==", "")


def _plain(message: str) -> str:
    for pattern, words in _WORDS:
        found = pattern.match(message)
        if found:
            return words.format(**{name: _token(name, text) for name, text in found.groupdict().items()})
    return message[:1].lower() + message[1:].rstrip(".")


def _token(name: str, text: str) -> str:
    if name in {"tag", "open", "what"}:
        return text
    quoted = len(text) > 2 and text[0] == text[-1] and text[0] in "'\""  # noqa: PLR2004 - as Python shows a text
    return _TOKENS.get(text) or f"`{text[1:-1] if quoted else text}`"


# failures while rendering


class Failure:
    """A template that failed. It is parsed again, since nothing is kept for the case that it fails."""

    def __init__(self, text: str, program: jinja2.Template | None, *, single: bool, piece: int = 1) -> None:
        """`single`: the template is exactly one expression; `piece`: the offset of the piece that failed, where no code
        tells it."""
        self._text = text
        self._program = program
        self._single = single
        self._piece = piece

    def explain(self, error: Exception, steps: Collection[str], records: Mapping[str, Json]) -> TemplateProblem:
        """What happened, what to do about it, and where."""
        if isinstance(error, LookupFailed) and error.name is not None:
            return self._explain_name(error.name, self._running(error), steps, records)
        offset = 0
        if isinstance(error, RenderFailed):
            offset, message, hint = error.offset, error.message, error.hint
        elif isinstance(error, LookupFailed):
            offset, message, hint = error.offset, (error.message or "a value is not there").rstrip("."), ""
        else:
            message, hint = plain_words(error)
        return TemplateProblem(offset=self._key_at(offset) or self._running(error), message=message, hint=hint)

    def _explain_name(
        self, name: str, start: int, steps: Collection[str], records: Mapping[str, Json]
    ) -> TemplateProblem:
        uses = [node.lineno for node in parse(self._text).find_all(nodes.Name) if node.name == name]
        offset = min((use for use in uses if use >= start), default=start)
        if name not in steps:
            hint = "it is set only under a condition, or in another block"
            return TemplateProblem(offset=offset, message=f"`{name}` has no value here", hint=hint)
        status = (records.get(name) or {}).get("status") or "skipped"
        return TemplateProblem(
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
        offset, trace, program = self._piece, error.__traceback__, self._program
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
