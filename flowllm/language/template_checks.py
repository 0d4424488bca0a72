"""The names in a template: which exist, which steps they refer to, and what each reference tolerates.

It walks Jinja's syntax tree in the order of the text with Jinja's scopes: `for`, `with`, macros, `call` and `filter`
blocks have their own, `if` has none, and `set` makes a name known from there on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from jinja2 import nodes

from flowllm.language.problems import listing, nearest
from flowllm.language.reference import Part, Tolerance
from flowllm.language.sandbox import DEFAULT_FILTERS, DEFINED_TESTS, TEXT
from flowllm.language.sandbox_filters import FUNCTIONS, WITHOUT
from flowllm.language.template_errors import Fault, TemplateSyntaxProblem
from flowllm.language.template_paths import Key, Mention, Names, Paths

ELSEWHERE: Final = {
    "item": "`item` is only known in a step that has `foreach`",
    "index": "`index` is only known in a step that has `foreach`",
    "row": "`row` is only known where `as: row` names the item so; with --over each column is an input: `inputs.x`",
    "output": "`output` is only known in `accept.when` and `save`; another step's output has that step's name",
    "accepted": "`accepted` is only known in `accept.when`",
    "outputs": "`outputs` is only known in `keep`; write the step's name",
}
"""Names that mean something in other places."""
OUTPUTS: Final = "outputs"
ROOTS: Final = ("inputs", "steps", "run", "secrets")
_REFUSED: Final[dict[type[nodes.Node], str]] = {
    nodes.Include: "include",
    nodes.Import: "import",
    nodes.FromImport: "from",
    nodes.Extends: "extends",
    nodes.Block: "block",
    nodes.ScopedEvalContextModifier: "autoescape",
}
_FILTER_NAMED_FIRST: Final = frozenset({"map"})
_TEST_NAMED_AT: Final = {"select": 0, "reject": 0, "selectattr": 1, "rejectattr": 1}
_GAP = re.compile(r"[.\s]*")
_IS = re.compile(r"is\s+(?:not\s+)?")
_MACRO = re.compile(r"macro\s+")


@dataclass(slots=True)
class Scope:
    """Names bound within a template."""

    names: set[str] = field(default_factory=set)
    outer: Scope | None = None

    def knows(self, name: str) -> bool:
        """Whether the name is bound here or further out."""
        return name in self.names or (self.outer is not None and self.outer.knows(name))

    def inner(self, *names: str) -> Scope:
        """A scope within this one."""
        return Scope(set(names), self)

    def all(self) -> set[str]:
        """Every name that is bound here."""
        return self.names | (self.outer.all() if self.outer else set())


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """All that a template says of one step."""

    step: str
    offset: int
    tolerance: Tolerance
    parts: frozenset[Part]


def check_names(
    tree: nodes.Template, source: str, names: Names, *, allow_secrets: bool
) -> tuple[tuple[Settled, ...], frozenset[str]]:
    """The steps that a template names, each once with what its references tolerate together; and the other names.

    Raises TemplateSyntaxProblem with all problems of its names.
    """
    walk = _Walk(source, names, allow_secrets=allow_secrets)
    walk.template(tree)
    if walk.faults:
        raise TemplateSyntaxProblem(*sorted(walk.faults, key=lambda fault: fault.offset))
    return tuple(walk.settled()), frozenset(walk.used)


class _Walk:
    """One walk through one template."""

    def __init__(self, source: str, names: Names, *, allow_secrets: bool) -> None:
        self._source = source
        self._names = names
        self._paths = Paths(names, allow_secrets=allow_secrets)
        self._fault = self._paths.fault
        self._forgiven: set[str] = set()
        self.used: set[str] = set()
        """The names of the roots and of items that it uses."""
        self._later: list[tuple[Sequence[nodes.Node], Scope]] = []

    @property
    def faults(self) -> list[Fault]:
        """The problems so far."""
        return self._paths.faults

    def template(self, tree: nodes.Template) -> None:
        """The whole template, the bodies of its macros last."""
        self.body(tree.body, Scope())
        while self._later:
            statements, scope = self._later.pop()
            self.body(statements, scope)

    def settled(self) -> Iterable[Settled]:
        """One a step: the strictest of its references, where the first of them stands, and all parts."""
        found: dict[str, Settled] = {}
        for mention in sorted(self._paths.mentions, key=lambda mention: mention.offset):
            tolerance = mention.tolerance
            if tolerance is not Tolerance.ANY:
                tolerance = Tolerance.OPTIONAL if mention.step in self._forgiven else Tolerance.REQUIRED
            first = found.get(mention.step)
            parts = frozenset({mention.part})
            if first is not None:
                tolerance = min(first.tolerance, tolerance)
                parts |= first.parts
            offset = mention.offset if first is None else first.offset
            found[mention.step] = Settled(step=mention.step, offset=offset, tolerance=tolerance, parts=parts)
        return found.values()

    # --- statements -----------------------------------------------------------------------------------

    def body(self, statements: Sequence[nodes.Node], scope: Scope) -> None:
        """A run of statements, one after the other."""
        for statement in statements:
            self._statement(statement, scope)

    def _statement(self, node: nodes.Node, scope: Scope) -> None:
        refused = _REFUSED.get(type(node))
        if refused:
            self._fault(node.lineno, f"`{refused}` cannot be used in a template")
            return
        own = getattr(self, f"_{type(node).__name__.lower()}", None) if isinstance(node, nodes.Stmt) else None
        if own is not None:
            own(node, scope)
        elif isinstance(node, nodes.Stmt):
            self.body(list(node.iter_child_nodes()), scope)
        else:
            self._expression(node, scope)

    def _if(self, node: nodes.If, scope: Scope) -> None:
        self._expression(node.test, scope)
        self.body([*node.body, *node.elif_, *node.else_], scope)

    def _with(self, node: nodes.With, scope: Scope) -> None:
        self._expressions(node.values, scope)
        inner = scope.inner()
        self._bind_all(node.targets, inner)
        self.body(node.body, inner)

    def _filterblock(self, node: nodes.FilterBlock, scope: Scope) -> None:
        self._expression(node.filter, scope)
        self.body(node.body, scope.inner())

    def _assign(self, node: nodes.Assign, scope: Scope) -> None:
        self._expression(node.node, scope)
        self._bind_all([node.target], scope)

    def _assignblock(self, node: nodes.AssignBlock, scope: Scope) -> None:
        self.body(node.body, scope.inner())
        self._expressions([node.filter] if node.filter else [], scope)
        self._bind_all([node.target], scope)

    def _macro(self, node: nodes.Macro, scope: Scope) -> None:
        self._bind(node.name, self._after(node.lineno, _MACRO), scope)
        inner = self._parameters(node, scope)
        self._later.append((node.body, inner))  # it runs when it is called: it sees what is set after it

    def _callblock(self, node: nodes.CallBlock, scope: Scope) -> None:
        self._expression(node.call, scope)
        self.body(node.body, self._parameters(node, scope))

    def _parameters(self, node: nodes.Macro | nodes.CallBlock, scope: Scope) -> Scope:
        inner = scope.inner("varargs", "kwargs", "caller")
        self._bind_all(node.args, inner)
        self._expressions(node.defaults, inner)
        return inner

    def _for(self, node: nodes.For, scope: Scope) -> None:
        self._expression(node.iter, scope)
        inner = scope.inner("loop")
        self._bind_all([node.target], inner)
        self._expressions([node.test] if node.test else [], inner)
        self.body(node.body, inner)
        self.body(node.else_, scope.inner())

    def _bind_all(self, targets: Sequence[nodes.Node], scope: Scope) -> None:
        for target in targets:
            if isinstance(target, nodes.Name):
                self._bind(target.name, target.lineno, scope)
            elif isinstance(target, nodes.NSRef):
                self._name(target.name, target.lineno, scope)
            else:
                self._bind_all(list(target.iter_child_nodes()), scope)

    def _bind(self, name: str, offset: int, scope: Scope) -> None:
        if name in self._names.steps:
            self._fault(offset, f"`{name}` is the id of a step and cannot be used for anything else")
        elif name in ROOTS or name in {"loop", "self"} or name in self._names.local:
            self._fault(offset, f"`{name}` has a meaning of its own and cannot be used for anything else")
        scope.names.add(name)

    # --- expressions ----------------------------------------------------------------------------------

    def _expressions(self, expressions: Iterable[nodes.Node], scope: Scope) -> None:
        for expression in expressions:
            self._expression(expression, scope)

    def _expression(self, node: nodes.Node, scope: Scope, *, called: bool = False) -> None:
        if isinstance(node, (nodes.Name, nodes.Getattr, nodes.Getitem)):
            self._path(node, scope, called=called)
            return
        if isinstance(node, nodes.Call):
            self._expression(node.node, scope, called=True)
            self._expressions([child for child in node.iter_child_nodes() if child is not node.node], scope)
            return
        if isinstance(node, nodes.Const) and node.value in {math.inf, -math.inf}:
            self._fault(node.lineno, "the number is too large")
        elif isinstance(node, nodes.Filter):
            self._filter(node)
        elif isinstance(node, nodes.Test):
            self._test(node)
        self._expressions(node.iter_child_nodes(), scope)

    def _filter(self, node: nodes.Filter) -> None:
        self._check_filter(node.name, node.lineno)
        if node.name in DEFAULT_FILTERS:
            sides = [node.node, *node.args, *(keyword.value for keyword in node.kwargs)]
            self._forgiven.update(step for step in map(self._step_of, sides) if step)
        if node.name in _FILTER_NAMED_FIRST:
            self._check_named(node.args, 0, self._check_filter)
        elif node.name in _TEST_NAMED_AT:
            self._check_named(node.args, _TEST_NAMED_AT[node.name], self._check_test)

    def _check_filter(self, name: str, offset: int) -> None:
        if name not in TEXT.filters:
            without = name in WITHOUT
            message = f"the filter `{name}` cannot be used in a template" if without else f"unknown filter `{name}`"
            self._fault(offset, message, WITHOUT[name] if without else nearest(name, TEXT.filters))

    def _test(self, node: nodes.Test) -> None:
        self._check_test(node.name, self._after(node.lineno, _IS))
        if node.name in DEFINED_TESTS:
            step = self._step_of(node.node)
            self._forgiven.update([step] if step else [])

    def _check_test(self, name: str, offset: int) -> None:
        if name not in TEXT.tests:
            self._fault(offset, f"unknown test `{name}`", nearest(name, TEXT.tests))

    def _check_named(self, args: Sequence[nodes.Node], at: int, check: object) -> None:
        named = args[at] if at < len(args) else None
        if isinstance(named, nodes.Const) and isinstance(named.value, str) and callable(check):
            check(named.value, named.lineno)

    def _step_of(self, node: nodes.Node | None) -> str | None:
        """The step of which an expression is a part: `x.a.b` and `steps.x.cost_usd` are of x."""
        if not isinstance(node, (nodes.Name, nodes.Getattr, nodes.Getitem)):
            return None
        root, keys = self._taken_apart(node)
        if not isinstance(root, nodes.Name):
            return None
        name = keys[0][0] if root.name == "steps" and keys else root.name
        return name if name in self._names.steps else None

    # --- paths ----------------------------------------------------------------------------------------

    def _taken_apart(self, node: nodes.Node) -> tuple[nodes.Node, list[Key]]:
        keys: list[Key] = []
        while isinstance(node, (nodes.Getattr, nodes.Getitem)):
            keys.append(self._key_of(node))
            node = node.node
        return node, keys[::-1]

    def _key_of(self, node: nodes.Getattr | nodes.Getitem) -> Key:
        if isinstance(node, nodes.Getattr):
            return node.attr, self._after(node.lineno, _GAP)
        if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            return node.arg.value, node.arg.lineno
        return None, node.lineno

    def _after(self, offset: int, gap: re.Pattern[str]) -> int:
        found = gap.match(self._source, offset - 1)
        return found.end() + 1 if found else offset

    def _path(self, node: nodes.Name | nodes.Getattr | nodes.Getitem, scope: Scope, *, called: bool) -> None:
        part: nodes.Node = node
        while isinstance(part, (nodes.Getattr, nodes.Getitem)):
            if isinstance(part, nodes.Getitem):
                self._expression(part.arg, scope)
            part = part.node
        root, keys = self._taken_apart(node)
        if not isinstance(root, nodes.Name):
            self._expression(root, scope)
        elif root.name in ROOTS:
            self.used.add(root.name)
            self._paths.check(root.name, keys, root.lineno, called=called)
        elif root.name == OUTPUTS and self._names.outputs is not None and OUTPUTS not in self._names.steps:
            self.used.add(root.name)
            self._paths.keys(keys[:1], self._names.outputs, "output", "", called=called and not keys[1:])
        else:
            self._name(root.name, root.lineno, scope)

    def _name(self, name: str, offset: int, scope: Scope) -> None:
        if scope.knows(name) or name in FUNCTIONS:
            return
        if name in self._names.local:
            self.used.add(name)
            return
        if name in self._names.steps:
            self._paths.mentions.append(Mention(step=name, offset=offset))
            return
        self._fault(offset, f"unknown name `{name}`", self._hint(name, scope))

    def _elsewhere(self, name: str) -> str:
        """What a name means that is known in other places; empty for any other."""
        if name == "item" and "index" in self._names.local:
            own = sorted(self._names.local - {"index", "output", "accepted"})
            return f"`as` calls it {listing(own)} here"
        return ELSEWHERE.get(name, "")

    def _hint(self, name: str, scope: Scope) -> str:
        elsewhere = self._elsewhere(name)
        if elsewhere:
            return elsewhere
        if name in self._names.inputs:
            return f"write `inputs.{name}`"
        if name in self._names.secrets:
            return f"write `secrets.{name}`"
        if name == "loop":
            return "`loop` is only known within a `for` block"
        steps = sorted(self._names.steps)
        near = nearest(name, [*sorted(self._names.local), *steps, *scope.all(), *ROOTS, *FUNCTIONS])
        if near:
            return near
        return f"there are the steps {listing(steps)}" if 0 < len(steps) <= 12 else ""  # noqa: PLR2004
