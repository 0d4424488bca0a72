"""The paths in a template: what can be named besides local names (`inputs.x`, `run.x`, `secrets.X`, `steps.x.…`), and what
a template takes of the values that it names, as far as its text shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from jinja2 import nodes

from flowllm.language.problems import nearest
from flowllm.language.reference import Part, Tolerance
from flowllm.language.sandbox import DEFAULT_FILTERS, DEFINED_TESTS
from flowllm.language.sandbox_methods import MAPPING_METHODS
from flowllm.language.template_errors import Fault

Key: TypeAlias = "tuple[str | None, int]"
"""One part of a path such as `.usage` or `['usage']`, and its offset; None where it is computed."""

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
TOLERANT_FIELDS: Final = frozenset({"status", "error"})


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
class Mention:
    """A step that a template names at an offset; `tolerance` None is a plain reference to its output."""

    step: str
    offset: int
    tolerance: Tolerance | None = None
    part: Part = Part.OUTPUT


class Paths:
    """Checks the paths of one template; gathers the faults found and the steps mentioned."""

    def __init__(self, names: Names, *, allow_secrets: bool) -> None:
        self._names = names
        self._allow_secrets = allow_secrets
        self.mentions: list[Mention] = []
        self.faults: list[Fault] = []

    def fault(self, offset: int, message: str, hint: str = "") -> None:
        """Add a fault."""
        self.faults.append(Fault(offset=offset, message=message, hint=hint))

    def check(self, root: str, keys: Sequence[Key], offset: int, *, called: bool) -> None:
        """A path from one of ROOTS; `called`: the last of its keys is followed by `(…)`."""
        if root == "inputs":
            self.keys(keys[:1], self._names.inputs, "input", "", called=called and not keys[1:])
        elif root == "run":
            self.keys(keys[:1], RUN_FIELDS, "field", " of `run`", called=called and not keys[1:])
        elif root == "secrets":
            self.secret(keys, offset)
        else:
            self.record(keys, offset, called=called)

    def keys(self, keys: Sequence[Key], known: Iterable[str], what: str, owner: str, *, called: bool) -> None:
        """The key, if it is written out, is one of those that are known, or a method's that is called."""
        for key, offset in keys:
            if key is None or key in known or (called and key in MAPPING_METHODS):
                continue
            hint = nearest(key, known) or ("" if known else f"there is no {what} at all")
            if owner.startswith(" of `steps.") and key in OUTPUT_WORDS and owner.count(".") == 1:
                hint = f"the output of a step goes by its id: {{{{ {owner[11:-1]} }}}}"
            self.fault(offset, f"unknown {what} `{key}`{owner}", hint)

    def secret(self, keys: Sequence[Key], offset: int) -> None:
        """`secrets.NAME`: allowed here, named, and listed by the workflow."""
        if not self._allow_secrets:
            self.fault(
                offset,
                "secrets cannot be used here",
                "only `with` of a python step, `url`, `query` and `headers` of `http`, and `env` may use `{{ secrets.NAME }}`",
            )
        elif not keys or keys[0][0] is None:
            self.fault(offset, "a secret must be named", "write `secrets.NAME`")
        elif keys[0][0] not in self._names.secrets:
            known = nearest(str(keys[0][0]), self._names.secrets)
            self.fault(keys[0][1], f"unknown secret `{keys[0][0]}`", known or "list it under `secrets` of the workflow")

    def record(self, keys: Sequence[Key], offset: int, *, called: bool) -> None:
        """`steps.x.…`: a step that exists, a field that its record has; mentions the step."""
        if not keys or keys[0][0] is None:
            self.fault(offset, "`steps` cannot be used as a whole", "name the step: `steps.x.status`")
            return
        step, place = keys[0]
        if step is None or step not in self._names.steps:
            self.fault(place, f"unknown step `{step}`", nearest(str(step), self._names.steps))
            return
        name = keys[1][0] if len(keys) > 1 else None
        owner = f" of `steps.{step}`"
        self.keys(keys[1:2], RECORD_FIELDS, "field", owner, called=called and not keys[2:])
        below = RECORD_FIELDS.get(name or "")
        if below:
            owner = f" of `steps.{step}.{name}`"
            self.keys(keys[2:3], below, "field", owner, called=called and not keys[3:])
        tolerant = name in TOLERANT_FIELDS or name not in RECORD_FIELDS  # the record as a whole tells how it ended
        tolerance = Tolerance.ANY if tolerant else None
        for part in _parts(name):
            self.mentions.append(Mention(step=step, offset=offset, tolerance=tolerance, part=part))


def _parts(field: str | None) -> tuple[Part, ...]:
    """What of a step is looked at by a field of its record; the whole record has the rows in it."""
    if field == "rows":
        return (Part.ROWS,)
    return (Part.RECORD,) if field in RECORD_FIELDS else (Part.RECORD, Part.ROWS)


# what a template takes of values


