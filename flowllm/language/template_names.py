"""The names in a template: which exist, which steps they refer to, what each reference tolerates, and what is taken of the
values that they name, as far as the text shows it.

One walk over Jinja's syntax tree in the order of the text with Jinja's scopes: `for`, `with`, macros, `call` and `filter`
blocks have their own, `if` has none, and `set` makes a name known from there on.
"""

from __future__ import annotations

import math
import re
from collections import ChainMap
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from jinja2 import nodes
from jinja2.visitor import NodeVisitor

from flowllm.core.records import dataclass, replace
from flowllm.core.types import Part, StepId, Tolerance
from flowllm.language.problems import Location, listing, nearest
from flowllm.language.sandbox import DEFAULT_FILTERS, DEFINED_TESTS, SANDBOX
from flowllm.language.sandbox_filters import FUNCTIONS, WITHOUT
from flowllm.language.sandbox_methods import MAPPING_METHODS
from flowllm.language.template_errors import TemplateProblem, TemplateSyntaxProblem
from flowllm.language.template_paths import (
    OUTPUT_WORDS,
    RECORD_FIELDS,
    RUN_FIELDS,
    Key,
    Lookup,
    Names,
    Path,
    Reference,
    Subject,
    after,
    kind_given,
    lookup_at,
    lookup_of,
    taken_apart,
)

_TOLERANT_FIELDS: Final = frozenset({"status", "error"})
_ELSEWHERE: Final = {
    "item": "`item` is only known in a step that has `foreach`",
    "index": "`index` is only known in a step that has `foreach`",
    "row": "`row` is only known where `as: row` names the item so; with --over each column is an input: `inputs.x`",
    "output": "`output` is only known in `accept.when` and `save`; another step's output has that step's name",
    "accepted": "`accepted` is only known in `accept.when`",
    "outputs": "`outputs` is only known in `keep`; write the step's name",
}
"""Names that mean something in other places."""
_OUTPUTS: Final = "outputs"
_ROOTS: Final = ("inputs", "steps", "run", "secrets")
_TAGS: Final = {"fromimport": "from", "scopedevalcontextmodifier": "autoescape"}
_TEST_NAMED_AT: Final = {"select": 0, "reject": 0, "selectattr": 1, "rejectattr": 1}
_IS = re.compile(r"is\s+(?:not\s+)?")
_MACRO = re.compile(r"macro\s+")
_MANY_STEPS = 12
_ALONE: Final = {part: frozenset({part}) for part in Part}


@dataclass(frozen=True, slots=True, kw_only=True)
class Uses:
    """What a template refers to."""

    references: tuple[Reference, ...] = ()
    """One a step: the strictest of what the template says of it, at the first place that names it."""
    names: frozenset[str] = frozenset()
    """What else it names: inputs, run, steps, secrets, an item and what belongs to it."""
    lookups: tuple[Lookup, ...] = ()
    """What it takes of steps' outputs, inputs and items, without what it makes conditions about or has a default for."""
    bare: StepId | None = None
    """The step, if the template is exactly `{{ step }}`."""
    gives: str | Lookup | None = None
    """Of one expression: what it gives, in words, or the path that it is; None where that is not known."""


NO_USES: Final = Uses()


def uses_of(
    tree: nodes.Template,
    text: str,
    names: Names,
    *,
    single: nodes.Expr | None,
    allow_secrets: bool,
    locate: Callable[[int], Location],
) -> Uses:
    """What a template refers to. `single`: the one expression that it is; `locate`: the location of an offset in `text`.

    Raises TemplateSyntaxProblem with all problems of its names.
    """
    walk = _Walk(text, names, allow_secrets=allow_secrets)
    walk.template(tree)
    bare = StepId(single.name) if isinstance(single, nodes.Name) and single.name in names.steps else None
    return _found(walk, locate, bare, None if single is None else kind_given(single, names))


