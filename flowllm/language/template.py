r"""Templates: text with `{{ … }}` in it, checked once with every place known, and rendered any number of times.

With `sandbox*.py` and `template_*.py` these are the only modules that use Jinja2. Line ends in a template are `\n`, and
one final line end is dropped, whether there is anything to fill in or not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import nodes

from flowllm.core.errors import ConditionFailed, StepError, TemplateFailed
from flowllm.core.types import Json, StepId
from flowllm.language import sandbox_limits
from flowllm.language.reference import Location, Reference, united
from flowllm.language.sandbox import COUNTED, TEXT, VALUE, WORK
from flowllm.language.sandbox_filters import FUNCTIONS
from flowllm.language.sandbox_limits import MAX_TEXT, WHOLE, LimitReached
from flowllm.language.sandbox_text import kind_of, to_json, to_text
from flowllm.language.template_errors import (
    Failure,
    Fault,
    TemplateSyntaxProblem,
    compile_fault,
    expression_start,
    normal,
    parse,
)
from flowllm.language.template_names import NO_USES, Uses, uses_of
from flowllm.language.template_paths import Names

RESERVED_IDS: Final = frozenset(
    {
        # what flowllm itself gives a meaning, now or later
        *("inputs", "steps", "secrets", "item", "index", "row", "run", "output", "accepted"),
        *("loop", "self"),
        # words of expressions and tags
        *("and", "or", "not", "in", "is", "if", "elif", "else", "for"),
        *("recursive", "set", "block", "extends", "print", "macro", "include", "import", "from"),
        *("as", "with", "call", "filter", "raw", "autoescape", "endif", "endfor", "endset"),
        *("endblock", "endmacro", "endcall", "endfilter", "endwith", "endraw", "endautoescape"),
        # constants, and the names that Jinja gives functions and macros
        *("true", "false", "none", "range", "dict", "lipsum", "cycler", "joiner", "namespace"),
        *("zip", "product", "caller", "varargs", "kwargs"),
    }
)
"""Ids that a step may not have. The upper-case forms `True`, `False`, `None` are no ids anyway."""
__all__ = [
    "RESERVED_IDS",
    "Names",
    "Template",
    "TemplateProblem",
    "TemplateProblems",
    "ValueTemplate",
    "compile_template",
]
_PARTS_AN_OPERATION: Final = 4
"""As a shift: names, operators and tags that cost as much as one operation."""
_MAX_MESSAGE: Final = 1000
"""Characters of a failure's message."""
_BEGINS: Final = re.compile(r"\{[{%#]")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateProblem:
    """One problem of a template."""

    where: Location
    message: str
    hint: str = ""


