"""Expressions of templates, evaluated from their syntax tree: what Jinja's code for them would do, without making any.

To make code takes Jinja and Python most of a millisecond. Each node of a tree becomes a function here, which asks the
sandbox what the code would ask it, in the same order; `tests/unit/language/test_template_tree.py` compares the two. What is
not in `_READERS`, such as statements, is left to the code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

from jinja2 import nodes
from jinja2.runtime import Context, Undefined
from jinja2.utils import missing

from flowllm.core.types import Json
from flowllm.language.sandbox import DEFAULT_FILTERS, DEFINED_TESTS, SANDBOX, Absent, finalized
from flowllm.language.sandbox_filters import FUNCTIONS
from flowllm.language.template_paths import Path

Values: TypeAlias = Mapping[str, Json]
Evaluate: TypeAlias = Callable[[Values], Any]
"""An expression's value; raises whatever goes wrong in it."""

_DEEPEST: Final = 30
"""Nodes within each other; Python has a limit for code, which is told as a problem of the template."""


_NO_CONTEXT: Final = Context(SANDBOX, {}, None, {})
"""What code would hand on to functions and filters, none of which looks for a template's values in it."""
_TAKEN: Final[dict[str, Any]] = {"environment": SANDBOX, "context": _NO_CONTEXT, "eval_context": _NO_CONTEXT.eval_ctx}


class _NeedsCode(Exception):
    """The expression cannot be evaluated here."""


