"""Paths in a template, such as `mood.score` and `inputs.topic`: what they name, and what an expression gives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from jinja2 import nodes

from flowllm.core.records import dataclass, replace
from flowllm.core.types import Part, StepId, Tolerance
from flowllm.language.problems import Location

RUN_FIELDS: Final = ("id", "date", "started_at")
RECORD_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "usage": ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens", "cache_write_tokens"),
    "status": (),
    "error": ("type", "message", "hint", "answer"),
    "model": (),
    "cached": (),
    "cost_usd": (),
    "rows": (),
    "counts": ("total", "succeeded", "failed", "skipped", "accepted", "not_sent"),
}
"""What `steps.x` has, and what each of its mappings has."""
OUTPUT_WORDS: Final = frozenset(
    {"output", "outputs", "text", "content", "result", "response", "answer", "value", "message"}
)
"""What other systems call a step's output."""
_GAP = re.compile(r"[.\s]*")
_FILTERS: Final = {
    **dict.fromkeys(("length", "count", "wordcount", "int", "float", "round", "abs", "sum"), "a number"),
    **dict.fromkeys(("upper", "lower", "trim", "title", "capitalize", "join", "tojson", "string", "replace"), "text"),
    **dict.fromkeys(("striptags", "truncate", "indent", "format", "slug", "urlencode", "center"), "text"),
    **dict.fromkeys(("list", "map", "select", "reject", "selectattr", "rejectattr", "sort", "unique"), "a list"),
    **dict.fromkeys(("batch", "slice", "groupby", "dictsort", "items", "flatten", "zip", "product"), "a list"),
}
"""What filters give, whatever they are given."""
_GIVEN: Final[dict[type[nodes.Node], str]] = {
    nodes.Concat: "text",
    nodes.TemplateData: "text",
    **dict.fromkeys((nodes.List, nodes.Tuple), "a list"),
    nodes.Dict: "a mapping",
    **dict.fromkeys((nodes.Sub, nodes.Div, nodes.FloorDiv, nodes.Pow, nodes.Neg, nodes.Pos), "a number"),
}
"""The same of operators and literals."""

Subject: TypeAlias = "tuple[str, str]"
"""step, input or local, and its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names that exist where a template stands."""

    inputs: frozenset[str]
    steps: frozenset[str]
    secrets: frozenset[str] = frozenset()
    local: frozenset[str] = frozenset()
    """Plain names, such as those of an item and its index."""
    outputs: frozenset[str] | None = None
    """Keys of `outputs`, where that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """A path such as `mood.score`, from a step's output, an input or a local name."""

    subject: Subject
    keys: tuple[tuple[str | int, int], ...]
    """Keys and numbers, each with its offset, up to the first that is computed."""
    whole: bool
    """There are no more keys than these."""
    called: bool
    """The last of its keys is a method's."""
    certain: bool
    """It is evaluated whenever the template is rendered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """That a template names a step, and how."""

    step: StepId
    tolerance: Tolerance
    where: Location
    parts: frozenset[Part] = frozenset({Part.OUTPUT})


def united(first: Reference, second: Reference) -> Reference:
    """Two references to one step as one: the stricter of them, and all parts."""
    strict = second if second.tolerance < first.tolerance else first
    return replace(strict, parts=first.parts | second.parts)


class Key(NamedTuple):
    """One part of a path such as `.usage` or `['usage']`."""

    value: str | int | None
    """None where it is computed."""
    before: int
    """The offset of its dot or bracket, and"""
    offset: int
    """its own."""
    dotted: bool = False
    """It is written behind a dot."""

    @property
    def name(self) -> str | None:
        """The key that is written out."""
        return self.value if isinstance(self.value, str) else None


class Path(NamedTuple):
    """A name with what is taken of it."""

    name: str
    offset: int
    keys: tuple[Key, ...]

    @property
    def end(self) -> int:
        """The offset of its last part, which Jinja gives the whole."""
        return self.keys[-1].before if self.keys else self.offset


def after(offset: int, gap: re.Pattern[str], text: str) -> int:
    """The offset behind what `gap` matches at an offset of the text; both count from 1."""
    found = gap.match(text, offset - 1)
    return found.end() + 1 if found else offset


def taken_apart(node: nodes.Node | None, text: str = "") -> tuple[nodes.Node | None, list[Key]]:
    """What a path begins with, and its keys; their own offsets are those in `text`."""
    keys: list[Key] = []
    while isinstance(node, (nodes.Getattr, nodes.Getitem)):
        if isinstance(node, nodes.Getattr):
            keys.append(Key(node.attr, node.lineno, after(node.lineno, _GAP, text), dotted=True))
        else:
            value = node.arg.value if isinstance(node.arg, nodes.Const) else None
            known = type(value) in {str, int}
            keys.append(
                Key(value if known else None, node.lineno, node.arg.lineno if type(value) is str else node.lineno)
            )
        node = node.node
    return node, keys[::-1]


def lookup_at(node: nodes.Node, names: Names) -> Lookup | None:
    """The path that a node is, if it begins with a step, an input or a local name."""
    root, keys = taken_apart(node)
    return lookup_of(root.name, keys, names) if isinstance(root, nodes.Name) else None


def lookup_of(
    name: str, keys: Sequence[Key], names: Names, *, called: bool = False, certain: bool = True
) -> Lookup | None:
    """The same of a path that was taken apart, and begins with that name."""
    # steps, inputs and items cannot be bound to anything else in a template, so scopes do not matter
    if name in names.steps:
        subject = ("step", name)
    elif name in names.local:
        subject = ("local", name)
    elif name == "inputs" and keys and keys[0].name is not None:
        subject, keys = ("input", keys[0].name), keys[1:]
    else:
        return None
    known: list[tuple[str | int, int]] = []
    for key in keys:
        if key.value is None:
            break
        known.append((key.value, key.before))
    whole = len(known) == len(keys)
    return Lookup(subject=subject, keys=tuple(known), whole=whole, called=called and whole, certain=certain)


def kind_given(node: nodes.Expr, names: Names) -> str | Lookup | None:
    """What an expression gives: a kind such as text, a path that it is, or None where that is not known."""
    if isinstance(node, (nodes.Name, nodes.Getattr, nodes.Getitem)):
        return lookup_at(node, names)
    if isinstance(node, nodes.Const):
        return {str: "text", int: "a number", float: "a number"}.get(type(node.value))
    if isinstance(node, nodes.Filter):
        return _FILTERS.get(node.name)
    sides: list[nodes.Expr] = []
    if isinstance(node, (nodes.And, nodes.Or)):
        sides = [node.left, node.right]
    elif isinstance(node, nodes.CondExpr) and node.expr2 is not None:
        sides = [node.expr1, node.expr2]
    kinds = {kind if isinstance(kind, str) else None for kind in (kind_given(side, names) for side in sides)}
    return kinds.pop() if len(kinds) == 1 else _GIVEN.get(type(node))
