r"""Templates: text with `{{ … }}` in it, checked once with every place known, and rendered any number of times.

With `sandbox*.py` and `template_*.py` these are the only modules that use Jinja2. Line ends in a template are `\n`, and
one final line end is dropped, whether there is anything to fill in or not.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.runtime import Context

from flowllm.core.errors import ConditionFailed, StepError, TemplateFailed
from flowllm.core.records import dataclass
from flowllm.core.types import Json, StepId
from flowllm.language import sandbox_limits
from flowllm.language.problems import Location, SourceError
from flowllm.language.sandbox import COUNTED, SANDBOX, WORK
from flowllm.language.sandbox_filters import FUNCTIONS
from flowllm.language.sandbox_limits import MAX_TEXT, WHOLE, LimitReached
from flowllm.language.sandbox_text import kind_of, to_json, to_text
from flowllm.language.template_errors import (
    Failure,
    TemplateProblem,
    TemplateSyntaxProblem,
    compile_problem,
    expression_start,
    normal,
    parse,
)
from flowllm.language.template_names import NO_USES, Uses, uses_of, uses_of_paths
from flowllm.language.template_paths import Names, Path, Reference, united
from flowllm.language.template_quick import quick_parts
from flowllm.language.template_tree import Evaluate, PieceFailed, Pieces, evaluation, followed, pieces_of

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
__all__ = ["RESERVED_IDS", "Names", "Template", "TemplateProblems", "ValueTemplate", "compile_template"]
_PARTS_AN_OPERATION: Final = 4
"""As a shift: names, operators and tags that cost as much as one operation."""
_MAX_MESSAGE: Final = 1000
"""Characters of a failure's message."""
_RESULT: Final = "_RESULT"
"""The variable that gets the value of one expression; no step can be called so."""
_CODES: Final = 128
"""Templates whose code is kept for when they are loaded again."""
_BEGINS: Final = re.compile(r"\{[{%#]")


