"""A template's text to Jinja's syntax tree, and what is wrong with its syntax in plain words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2.exceptions import TemplateSyntaxError
from jinja2.parser import Parser

from flowllm.language.sandbox import TEXT

if TYPE_CHECKING:
    from jinja2 import nodes

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong with a template; `offset` counts from 1 in its text."""

    offset: int
    message: str
    hint: str = ""


class TemplateSyntaxProblem(Exception):
    """A template has faults: a message on its way to the list of problems."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(*faults)
        self.faults = faults


def normal(source: str) -> str:
    r"""The text as Jinja reads it: line ends are `\n`, and one final line end is dropped."""
    if "\r" in source:
        source = source.replace("\r\n", "\n").replace("\r", "\n")
    return source.removesuffix("\n")


def parse(source: str) -> nodes.Template:
    """The syntax tree of a text in normal form. Raises TemplateSyntaxProblem."""
    if len(source) > MAX_SOURCE:
        raise TemplateSyntaxProblem(
            Fault(offset=1, message=f"a template of over {MAX_SOURCE:,} characters is too long")
        )
    try:
        return Parser(TEXT, source).parse()
    except TemplateSyntaxError as error:
        raise TemplateSyntaxProblem(_fault(source, error)) from None
    except Exception as error:  # noqa: BLE001 - Jinja lets Python's own errors through, RecursionError among them
        raise TemplateSyntaxProblem(_python_fault(error)) from None


def compile_fault(error: Exception) -> Fault:
    """What is wrong where the tree was fine but no code could be made of it."""
    if isinstance(error, TemplateSyntaxError):
        return Fault(offset=error.lineno, message=_plain(error.message or ""))
    return _python_fault(error)


def _python_fault(error: Exception) -> Fault:
    offset = TEXT.progress.begins[-1] if TEXT.progress.begins else 1
    if isinstance(error, (RecursionError, MemoryError, SyntaxError)):
        return Fault(offset=1, message="the template is nested too deeply", hint="compute parts of it in `value` steps")
    if "digits" in str(error):
        return Fault(offset=offset, message="a number has too many digits")
    return Fault(offset=offset, message=f"this is not a template: {error}")


def _fault(source: str, error: TemplateSyntaxError) -> Fault:
    message = error.message or ""
    begins = TEXT.progress.begins
    offset = error.lineno
    if message.startswith(_AT_THE_END):
        offset = _unclosed(source, begins, in_tag=message.startswith("u"))
    elif message.startswith(("Missing end of", "unexpected char", "unexpected '")):
        offset = begins[-1] if message.startswith("Missing") else _reached(source, error)
    hint = ""
    if message.startswith("Encountered unknown tag"):
        hint = "for text that only looks like a tag: `{% raw %}…{% endraw %}`"
    return Fault(offset=min(offset, max(1, len(source))), message=_plain(message), hint=hint)


def _reached(source: str, error: TemplateSyntaxError) -> int:
    """The place of an error: the lexer's own count lines, the parser's count characters."""
    message = error.message or ""
    at = TEXT.progress.reached
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