Subject: TypeAlias = "tuple[str, str]"
"""step, input or local, and its name."""

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


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the walk is."""

    asked: frozenset[Subject] = frozenset()
    """What conditions around it look at."""
    certain: bool = True


def lookups_of(tree: nodes.Node, names: Names) -> tuple[Lookup, ...]:
    """What a template takes; without what it makes conditions about, and what it has a default for."""
    walk = _Walk(names)
    walk.visit(tree, _Place())
    return tuple(lookup for lookup in walk.lookups if lookup.subject not in walk.lenient)


def kind_given(node: nodes.Expr, names: Names) -> str | Lookup | None:
    """What an expression gives: a kind such as text, a path that it is, or None where that is not known."""
    if isinstance(node, (nodes.Name, nodes.Getattr, nodes.Getitem)):
        return _lookup(node, names, called=False, certain=True)
    if isinstance(node, nodes.Const):
        return {str: "text", int: "a number", float: "a number"}.get(type(node.value))
    if isinstance(node, nodes.Filter):
        return _FILTERS.get(node.name)
    if type(node) in _GIVEN:
        return _GIVEN[type(node)]
    sides: list[str | Lookup | None] = []
    if isinstance(node, (nodes.And, nodes.Or)):
        sides = [kind_given(node.left, names), kind_given(node.right, names)]
    elif isinstance(node, nodes.CondExpr) and node.expr2 is not None:
        sides = [kind_given(node.expr1, names), kind_given(node.expr2, names)]
    kinds = [side for side in sides if isinstance(side, str)]
    return kinds[0] if kinds and len(set(kinds)) == 1 and len(kinds) == len(sides) else None


class _Walk:
    """One walk. Steps, inputs and items cannot be bound to anything else in a template, so scopes do not matter."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.lookups: list[Lookup] = []
        self.lenient: set[Subject] = set()

    def visit(self, node: nodes.Node, place: _Place) -> None:
        """Lookup at a node and all within it."""
        match node:
            case nodes.Name() | nodes.Getattr() | nodes.Getitem():
                self._path(node, place)
            case nodes.Call(node=nodes.Getattr() | nodes.Getitem()):
                self._path(node.node, place, called=True)
                self._all([child for child in node.iter_child_nodes() if child is not node.node], place)
            case nodes.CondExpr():
                self._branches(node.test, [one for one in (node.expr1, node.expr2) if one is not None], place)
            case nodes.If():
                self._branches(node.test, [*node.body, *node.elif_, *node.else_], place)
            case nodes.And() | nodes.Or():
                self._branches(node.left, [node.right], place)
            case nodes.For():
                self.visit(node.iter, place)
                tests = [] if node.test is None else [node.test]
                self._all([*tests, *node.body, *node.else_], _Place(place.asked, certain=False))
            case nodes.Macro() | nodes.CallBlock():
                self._all(list(node.iter_child_nodes()), _Place(place.asked, certain=False))
            case _:
                if _forgives(node):
                    self.lenient |= {lookup.subject for lookup in self._within(node)}
                self._all(list(node.iter_child_nodes()), place)

    def _all(self, found: list[nodes.Node], place: _Place) -> None:
        for node in found:
            self.visit(node, place)

    def _branches(self, test: nodes.Node, branches: list[nodes.Node], place: _Place) -> None:
        self.visit(test, place)
        asked = place.asked | {lookup.subject for lookup in self._within(test)}
        self._all(branches, _Place(asked, certain=False))

    def _within(self, node: nodes.Node) -> Iterator[Lookup]:
        for found in node.find_all((nodes.Name, nodes.Getattr, nodes.Getitem)):
            lookup = _lookup(found, self._names, called=False, certain=True)
            if lookup is not None:
                yield lookup

    def _path(self, node: nodes.Expr, place: _Place, *, called: bool = False) -> None:
        lookup = _lookup(node, self._names, called=called, certain=place.certain)
        if lookup is not None and lookup.subject not in place.asked:
            self.lookups.append(lookup)
        while isinstance(node, (nodes.Getattr, nodes.Getitem)):
            if isinstance(node, nodes.Getitem):
                self.visit(node.arg, place)
            node = node.node
        if not isinstance(node, nodes.Name):
            self.visit(node, place)


def _forgives(node: nodes.Node) -> bool:
    """What stands in it may be missing."""
    if isinstance(node, nodes.Filter):
        return node.name in DEFAULT_FILTERS
    return isinstance(node, nodes.Test) and node.name in DEFINED_TESTS


def _lookup(node: nodes.Node, names: Names, *, called: bool, certain: bool) -> Lookup | None:
    keys: list[tuple[str | int | None, int]] = []
    while isinstance(node, (nodes.Getattr, nodes.Getitem)):
        keys.append(_key(node))
        node = node.node
    keys.reverse()
    if not isinstance(node, nodes.Name):
        return None
    subject: Subject | None = None
    if node.name in names.steps:
        subject = ("step", node.name)
    elif node.name in names.local:
        subject = ("local", node.name)
    elif node.name == "inputs" and keys and isinstance(keys[0][0], str):
        subject, keys = ("input", keys[0][0]), keys[1:]
    if subject is None:
        return None
    known: list[tuple[str | int, int]] = []
    for key, offset in keys:
        if key is None:
            break
        known.append((key, offset))
    whole = len(known) == len(keys)
    return Lookup(subject=subject, keys=tuple(known), whole=whole, called=called and whole, certain=certain)


def _key(node: nodes.Getattr | nodes.Getitem) -> tuple[str | int | None, int]:
    if isinstance(node, nodes.Getattr):
        return node.attr, node.lineno
    value = node.arg.value if isinstance(node.arg, nodes.Const) else None
    return (value if type(value) in (str, int) else None), node.lineno
