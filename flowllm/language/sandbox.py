"""Jinja2 as templates use it: sandboxed, strict, bounded, and exact about places.

Jinja's lexer and code generator have two changes: places are exact, and every access is the sandbox's own. Every
token's "line number" is its offset in the template's text, from 1. Jinja carries it through its syntax tree, its errors
and its map from generated code back to the template, so all of them know the column too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, cast

from jinja2 import Environment, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import UndefinedError
from jinja2.lexer import Lexer
from jinja2.runtime import Context, LoopContext, Macro, StrictUndefined, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import Cycler, Namespace, missing, pass_context

from flowllm.language.problems import nearest
from flowllm.language.sandbox_filters import FILTERS, FUNCTIONS, checked_test, paid_result
from flowllm.language.sandbox_limits import RenderFailed, check_operation, size_of, spend, spend_text
from flowllm.language.sandbox_methods import COMPARISONS, OWN_TESTS, methods_of, paid_key, refuse_absent
from flowllm.language.sandbox_text import as_sequence, join_texts, kind_of, percent_format, raise_absent, to_text

WORK = "what the body of a loop costs"
"""The same for the filter that pays for the parts of a loop's or a macro's body."""
COUNTED = "what a loop goes over"
"""The name, which no template can write, of the filter that counts a loop's items."""
_CALL_COST = 4
_MACRO_COST = 20
_LOOP_VALUES = frozenset(
    {
        *("index", "index0", "revindex", "revindex0", "first", "last", "length"),
        *("previtem", "nextitem", "depth", "depth0"),
    }
)
_LOOP_METHODS = frozenset({"cycle", "changed"})
_CYCLER_METHODS = frozenset({"next", "reset"})


DEFAULT_FILTERS = frozenset({"default", "d"})
DEFINED_TESTS = frozenset({"defined", "undefined"})


class Progress(threading.local):
    """How far this thread's reading of a template came."""

    def __init__(self) -> None:
        self.begins: list[int] = []
        """The offsets, from 1, of all tags and expressions so far."""
        self.reached = 0
        """Characters that were read."""


class OffsetLexer(Lexer):
    """Gives each token its offset for a line number, and remembers where tags began."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.progress = Progress()

    def tokeniter(
        self, source: str, name: str | None, filename: str | None = None, state: str | None = None
    ) -> Iterator[tuple[int, str, str]]:
        """Jinja's tokens. White space that it strips lies between them, so that each is found by its text."""
        progress = self.progress
        progress.begins, progress.reached = [], 0
        for _, token, text in super().tokeniter(source, name, filename, state):
            start = source.index(text, progress.reached)
            progress.reached = start + len(text)
            if token in {"variable_begin", "block_begin", "comment_begin", "raw_begin"}:
                progress.begins.append(start + 1)
            yield start + 1, token, text