def uses_of_paths(
    paths: Sequence[Path], names: Names, *, single: bool, allow_secrets: bool, locate: Callable[[int], Location]
) -> Uses:
    """The same of a text that only names things. `single`: the one path is all of it."""
    walk = _Walk("", names, allow_secrets=allow_secrets)
    for path in paths:
        walk.path(path, _OUTERMOST)
    if not single:
        return _found(walk, locate)
    (path,) = paths
    bare = StepId(path.name) if not path.keys and path.name in names.steps else None
    return _found(walk, locate, bare, walk.lookups[0] if walk.lookups else None)


def _found(
    walk: _Walk, locate: Callable[[int], Location], bare: StepId | None = None, gives: str | Lookup | None = None
) -> Uses:
    if walk.problems:
        raise TemplateSyntaxProblem(*sorted(walk.problems, key=lambda problem: problem.offset))
    lookups = walk.lookups
    if walk.lenient:
        lookups = [lookup for lookup in lookups if lookup.subject not in walk.lenient]
    references, used = tuple(walk.references(locate)), frozenset(walk.used) if walk.used else NO_USES.names
    return Uses(references=references, names=used, lookups=tuple(lookups), bare=bare, gives=gives)


class _Mention(NamedTuple):
    step: str
    offset: int
    tolerance: Tolerance | None = None
    """None: a plain reference to its output, or to what only an output has."""
    part: Part = Part.OUTPUT


@dataclass(frozen=True, slots=True)
class _Scope:
    """What surrounds a node of the tree."""

    bound: ChainMap[str, None]
    """Names that the template itself binds, here and further out."""
    asked: frozenset[Subject] = frozenset()
    """What conditions around it look at."""
    certain: bool = True

    def inner(self, *bound: str, certain: bool = True) -> _Scope:
        """A scope within this one."""
        return _Scope(self.bound.new_child(dict.fromkeys(bound)), self.asked, self.certain and certain)


_OUTERMOST: Final = _Scope(ChainMap())