class TemplateProblems(Exception):
    """A template is invalid; `problems` are all that could be found at once, in the order of the text."""

    def __init__(self, problems: tuple[SourceError, ...]) -> None:
        super().__init__("; ".join(f"{problem.where}: {problem}" for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A template's text in normal form, and how offsets in it, from 0, become places in its file."""

    text: str
    where: Location
    locate: Callable[[int], Location] | None

    def place(self, offset: int) -> Location:
        """That of an offset from 1."""
        return self.where if self.locate is None else self.locate(max(0, offset - 1))


def compile_template(
    source: str,
    *,
    where: Location,
    names: Names,
    locate: Callable[[int], Location] | None = None,
    allow_secrets: bool = False,
    condition: bool = False,
) -> Template:
    r"""Check and compile a template.

    `locate` gives the place in the file of an offset, from 0, in the text with `\n` for line ends; without it everything
    is at `where`. `condition`: the text must be exactly one `{{ expression }}`. Raises TemplateProblems.
    """
    text = _Source(text=normal(source), where=where, locate=locate)
    try:
        return _compiled(source, text, names, allow_secrets=allow_secrets, condition=condition)
    except TemplateSyntaxProblem as error:
        problems = (
            SourceError(text.place(problem.offset), problem.message, problem.hint) for problem in error.problems
        )
        raise TemplateProblems(tuple(problems)) from None


def _compiled(source: str, text: _Source, names: Names, *, allow_secrets: bool, condition: bool) -> Template:
    if not _BEGINS.search(text.text):
        if condition:
            raise _no_condition()
        return Template(source, text, names.steps)
    parts = quick_parts(text.text)
    if parts is not None:
        return _of_paths(source, text, names, parts, allow_secrets=allow_secrets, condition=condition)
    tree = parse(text.text)
    single = _single(tree)
    if condition and single is None:
        raise _no_condition()
    try:
        expression = None if single is None else single.expression
        uses = uses_of(tree, text.text, names, single=expression, allow_secrets=allow_secrets, locate=text.place)
        return Template(source, text, names.steps, uses, _program(text.text, tree, single))
    except RecursionError as error:
        raise TemplateSyntaxProblem(compile_problem(error)) from None


def _of_paths(
    source: str, text: _Source, names: Names, parts: list[str | Path], *, allow_secrets: bool, condition: bool
) -> Template:
    """The template of a text that only names things."""
    paths = [part for part in parts if type(part) is Path]
    single = len(paths) == 1 and not any(type(part) is str and part.strip() for part in parts)
    if condition and not single:
        raise _no_condition()
    uses = uses_of_paths(paths, names, single=single, allow_secrets=allow_secrets, locate=text.place)
    if single:
        at = parts.index(paths[0])
        around = ("".join(map(str, parts[:at])), "".join(map(str, parts[at + 1 :])))
        return Template(source, text, names.steps, uses, _Program(around, evaluate=followed(paths[0]), allowance=WHOLE))
    pieces = Pieces(tuple([(part.end, followed(part)) if isinstance(part, Path) else part for part in parts]))
    return Template(source, text, names.steps, uses, _Program(pieces=pieces))


def _no_condition() -> TemplateSyntaxProblem:
    message = "a condition is exactly one `{{ expression }}`"
    return TemplateSyntaxProblem(TemplateProblem(offset=1, message=message, hint="such as `{{ score > 7 }}`"))


class _Single(NamedTuple):
    """The one expression that is all of a template, and the white space around it."""

    before: str
    expression: nodes.Expr
    behind: str


def _single(tree: nodes.Template) -> _Single | None:
    if len(tree.body) != 1 or not isinstance(tree.body[0], nodes.Output):
        return None
    parts = tree.body[0].nodes
    data = [part.data if isinstance(part, nodes.TemplateData) else None for part in parts]
    if data.count(None) != 1 or any(text and text.strip() for text in data):
        return None
    at = data.index(None)
    return _Single("".join(map(str, data[:at])), parts[at], "".join(map(str, data[at + 1 :])))


def _program(text: str, tree: nodes.Template, single: _Single | None) -> _Program:
    """Raises TemplateSyntaxProblem."""
    if single is None:
        pieces = pieces_of(tree)
        return _Program(pieces=pieces, code=None if pieces else _code_of(text))
    evaluate = evaluation(single.expression)
    return _Program(
        (single.before, single.behind),
        evaluate=evaluate,
        code=None if evaluate else _code_of(text),
        allowance=WHOLE if _is_path(single.expression) else None,
    )


class _Program:
    """How a template that has something to fill in is rendered: by its paths or its tree, or by code that Jinja makes of
    that, which is most of the work of loading where it is needed."""

    __slots__ = ("_evaluate", "_pieces", "allowance", "around", "code")

    def __init__(
        self,
        around: tuple[str, str] | None = None,
        *,
        pieces: Pieces | None = None,
        evaluate: Evaluate | None = None,
        code: jinja2.Template | None = None,
        allowance: int | None = None,
    ) -> None:
        """`around` is the white space before and behind the one expression that is all of a template; `code` is there
        where neither `pieces` nor `evaluate` is; what only names data may take it whole, by an `allowance`, whatever its
        size, where no text is made of it."""
        self.around = around
        self.allowance = allowance
        self._pieces = pieces
        self._evaluate = evaluate
        self.code = code

    def pieces(self, values: Mapping[str, Json]) -> Iterator[object]:
        """The text in pieces. Raises whatever goes wrong in an author's expressions."""
        sandbox_limits.start()
        if self.code is None:
            assert self._pieces is not None  # noqa: S101 - it has either
            return self._pieces.render(values)
        return self.code.root_render_func(_context(self.code, values))

    def value(self, values: Mapping[str, Json], allowance: int | None = None) -> object:
        """The value of the one expression, within so many operations. Raises the same."""
        sandbox_limits.start(allowance)
        if self._evaluate is not None:
            return self._evaluate(values)
        assert self.code is not None  # noqa: S101 - it has either
        context = _context(self.code, values)
        for _ in self.code.root_render_func(context):
            pass
        return context.vars[_RESULT]


@lru_cache(maxsize=_CODES)
def _code_of(text: str) -> jinja2.Template:
    """The code of a template; of a single expression it sets a variable. Raises TemplateSyntaxProblem."""
    tree = parse(text)
    single = _single(tree)
    if single is not None:
        result = nodes.Assign(nodes.Name(_RESULT, "store", lineno=1), single.expression, lineno=1)
        tree = nodes.Template([result], lineno=1)
    else:
        _count_loops(tree)
    try:
        return SANDBOX.from_string(tree)
    except Exception as error:  # noqa: BLE001 - Jinja's code generator lets Python's own errors through
        raise TemplateSyntaxProblem(compile_problem(error)) from None


def _context(code: jinja2.Template, values: Mapping[str, Json]) -> Context:
    # `shared`: Jinja takes the mapping as it is, in place of a copy of all that there is
    return code.new_context(cast("Any", ChainMap(cast("Any", values), FUNCTIONS)), shared=True)


def _is_path(node: nodes.Expr) -> bool:
    """It only names data: `x`, `x.a`, `x['a']`, `x[0]`."""
    while isinstance(node, (nodes.Getattr, nodes.Getitem)):
        if isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Const):
            return False
        node = node.node
    return isinstance(node, nodes.Name)


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


class Template:
    """One text, compiled. Rendering leaves no trace in it."""

    __slots__ = ("_program", "_steps", "_text", "bare", "gives", "lookups", "names", "references", "source", "where")

    def __init__(
        self, source: str, text: _Source, steps: frozenset[str], uses: Uses = NO_USES, program: _Program | None = None
    ) -> None:
        self.source = source
        self.where = text.where
        self.references, self.names, self.lookups = uses.references, uses.names, uses.lookups
        self.bare, self.gives = uses.bare, uses.gives
        """As in Uses."""
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

    @property
    def raw(self) -> str:
        """The text as it is written, with its expressions."""
        return self._text.text

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
                return _joined(program.pieces(values))
            before, behind = program.around
            return before + to_text(program.value(values)) + behind
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in an author's expression
            self._fail(error, values, program)

    def value(self, values: Mapping[str, Json]) -> Json:
        """The value of a template that is exactly one `{{ expression }}`, else its text. Raises TemplateFailed."""
        program = self._program
        if program is None or program.around is None:
            return self.text(values)
        try:
            return to_json(program.value(values, program.allowance))
        except Exception as error:  # noqa: BLE001 - the same
            self._fail(error, values, program)

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

    def _fail(self, error: Exception, values: Mapping[str, Json], program: _Program) -> NoReturn:
        """Raise what went wrong as TemplateFailed, with its place."""
        piece = 1
        if isinstance(error, PieceFailed) and isinstance(error.__cause__, Exception):
            piece, error = error.offset, error.__cause__
        failure = Failure(self._text.text, program.code, single=program.around is not None, piece=piece)
        problem = failure.explain(error, self._steps, values.get("steps", {}))
        raise TemplateFailed(
            f"{self._text.place(problem.offset)}: {problem.message:.{_MAX_MESSAGE}}", hint=problem.hint
        ) from None


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
    def templates(self) -> Iterator[Template]:
        """Its templates, in the order in which they are written."""
        return _templates(self.tree)

    @property
    def names(self) -> frozenset[str]:
        """What else its templates name, as in Template."""
        return frozenset().union(*(template.names for template in self.templates))

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