class TemplateProblems(Exception):
    """A template is invalid; `problems` are all that could be found at once, in the order of the text."""

    def __init__(self, problems: tuple[TemplateProblem, ...]) -> None:
        super().__init__("; ".join(f"{problem.where}: {problem.message}" for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A template's text in normal form, and from offsets in it (from 1) to places in its file."""

    text: str
    where: Location
    anchor: Callable[[int, int], Location] | None

    def place(self, offset: int) -> Location:
        if self.anchor is None:
            return self.where
        before = self.text[: max(0, offset - 1)]
        return self.anchor(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)

    def problems(self, faults: tuple[Fault, ...]) -> TemplateProblems:
        return TemplateProblems(
            tuple(
                TemplateProblem(where=self.place(fault.offset), message=fault.message, hint=fault.hint)
                for fault in faults
            )
        )


def compile_template(
    source: str,
    *,
    where: Location,
    names: Names,
    anchor: Callable[[int, int], Location] | None = None,
    allow_secrets: bool = False,
    condition: bool = False,
) -> Template:
    """Check and compile a template.

    `anchor` maps a line and column within the text, both from 1, to a place in the file; without it everything is
    at `where`. `condition`: the text must be exactly one `{{ expression }}`. Raises TemplateProblems.
    """
    text = _Source(text=normal(source), where=where, anchor=anchor)
    try:
        return _compiled(source, text, names, allow_secrets=allow_secrets, condition=condition)
    except TemplateSyntaxProblem as error:
        raise text.problems(error.faults) from None


def _compiled(source: str, text: _Source, names: Names, *, allow_secrets: bool, condition: bool) -> Template:
    tree = parse(text.text) if _BEGINS.search(text.text) else None
    found = None if tree is None else _single(tree)
    if condition and found is None:
        raise TemplateSyntaxProblem(
            Fault(offset=1, message="a condition is exactly one `{{ expression }}`", hint="such as `{{ score > 7 }}`")
        )
    if tree is None:
        return Template(source, text, names.steps)
    try:
        uses = uses_of(
            tree,
            text.text,
            names,
            single=None if found is None else found[1],
            allow_secrets=allow_secrets,
            locate=text.place,
        )
        program = _Program(
            code=_program(tree, found),
            around=None if found is None else (found[0], found[2]),
            allowance=WHOLE if found is not None and _is_path(found[1]) else None,
        )
    except RecursionError:
        raise TemplateSyntaxProblem(compile_fault(RecursionError())) from None
    return Template(source, text, names.steps, uses, program)


def _is_path(node: nodes.Expr) -> bool:
    """It only names data: `x`, `x.a`, `x['a']`, `x[0]`."""
    while isinstance(node, (nodes.Getattr, nodes.Getitem)):
        if isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Const):
            return False
        node = node.node
    return isinstance(node, nodes.Name)


def _program(tree: nodes.Template, found: tuple[str, nodes.Expr, str] | None) -> jinja2.Template:
    """The tree as a program that gives its text in pieces, or its one value. Raises TemplateSyntaxProblem."""
    try:
        if found is None:
            _count_loops(tree)
            return TEXT.from_string(tree)
        return VALUE.from_string(nodes.Template([nodes.Output([found[1]], lineno=1)], lineno=1))
    except Exception as error:  # noqa: BLE001 - Jinja's code generator lets Python's own errors through
        raise TemplateSyntaxProblem(compile_fault(error)) from None


def _single(tree: nodes.Template) -> tuple[str, nodes.Expr, str] | None:
    """The one expression that is all of the template, and the white space before and behind it."""
    if len(tree.body) != 1 or not isinstance(tree.body[0], nodes.Output):
        return None
    parts = tree.body[0].nodes
    data = [part.data if isinstance(part, nodes.TemplateData) else None for part in parts]
    if data.count(None) != 1 or any(text and text.strip() for text in data):
        return None
    at = data.index(None)
    return "".join(map(str, data[:at])), parts[at], "".join(map(str, data[at + 1 :]))


def _count_loops(tree: nodes.Template) -> None:
    """Every loop pays for its items before it begins; the body of a loop or a macro, for its parts each time."""
    bodies: list[Any] = list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)))
    for body in bodies:
        parts = sum(1 for _ in body.find_all(nodes.Node)) >> _PARTS_AN_OPERATION
        if parts:
            work = nodes.Filter(nodes.Const(parts), WORK, [], [], None, None, lineno=body.lineno)
            body.body.insert(0, nodes.ExprStmt(work, lineno=body.lineno))
    for loop in tree.find_all(nodes.For):
        loop.iter = nodes.Filter(loop.iter, COUNTED, [], [], None, None, lineno=loop.iter.lineno)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Program:
    """The code of a template that has something to fill in."""

    code: jinja2.Template
    around: tuple[str, str] | None
    """Of exactly one expression: the white space before and behind it."""
    allowance: int | None
    """Operations that it may take, where that is not the usual."""