class _Walk(NodeVisitor):
    """One walk through one template."""

    def __init__(self, text: str, names: Names, *, allow_secrets: bool) -> None:
        self._text = text
        self._names = names
        self._allow_secrets = allow_secrets
        self._mentions: list[_Mention] = []
        self._forgiven: set[str] = set()
        self._later: list[tuple[Sequence[nodes.Node], _Scope]] = []
        self.problems: list[TemplateProblem] = []
        self.used: set[str] = set()
        self.lookups: list[Lookup] = []
        self.lenient: set[Subject] = set()
        """What has a default, or is asked whether it is there."""

    def template(self, tree: nodes.Template) -> None:
        """The whole template, the bodies of its macros last."""
        if all(type(statement) is nodes.Output for statement in tree.body):  # most are: nothing is bound in them
            for output in tree.body:
                for node in output.nodes:  # type: ignore[attr-defined]
                    if type(node) is not nodes.TemplateData:
                        self.visit(node, _OUTERMOST)
            return
        self._later.append((tree.body, _Scope(ChainMap())))
        while self._later:
            self._all(*self._later.pop())

    def references(self, locate: Callable[[int], Location]) -> Iterable[Reference]:
        """One a step: the strictest of what is said of it, where the first mention stands, and all parts."""
        found: dict[str, Reference] = {}
        for mention in sorted(self._mentions, key=lambda mention: mention.offset):
            tolerance = mention.tolerance
            if tolerance is not Tolerance.ANY:
                tolerance = Tolerance.OPTIONAL if mention.step in self._forgiven else Tolerance.REQUIRED
            first = found.get(mention.step)
            parts = _ALONE[mention.part]
            found[mention.step] = (
                Reference(step=StepId(mention.step), tolerance=tolerance, where=locate(mention.offset), parts=parts)
                if first is None
                else replace(first, tolerance=min(first.tolerance, tolerance), parts=first.parts | parts)
            )
        return found.values()

    def _problem(self, offset: int, message: str, hint: str = "") -> None:
        self.problems.append(TemplateProblem(offset=offset, message=message, hint=hint))

    # --- statements -----------------------------------------------------------------------------------

    def _all(self, found: Iterable[nodes.Node | None], scope: _Scope) -> None:
        for node in found:
            if node is not None:
                self.visit(node, scope)

    def _refuse(self, node: nodes.Node, _scope: _Scope) -> None:
        tag = type(node).__name__.lower()
        self._problem(node.lineno, f"`{_TAGS.get(tag, tag)}` cannot be used in a template")

    visit_Include = visit_Import = visit_FromImport = visit_Extends = visit_Block = _refuse
    visit_ScopedEvalContextModifier = _refuse

    def visit_If(self, node: nodes.If, scope: _Scope) -> None:
        self._branches(node.test, [*node.body, *node.elif_, *node.else_], scope)

    def visit_With(self, node: nodes.With, scope: _Scope) -> None:
        self._all(node.values, scope)
        inner = scope.inner()
        self._bind_all(node.targets, inner)
        self._all(node.body, inner)

    def visit_FilterBlock(self, node: nodes.FilterBlock, scope: _Scope) -> None:
        self.visit(node.filter, scope)
        self._all(node.body, scope.inner())

    def visit_Assign(self, node: nodes.Assign, scope: _Scope) -> None:
        self.visit(node.node, scope)
        self._bind_all([node.target], scope)

    def visit_AssignBlock(self, node: nodes.AssignBlock, scope: _Scope) -> None:
        self._all(node.body, scope.inner())
        self._all([node.filter], scope)
        self._bind_all([node.target], scope)

    def visit_Macro(self, node: nodes.Macro, scope: _Scope) -> None:
        self._bind(node.name, after(node.lineno, _MACRO, self._text), scope)
        inner = self._parameters(node, scope)
        self._later.append((node.body, inner))  # it runs when it is called: it sees what is set after it

    def visit_CallBlock(self, node: nodes.CallBlock, scope: _Scope) -> None:
        self.visit(node.call, replace(scope, certain=False))
        self._all(node.body, self._parameters(node, scope))

    def _parameters(self, node: nodes.Macro | nodes.CallBlock, scope: _Scope) -> _Scope:
        inner = scope.inner("varargs", "kwargs", "caller", certain=False)
        self._bind_all(node.args, inner)
        self._all(node.defaults, inner)
        return inner

    def visit_For(self, node: nodes.For, scope: _Scope) -> None:
        self.visit(node.iter, scope)
        inner = scope.inner("loop", certain=False)
        self._bind_all([node.target], inner)
        self._all([node.test, *node.body], inner)
        self._all(node.else_, scope.inner(certain=False))

    def _bind_all(self, targets: Sequence[nodes.Node], scope: _Scope) -> None:
        for target in targets:
            if isinstance(target, nodes.Name):
                self._bind(target.name, target.lineno, scope)
            elif isinstance(target, nodes.NSRef):
                self._name(target.name, target.lineno, scope)
            else:
                self._bind_all(list(target.iter_child_nodes()), scope)

    def _bind(self, name: str, offset: int, scope: _Scope) -> None:
        if name in self._names.steps:
            self._problem(offset, f"`{name}` is the id of a step and cannot be used for anything else")
        elif name in _ROOTS or name in {"loop", "self"} or name in self._names.local:
            self._problem(offset, f"`{name}` has a meaning of its own and cannot be used for anything else")
        scope.bound[name] = None

    # --- expressions ----------------------------------------------------------------------------------

    def visit_CondExpr(self, node: nodes.CondExpr, scope: _Scope) -> None:
        self._branches(node.test, [node.expr1, node.expr2], scope)

    def visit_And(self, node: nodes.And | nodes.Or, scope: _Scope) -> None:
        self._branches(node.left, [node.right], scope)

    visit_Or = visit_And

    def _branches(self, test: nodes.Node, branches: Sequence[nodes.Node | None], scope: _Scope) -> None:
        self.visit(test, scope)
        self._all(branches, replace(scope, asked=scope.asked | self._subjects(test), certain=False))

    def visit_Call(self, node: nodes.Call, scope: _Scope) -> None:
        if isinstance(node.node, (nodes.Getattr, nodes.Getitem)):
            self._path(node.node, scope, called=True)
        else:
            self.visit(node.node, scope)
        self._all((child for child in node.iter_child_nodes() if child is not node.node), scope)

    def visit_Const(self, node: nodes.Const, _scope: _Scope) -> None:
        if node.value in {math.inf, -math.inf}:
            self._problem(node.lineno, "the number is too large")

    def visit_Filter(self, node: nodes.Filter, scope: _Scope) -> None:
        self._check_filter(node.name, node.lineno)
        if node.name in DEFAULT_FILTERS:
            self._forgive(node, [node.node, *node.args, *(keyword.value for keyword in node.kwargs)])
        if node.name == "map":
            self._check_named(node.args, 0, self._check_filter)
        elif node.name in _TEST_NAMED_AT:
            self._check_named(node.args, _TEST_NAMED_AT[node.name], self._check_test)
        self.generic_visit(node, scope)

    def visit_Test(self, node: nodes.Test, scope: _Scope) -> None:
        self._check_test(node.name, after(node.lineno, _IS, self._text))
        if node.name in DEFINED_TESTS:
            self._forgive(node, [node.node])
        self.generic_visit(node, scope)

    def _forgive(self, node: nodes.Node, sides: Sequence[nodes.Node | None]) -> None:
        self.lenient |= self._subjects(node)
        for side in sides:
            root, keys = taken_apart(side)
            if isinstance(root, nodes.Name):  # `x.a.b` and `steps.x.cost_usd` are of x
                self._forgiven.add((keys[0].name or "") if root.name == "steps" and keys else root.name)

    def _check_filter(self, name: str, offset: int) -> None:
        if name not in SANDBOX.filters:
            without = name in WITHOUT
            message = f"the filter `{name}` cannot be used in a template" if without else f"unknown filter `{name}`"
            self._problem(offset, message, WITHOUT[name] if without else nearest(name, SANDBOX.filters))

    def _check_test(self, name: str, offset: int) -> None:
        if name not in SANDBOX.tests:
            self._problem(offset, f"unknown test `{name}`", nearest(name, SANDBOX.tests))

    def _check_named(self, args: Sequence[nodes.Node], at: int, check: Callable[[str, int], None]) -> None:
        named = args[at] if at < len(args) else None
        if isinstance(named, nodes.Const) and isinstance(named.value, str):
            check(named.value, named.lineno)

    # --- paths ----------------------------------------------------------------------------------------

    def _path(self, node: nodes.Expr, scope: _Scope, *, called: bool = False) -> None:
        root, keys = taken_apart(node, self._text)
        while isinstance(node, (nodes.Getattr, nodes.Getitem)):
            if isinstance(node, nodes.Getitem):
                self.visit(node.arg, scope)
            node = node.node
        if not isinstance(root, nodes.Name):
            self.visit(node, scope)
            return
        self.path(Path(root.name, root.lineno, tuple(keys)), scope, called=called)

    visit_Name = visit_Getattr = visit_Getitem = _path

    def path(self, path: Path, scope: _Scope, *, called: bool = False) -> None:
        """A path that begins with a name; its keys that are computed are looked at by themselves."""
        name, offset, keys = path
        lookup = lookup_of(name, keys, self._names, called=called, certain=scope.certain)
        if lookup is not None and lookup.subject not in scope.asked:
            self.lookups.append(lookup)
        if name in _ROOTS:
            self.used.add(name)
            getattr(self, f"_{name}")(keys, offset, called=called)
        elif name == _OUTPUTS and self._names.outputs is not None and _OUTPUTS not in self._names.steps:
            self.used.add(name)
            self._check_key(keys, 0, self._names.outputs, "output", "", called=called)
        else:
            self._name(name, offset, scope)

    def _subjects(self, node: nodes.Node) -> set[Subject]:
        """What is looked at within a node."""
        paths = node.find_all((nodes.Name, nodes.Getattr, nodes.Getitem))
        return {lookup.subject for path in paths if (lookup := lookup_at(path, self._names)) is not None}

    def _check_key(
        self, keys: Sequence[Key], at: int, known: Iterable[str], what: str, owner: str, *, called: bool
    ) -> None:
        """That key of the path, if it is written out, is one of those that are known, or a method's that is called."""
        key = keys[at].name if at < len(keys) else None
        if key is None or key in known or (called and at == len(keys) - 1 and key in MAPPING_METHODS):
            return
        hint = nearest(key, known) or ("" if known else f"there is no {what} at all")
        if owner.startswith(" of `steps.") and key in OUTPUT_WORDS and owner.count(".") == 1:
            hint = f"the output of a step goes by its id: {{{{ {owner[11:-1]} }}}}"
        self._problem(keys[at].offset, f"unknown {what} `{key}`{owner}", hint)

    def _inputs(self, keys: Sequence[Key], _offset: int, *, called: bool) -> None:
        self._check_key(keys, 0, self._names.inputs, "input", "", called=called)

    def _run(self, keys: Sequence[Key], _offset: int, *, called: bool) -> None:
        self._check_key(keys, 0, RUN_FIELDS, "field", " of `run`", called=called)

    def _secrets(self, keys: Sequence[Key], offset: int, *, called: bool) -> None:  # noqa: ARG002 - as of the others
        """`secrets.NAME`: allowed here, named, and listed by the workflow."""
        name = keys[0].name if keys else None
        if not self._allow_secrets:
            self._problem(
                offset,
                "secrets cannot be used here",
                "only `with` of a python step, `url`, `query` and `headers` of `http`, and `env` may use `{{ secrets.NAME }}`",
            )
        elif name is None:
            self._problem(offset, "a secret must be named", "write `secrets.NAME`")
        elif name not in self._names.secrets:
            hint = nearest(name, self._names.secrets) or "list it under `secrets` of the workflow"
            self._problem(keys[0].offset, f"unknown secret `{name}`", hint)

    def _steps(self, keys: Sequence[Key], offset: int, *, called: bool) -> None:
        """`steps.x.…`: a step that exists, a field that its record has; mentions the step."""
        step = keys[0].name if keys else None
        if step is None:
            self._problem(offset, "`steps` cannot be used as a whole", "name the step: `steps.x.status`")
            return
        if step not in self._names.steps:
            self._problem(keys[0].offset, f"unknown step `{step}`", nearest(step, self._names.steps))
            return
        name = keys[1].name if len(keys) > 1 else None
        self._check_key(keys, 1, RECORD_FIELDS, "field", f" of `steps.{step}`", called=called)
        below = RECORD_FIELDS.get(name or "")
        if below:
            self._check_key(keys, 2, below, "field", f" of `steps.{step}.{name}`", called=called)
        whole = name not in RECORD_FIELDS  # the record as a whole tells how it ended, and has the rows in it
        tolerance = Tolerance.ANY if whole or name in _TOLERANT_FIELDS else None
        parts = (Part.RECORD, Part.ROWS) if whole else (Part.ROWS if name == "rows" else Part.RECORD,)
        self._mentions += [_Mention(step, offset, tolerance, part) for part in parts]

    def _name(self, name: str, offset: int, scope: _Scope) -> None:
        if (scope is not _OUTERMOST and name in scope.bound) or name in FUNCTIONS:
            return
        if name in self._names.local:
            self.used.add(name)
        elif name in self._names.steps:
            self._mentions.append(_Mention(name, offset))
        else:
            self._problem(offset, f"unknown name `{name}`", self._hint(name, scope))

    def _hint(self, name: str, scope: _Scope) -> str:
        known = self._names
        if name == "item" and "index" in known.local:
            return f"`as` calls it {listing(sorted(known.local - {'index', 'output', 'accepted'}))} here"
        if name in _ELSEWHERE:
            return _ELSEWHERE[name]
        if name in known.inputs:
            return f"write `inputs.{name}`"
        if name in known.secrets:
            return f"write `secrets.{name}`"
        if name == "loop":
            return "`loop` is only known within a `for` block"
        steps = sorted(known.steps)
        near = nearest(name, [*sorted(known.local), *steps, *set(scope.bound), *_ROOTS, *FUNCTIONS])
        return near or (f"there are the steps {listing(steps)}" if 0 < len(steps) <= _MANY_STEPS else "")