class PieceFailed(Exception):
    """A piece of a text could not be rendered, because of `__cause__`; `offset` is the piece's, from 1."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


class Pieces(NamedTuple):
    """A text of which some pieces are expressions."""

    parts: tuple[str | tuple[int, Evaluate], ...]
    """Text as it is, or an expression and its offset."""

    def render(self, values: Values) -> Iterator[str]:
        """One by one. Raises PieceFailed."""
        for part in self.parts:
            if isinstance(part, str):
                yield part
                continue
            offset, evaluate = part
            try:
                text = finalized(evaluate(values))
            except Exception as error:
                raise PieceFailed(offset) from error
            yield text


def pieces_of(tree: nodes.Template) -> Pieces | None:
    """The pieces of a text; None where code is needed."""
    if any(type(statement) is not nodes.Output for statement in tree.body):
        return None
    found: list[str | tuple[int, Evaluate]] = []
    for output in tree.body:
        for node in output.iter_child_nodes():
            evaluate = None if isinstance(node, nodes.TemplateData) else evaluation(node)
            if evaluate is not None:
                found.append((node.lineno, evaluate))
            elif isinstance(node, nodes.TemplateData):
                found.append(node.data)
            else:
                return None
    return Pieces(tuple(found))


_BY_DOT: Final = SANDBOX.key
_BY_BRACKET: Final = SANDBOX.item


def followed(path: Path) -> Evaluate:
    """How to find what a path leads to, as `evaluation` does of its tree."""
    found: Evaluate = partial(_value_of, path.name)
    for key in path.keys:
        found = partial(_taken, found, _BY_DOT if key.dotted else _BY_BRACKET, key.value, key.before)
    return found


def _taken(of: Evaluate, access: Callable[..., Any], key: str | int | None, offset: int, values: Values) -> Any:
    return access(of(values), key, offset)


def evaluation(expression: nodes.Node) -> Evaluate | None:
    """How to evaluate an expression; None where code is needed."""
    try:
        return _Reader(0, lenient=False).read(expression)
    except _NeedsCode:
        return None


class _Reader(NamedTuple):
    """Makes functions of nodes."""

    depth: int
    lenient: bool
    """Nothing on the way of a path needs to be there."""

    def read(self, node: nodes.Node) -> Evaluate:
        """Raises _NeedsCode."""
        reader = _READERS.get(type(node))
        if reader is None or self.depth > _DEEPEST:
            raise _NeedsCode
        return reader(self, node)

    def within(self, node: nodes.Node, *, lenient: bool = False) -> Evaluate:
        """The same of a node within another."""
        return _Reader(self.depth + 1, lenient).read(node)

    def all_within(self, found: list[nodes.Expr], *, lenient: bool = False) -> tuple[Evaluate, ...]:
        """The same of several."""
        return tuple(self.within(node, lenient=lenient) for node in found)


def _name(_reader: _Reader, node: Any) -> Evaluate:
    return partial(_value_of, node.name)


def _value_of(name: str, values: Values) -> Any:
    found = values[name] if name in values else FUNCTIONS.get(name, missing)
    return Absent(name=name) if found is missing else found


def _const(_reader: _Reader, node: Any) -> Evaluate:
    constant = node.value
    if isinstance(constant, float) and not math.isfinite(constant):
        raise _NeedsCode
    return lambda _values: constant


def _getattr(reader: _Reader, node: Any) -> Evaluate:
    of, name, offset = reader.within(node.node, lenient=reader.lenient), node.attr, node.lineno
    access = SANDBOX.maybe_key if reader.lenient else SANDBOX.key
    return lambda values: access(of(values), name, offset)


def _getitem(reader: _Reader, node: Any) -> Evaluate:
    of, index, offset = reader.within(node.node, lenient=reader.lenient), reader.within(node.arg), node.lineno
    access = SANDBOX.maybe_item if reader.lenient else SANDBOX.item
    return lambda values: access(of(values), index(values), offset)


def _slice(reader: _Reader, node: Any) -> Evaluate:
    parts = [None if one is None else reader.within(one) for one in (node.start, node.stop, node.step)]
    return lambda values: slice(*[None if one is None else one(values) for one in parts])


def _list(reader: _Reader, node: Any) -> Evaluate:
    items = reader.all_within(node.items)
    return lambda values: [item(values) for item in items]


def _tuple(reader: _Reader, node: Any) -> Evaluate:
    items = reader.all_within(node.items)
    return lambda values: tuple([item(values) for item in items])


def _dict(reader: _Reader, node: Any) -> Evaluate:
    pairs = tuple((reader.within(pair.key), reader.within(pair.value)) for pair in node.items)
    return lambda values: {SANDBOX.hashed(key(values)): value(values) for key, value in pairs}


def _concat(reader: _Reader, node: Any) -> Evaluate:
    parts = reader.all_within(node.nodes)
    return lambda values: SANDBOX.tilde([part(values) for part in parts])


def _compare(reader: _Reader, node: Any) -> Evaluate:
    left = reader.within(node.expr)
    (operator, right), *more = [(operand.op, reader.within(operand.expr)) for operand in node.ops]

    def holds(values: Values) -> bool:
        later = (part for name, operand in more for part in (name, partial(operand, values)))
        return SANDBOX.compare(left(values), operator, right(values), *later)

    return holds


def _binary(operator: str) -> Callable[[_Reader, Any], Evaluate]:
    def read(reader: _Reader, node: Any) -> Evaluate:
        left, right = reader.within(node.left), reader.within(node.right)
        return lambda values: SANDBOX.call_binop(None, operator, left(values), right(values))

    return read


def _and(reader: _Reader, node: Any) -> Evaluate:
    left, right = reader.within(node.left), reader.within(node.right)
    return lambda values: left(values) and right(values)


def _or(reader: _Reader, node: Any) -> Evaluate:
    left, right = reader.within(node.left), reader.within(node.right)
    return lambda values: left(values) or right(values)


def _not(reader: _Reader, node: Any) -> Evaluate:
    operand = reader.within(node.node)
    return lambda values: not operand(values)


def _neg(reader: _Reader, node: Any) -> Evaluate:
    operand = reader.within(node.node)
    return lambda values: -operand(values)


def _pos(reader: _Reader, node: Any) -> Evaluate:
    operand = reader.within(node.node)
    return lambda values: +operand(values)


def _choice(reader: _Reader, node: Any) -> Evaluate:
    test, then = reader.within(node.test), reader.within(node.expr1)
    if node.expr2 is None:
        words = f"the inline if-expression on line {node.lineno} evaluated to false and no else section was defined."
        return lambda values: then(values) if test(values) else Undefined(words)
    otherwise = reader.within(node.expr2)
    return lambda values: then(values) if test(values) else otherwise(values)


def _arguments(
    reader: _Reader, node: Any, *, lenient: bool = False
) -> Callable[[Values], tuple[list[Any], dict[str, Any]]]:
    """The arguments of a call, by place and by name."""
    names = [keyword.key for keyword in node.kwargs]
    if node.dyn_args or node.dyn_kwargs or len(set(names)) < len(names):
        raise _NeedsCode
    by_place = reader.all_within(node.args, lenient=lenient)
    by_name = tuple(zip(names, reader.all_within([one.value for one in node.kwargs], lenient=lenient), strict=True))
    return lambda values: ([one(values) for one in by_place], {name: one(values) for name, one in by_name})


def _call(reader: _Reader, node: Any) -> Evaluate:
    function = _method(reader, node.node) if isinstance(node.node, nodes.Getattr) else reader.within(node.node)
    arguments = _arguments(reader, node)

    def result(values: Values) -> Any:
        target = function(values)
        by_place, by_name = arguments(values)
        return SANDBOX.call(_NO_CONTEXT, target, *by_place, **by_name)

    return result


def _method(reader: _Reader, node: nodes.Getattr) -> Evaluate:
    of, name, offset = reader.within(node.node), node.attr, node.lineno
    return lambda values: SANDBOX.method(of(values), name, offset)


def _applied(reader: _Reader, node: Any, known: Mapping[str, Any], *, lenient: bool, forgiving: bool) -> Evaluate:
    """A filter or a test; `lenient`: of something that need not be there, `forgiving`: nor need its arguments."""
    function = known.get(node.name)
    if function is None or node.node is None:
        raise _NeedsCode
    takes = getattr(function, "jinja_pass_arg", None)  # Jinja's own mark of those that take something first
    if takes is not None:
        function = partial(function, _TAKEN[takes.name])
    subject = reader.within(node.node, lenient=lenient)
    arguments = _arguments(reader, node, lenient=forgiving)

    def result(values: Values) -> Any:
        value = subject(values)
        by_place, by_name = arguments(values)
        return function(value, *by_place, **by_name)

    return result


def _filter(reader: _Reader, node: Any) -> Evaluate:
    lenient = node.name in DEFAULT_FILTERS
    return _applied(reader, node, SANDBOX.filters, lenient=lenient, forgiving=lenient)


def _test(reader: _Reader, node: Any) -> Evaluate:
    return _applied(reader, node, SANDBOX.tests, lenient=node.name in DEFINED_TESTS, forgiving=False)


_READERS: Final[dict[type[nodes.Node], Callable[[_Reader, Any], Evaluate]]] = {
    nodes.Name: _name,
    nodes.Const: _const,
    nodes.Getattr: _getattr,
    nodes.Getitem: _getitem,
    nodes.Slice: _slice,
    nodes.Call: _call,
    nodes.List: _list,
    nodes.Tuple: _tuple,
    nodes.Dict: _dict,
    nodes.Concat: _concat,
    nodes.Compare: _compare,
    nodes.Add: _binary("+"),
    nodes.Sub: _binary("-"),
    nodes.Mul: _binary("*"),
    nodes.Div: _binary("/"),
    nodes.FloorDiv: _binary("//"),
    nodes.Mod: _binary("%"),
    nodes.Pow: _binary("**"),
    nodes.And: _and,
    nodes.Or: _or,
    nodes.Not: _not,
    nodes.Neg: _neg,
    nodes.Pos: _pos,
    nodes.CondExpr: _choice,
    nodes.Filter: _filter,
    nodes.Test: _test,
}