class Template:
    """One text, compiled. Rendering leaves no trace in it."""

    __slots__ = ("_program", "_steps", "_text", "bare", "gives", "lookups", "names", "references", "source", "where")

    def __init__(
        self, source: str, text: _Source, steps: frozenset[str], uses: Uses = NO_USES, program: _Program | None = None
    ) -> None:
        self.source = source
        self.where = text.where
        self.references = uses.references
        """One a step: the strictest of what the template says of it, at the first place that names it."""
        self.names = uses.names
        """What else it names: inputs, run, steps, secrets, an item and what belongs to it."""
        self.bare = uses.bare
        """The step, if the template is exactly `{{ step }}`."""
        self.lookups = uses.lookups
        """What it takes of steps' outputs, inputs and items."""
        self.gives = uses.gives
        """Of one expression: what it gives, in words, or the path that it is; None where that is not known."""
        self._text = text
        self._steps = steps
        self._program = program

    @property
    def is_expression(self) -> bool:
        """It is exactly one `{{ expression }}`, and keeps the type of its value."""
        return self._program is not None and self._program.around is not None

    @property
    def constant(self) -> str | None:
        """The text, if there is nothing to fill in."""
        return self._text.text if self._program is None else None

    def place(self, offset: int) -> Location:
        """Where an offset of its text, from 1, is in its file."""
        return self._text.place(offset)

    def __repr__(self) -> str:
        return f"Template({self.source!r}, where={str(self.where)!r})"

    def text(self, values: Mapping[str, Json]) -> str:
        """The template as text. Raises TemplateFailed."""
        program = self._program
        if program is None:
            return self._text.text
        try:
            if program.around is None:
                return _joined(_pieces(program.code, values))
            return program.around[0] + to_text(next(_pieces(program.code, values))) + program.around[1]
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in an author's expression
            self._fail(error, values)

    def value(self, values: Mapping[str, Json]) -> Json:
        """The value of a template that is exactly one `{{ expression }}`, else its text. Raises TemplateFailed."""
        program = self._program
        if program is None or program.around is None:
            return self.text(values)
        try:
            return to_json(next(_pieces(program.code, values, program.allowance)))
        except Exception as error:  # noqa: BLE001 - the same
            self._fail(error, values)

    def condition(self, values: Mapping[str, Json]) -> bool:
        """Whether the one expression is true. Raises ConditionFailed if it gives neither true nor false."""
        try:
            found = self.value(values)
        except StepError as error:
            raise ConditionFailed(error.message, hint=error.hint) from None
        if isinstance(found, bool):
            return found
        shown = f"the text {found[:40]!r}" if isinstance(found, str) else kind_of(found)
        where = self._text.place(expression_start(self._text.text)) if self.is_expression else self.where
        raise ConditionFailed(
            f"{where}: a condition must give true or false, and this one gave {shown}",
            hint="compare it with something, such as `x > 0` or `x == 'yes'`",
        )

    def _fail(self, error: Exception, values: Mapping[str, Json]) -> NoReturn:
        """Raise what went wrong as TemplateFailed, with its place."""
        fault = Failure(
            self._text.text, None if self._program is None else self._program.code, single=self.is_expression
        ).explain(error, self._steps, values.get("steps", {}))
        raise TemplateFailed(
            f"{self._text.place(fault.offset)}: {fault.message:.{_MAX_MESSAGE}}", hint=fault.hint
        ) from None


def _pieces(code: jinja2.Template, values: Mapping[str, Json], allowance: int | None = None) -> Iterator[object]:
    sandbox_limits.start(allowance)
    # `shared`: Jinja takes the mapping as it is, in place of two more copies
    return code.root_render_func(code.new_context({**FUNCTIONS, **values}, shared=True))


def _joined(pieces: Iterator[object]) -> str:
    size, texts = 0, []
    for piece in pieces:
        text = str(piece)
        size += len(text)
        if size > MAX_TEXT:
            raise LimitReached(f"the template makes a text of over {MAX_TEXT:,} characters")
        texts.append(text)
    return "".join(texts)


@dataclass(frozen=True, slots=True)
class ValueTemplate:
    """Plain data in which some texts are templates."""

    tree: Json | Template
    references: tuple[Reference, ...]
    """One a step: the strictest of all its templates."""

    @property
    def names(self) -> frozenset[str]:
        """What else its templates name, as in Template."""
        return frozenset().union(*(template.names for template in _templates(self.tree)))

    @classmethod
    def of(cls, tree: Json | Template) -> ValueTemplate:
        """Data whose leaves are Templates or plain scalars."""
        found: dict[StepId, Reference] = {}
        for template in _templates(tree):
            for reference in template.references:
                first = found.get(reference.step)
                found[reference.step] = reference if first is None else united(first, reference)
        return cls(tree=tree, references=tuple(found.values()))

    def render(self, values: Mapping[str, Json]) -> Json:
        """The data with every template's value in its place. Raises TemplateFailed."""
        return _rendered(self.tree, values)


def _templates(tree: Json | Template) -> Iterator[Template]:
    if isinstance(tree, Template):
        yield tree
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from _templates(item)
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _templates(item)


def _rendered(tree: Json | Template, values: Mapping[str, Json]) -> Json:
    if isinstance(tree, Template):
        return tree.value(values)
    if isinstance(tree, dict):
        return {key: _rendered(item, values) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_rendered(item, values) for item in tree]
    return tree