class TextGenerator(CodeGenerator):
    """Writes Python code in which every access goes through the sandbox's own rules."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lenient: set[int] = set()
        self._called: set[int] = set()

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:
        """`x.b`: a key, or what is called."""
        access = "method" if id(node) in self._called else "key"
        self._access(node, frame, access)
        self.write(f", {node.attr!r}, {node.lineno})")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        """`x[b]`: a key or an index, never a method."""
        self._access(node, frame, "item")
        self.write(", ")
        if isinstance(node.arg, nodes.Slice):
            self._slice(node.arg, frame)
        else:
            self.visit(node.arg, frame)
        self.write(f", {node.lineno})")

    def _access(self, node: nodes.Getattr | nodes.Getitem, frame: Frame, access: str) -> None:
        lenient = "maybe_" if id(node) in self._lenient and access != "method" else ""
        self.write(f"environment.{lenient}{access}(")
        self.visit(node.node, frame)

    def _slice(self, node: nodes.Slice, frame: Frame) -> None:
        self.write("slice(")
        for bound in (node.start, node.stop, node.step):
            if bound is None:
                self.write("None")
            else:
                self.visit(bound, frame)
            self.write(", ")
        self.write(")")

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:
        """`x.b(…)`: the one place where a method's name means the method."""
        self._called.add(id(node.node))
        super().visit_Call(node, frame, forward_caller=forward_caller)

    def visit_Filter(self, node: nodes.Filter, frame: Frame) -> None:
        """`a.b | default(c.d)`: nothing on the way needs to be there, on either side."""
        if node.name in DEFAULT_FILTERS:
            for side in (node.node, *node.args, *(keyword.value for keyword in node.kwargs)):
                self._forgive(side)
        super().visit_Filter(node, frame)

    def visit_Test(self, node: nodes.Test, frame: Frame) -> None:
        """`a.b is defined`: the same."""
        if node.name in DEFINED_TESTS:
            self._forgive(node.node)
        super().visit_Test(node, frame)

    def _forgive(self, node: nodes.Node | None) -> None:
        while isinstance(node, (nodes.Getattr, nodes.Getitem)):
            self._lenient.add(id(node))
            node = node.node

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        """`a ~ b`: by our rules for text."""
        self.write("environment.tilde((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        """A mapping written out; keys are hashed, which is paid for where they are lists."""
        self.write("{")
        for pair in node.items:
            self.write("environment.hashed(")
            self.visit(pair.key, frame)
            self.write("): ")
            self.visit(pair.value, frame)
            self.write(", ")
        self.write("}")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        """Comparisons are the sandbox's own; of `a < b < c` what comes third is not computed where `a < b` is false."""
        self.write("environment.compare(")
        self.visit(node.expr, frame)
        for number, operand in enumerate(node.ops):
            self.write(f", {operand.op!r}, {'lambda: ' if number else ''}")
            self.visit(operand.expr, frame)
        self.write(")")


class LookupFailed(UndefinedError):
    """What is not there was used. `name` is set where it is a plain name; `message` may be a function that finds out
    what was missing, as most of what is missing has a default."""

    def __init__(self, offset: int, name: str | None, message: str | Callable[[], str] | None) -> None:
        super().__init__(message() if callable(message) else message)
        self.offset = offset
        self.name = name


class Absent(StrictUndefined):
    """A name, a key or an item that is not there; using it raises LookupFailed, which says what was missing."""

    __slots__ = ()

    def __init__(self, hint: str | None = None, obj: Any = missing, name: str | None = None, exc: Any = None) -> None:
        plain = name if obj is missing and hint is None else None
        super().__init__(hint, obj, name, exc or cast("Any", partial(LookupFailed, 0, plain)))


def _absent(message: str | Callable[[], str], offset: int) -> Absent:
    return Absent(cast("str", message), exc=partial(LookupFailed, offset, None))


def finalized(value: object) -> str:
    """A value in a text, paid for."""
    spend(2)
    text = to_text(value)
    spend_text(len(text))
    return text


@pass_context
def _finalize(_context: Context, value: object) -> str:
    """The same for Jinja; it takes the context so that nothing is computed while it compiles."""
    return finalized(value)


class Sandbox(ImmutableSandboxedEnvironment):
    """The rules of templates. Nothing of a rendering stays in it."""

    code_generator_class = TextGenerator
    intercepted_binops = frozenset({"+", "*", "**", "%", "-", "/", "//"})
    concat = staticmethod(join_texts)

    def __init__(self) -> None:
        super().__init__(
            undefined=Absent,
            finalize=_finalize,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,  # the final newline is dropped before Jinja sees the text
            autoescape=False,
            optimized=False,
            cache_size=0,
        )
        self.filters = FILTERS | {COUNTED: as_sequence, WORK: spend}
        tests: Mapping[str, Any] = {**TESTS, **OWN_TESTS}
        self.tests = {name: checked_test(name, function) for name, function in tests.items()}
        self.globals = dict(FUNCTIONS)
        self._offset_lexer = OffsetLexer(self)
        self.progress = self._offset_lexer.progress

    @property
    def lexer(self) -> Lexer:
        """The lexer that counts offsets."""
        return self._offset_lexer

    # --- what generated code calls; `offset` is the place of the access ------------------------------

    def key(self, obj: Any, name: str, offset: int) -> Any:
        """`obj.name` that is not called: a key of a mapping, or one of the few values that Jinja's helpers have."""
        spend(1)
        if isinstance(obj, dict):
            try:
                return obj[name]
            except KeyError:
                return _no_key(obj, name, offset)
        if isinstance(obj, Undefined):
            raise_absent(obj)
        if isinstance(obj, Mapping) and name in obj:
            return obj[name]
        if _is_open(obj, name):
            return getattr(obj, name)
        return _no_key(obj, name, offset)

    def maybe_key(self, obj: Any, name: str, offset: int) -> Any:
        """The same where a default stands ready: what is missing has no keys either, and that is no error."""
        return obj if isinstance(obj, Undefined) else self.key(obj, name, offset)

    def item(self, obj: Any, index: Any, offset: int) -> Any:
        """`obj[index]`: a key of a mapping, an item or a slice of a list or a text."""
        spend(1)
        refuse_absent((obj, index), {})
        if isinstance(obj, Mapping) and not isinstance(index, str):
            kind = "a slice" if isinstance(index, slice) else kind_of(index)
            return _absent(f"the keys of a mapping are text, and this one is {kind}", offset)
        if isinstance(obj, Mapping):
            return obj[index] if index in obj else _no_key(obj, index, offset)
        if isinstance(obj, (list, tuple, str, range)):
            if isinstance(index, (int, slice)) and not isinstance(index, bool):
                return _at(obj, index, offset)
            shown = f" `{index:.40}`" if isinstance(index, str) else f": {kind_of(index)}"
            return _absent(f"{kind_of(obj)} has no key{shown}, only places from 0", offset)
        return _absent(f"{kind_of(obj)} has no keys", offset)

    def maybe_item(self, obj: Any, index: Any, offset: int) -> Any:
        """The same where a default stands ready."""
        return obj if isinstance(obj, Undefined) else self.item(obj, index, offset)

    def method(self, obj: Any, name: str, offset: int) -> Any:
        """`obj.name` that is called: a mapping's key first, then the method."""
        if isinstance(obj, Mapping) and name in obj:
            raise RenderFailed(f"`{name}` is a key of this mapping, and its value cannot be called", offset=offset)
        if isinstance(obj, Undefined):
            raise_absent(obj)
        if isinstance(obj, LoopContext) and name in _LOOP_METHODS:
            return partial(_changed, obj) if name == "changed" else getattr(obj, name)
        if isinstance(obj, Cycler) and name in _CYCLER_METHODS:
            return getattr(obj, name)
        if isinstance(obj, Namespace):
            return self.key(obj, name, offset)
        known = methods_of(obj)
        if name not in known:
            raise RenderFailed(f"{kind_of(obj)} has no method `{name}`", hint=nearest(name, known), offset=offset)
        return partial(known[name], obj)

    def tilde(self, parts: Iterable[object]) -> str:
        """`a ~ b`."""
        spend(1)
        return join_texts([to_text(part) for part in parts])

    def compare(self, left: Any, operator: str, right: Any, *more: Any) -> bool:
        """`left == right`; `more` are operators and functions that give what comes next, of `a < b < c`."""
        spend(1)
        refuse_absent((left, right), {})
        holds = COMPARISONS[operator](left, right)
        return self.compare(right, more[0], more[1](), *more[2:]) if holds and more else holds

    @staticmethod
    def hashed(key: Any) -> Any:
        """A key of a mapping that is written out."""
        return paid_key(key)

    # --- what Jinja itself calls ------------------------------------------------------------------------

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Jinja's own way to `obj.attribute`."""
        return self.maybe_key(obj, attribute, 0)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Jinja's own way to `obj[argument]`, for filters that take an attribute's name."""
        return self.maybe_item(obj, argument, 0)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call a function, a method or a macro."""
        spend(_MACRO_COST if isinstance(__obj, Macro) else _CALL_COST)
        spend(len(args) + len(kwargs))
        if isinstance(__obj, Undefined):
            raise_absent(__obj)
        if not callable(__obj):
            raise RenderFailed(f"{kind_of(__obj)} cannot be called")
        if isinstance(__obj, LoopContext):
            args = tuple(map(as_sequence, args))
        elif not isinstance(__obj, Macro):
            refuse_absent(args, kwargs)
        return paid_result(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context | None, operator: str, left: Any, right: Any) -> Any:  # noqa: ARG002
        """Arithmetic, refused before it grows out of bounds."""
        spend(1)
        refuse_absent((left, right), {})
        if operator == "%" and isinstance(left, str):
            return percent_format(left, right)
        check_operation(operator, left, right)
        try:
            return self.binop_table[operator](left, right)
        except TypeError:
            raise RenderFailed(
                f"`{operator}` cannot work on {kind_of(left)} and {kind_of(right)}",
                hint="`~` joins values as text, `| int` and `| float` make numbers of text"
                if isinstance(left, str) or isinstance(right, str)
                else "",
            ) from None


def _is_open(obj: object, name: str) -> bool:
    """Whether `obj.name` is one of the values that Jinja's own helpers offer."""
    if isinstance(obj, LoopContext):
        return name in _LOOP_VALUES
    if isinstance(obj, Namespace):
        return not name.startswith("_") and hasattr(obj, name)
    if isinstance(obj, Cycler):
        return name == "current"
    return name in getattr(type(obj), "_fields", ())  # the pairs that `groupby` gives


def _no_key(obj: object, name: str, offset: int) -> Absent:
    return _absent(partial(_no_key_words, obj, name), offset)


def _no_key_words(obj: object, name: str) -> str:
    if name in methods_of(obj):
        return f"`{name}` is a method of {kind_of(obj)}: call it, `.{name}()`"
    if isinstance(obj, Mapping):
        keys = (key for key in obj if isinstance(key, str))
        near = nearest(name, keys) or (f"there are {len(obj):,} keys" if obj else "it is empty")
        return f"the mapping has no key `{name}`; {near}"
    return f"{kind_of(obj)} has no key `{name}`"


def _changed(loop: LoopContext, *values: object) -> bool:
    size_of(values)
    return loop.changed(*values)


def _at(obj: Any, index: int | slice, offset: int) -> Any:
    try:
        return paid_result(obj[index])
    except IndexError:
        return _absent(f"there is no item {index}: {kind_of(obj)} of {len(obj)}, counted from 0", offset)


SANDBOX = Sandbox()
