"""One step: its keys, over the defaults, to a checked Step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flowllm.core.types import CachePolicy, OnError, Priority, StepId, StepKind, Tolerance
from flowllm.language.advice import advise
from flowllm.language.compiling import Compiler
from flowllm.language.foreach import foreach_of, item_names
from flowllm.language.foreign import kind_meant
from flowllm.language.keys import read_keys, unknown_key
from flowllm.language.kinds import StepContext, StepKindSpec, StepScope, all_keys, kinds
from flowllm.language.nodes import Entry, Mapping, Scalar, kind_of
from flowllm.language.problems import Problems, SourceError, listing, nearest
from flowllm.language.project import merged
from flowllm.language.step_keys import CommonKeys, FlowKeys, retry_policy
from flowllm.language.template import RESERVED_IDS
from flowllm.language.values import NAME
from flowllm.language.workflow import Body, Step

_WITH_SECRETS = ("with", "env")


def kind_key(entry: Entry) -> str:
    """The one key that says what a step does. Raises SourceError if there is not exactly one."""
    if not isinstance(entry.value, Mapping):
        raise SourceError(
            entry.value.where, f"a step is a mapping, this is {kind_of(entry.value)}", "write `prompt: …`"
        )
    keys, known = entry.value.keys(), kinds()
    found = [key for key in keys if key in known]
    if len(found) > 1:
        raise SourceError(
            keys[found[1]], f"a step does one thing, this one has {listing(found)}", "make two steps of it"
        )
    if not found:
        for key in keys:
            near = nearest(key, known)
            hint = "" if key in all_keys() else near if near.startswith("did") else kind_meant(key)
            if hint:
                raise SourceError(keys[key], f"unknown key `{key}` in the step `{entry.key}`", hint)
        raise SourceError(
            entry.where, f"the step `{entry.key}` does nothing: it has none of {listing(known)}", "add one"
        )
    return found[0]


def parse_step(entry: Entry, scope: StepScope) -> Step | None:
    """A checked step. Adds problems; then the result may be None."""
    if not NAME.fullmatch(entry.key):
        message = f"`{entry.key}` cannot be the id of a step"
        scope.problems.add(entry.where, message, "use a-z, 0-9 and _, not a digit first")
    elif entry.key in RESERVED_IDS:
        message = f"`{entry.key}` is reserved and cannot be the id of a step"
        scope.problems.add(entry.where, message, "choose another id")
    try:
        spec = kinds()[kind_key(entry)]
        node = _known_keys(entry, spec, scope.problems)
        node = merged(scope.inherited.defaults_for(dict.fromkeys(spec.defaults)), node)
        return _step(entry, spec, node, scope)
    except SourceError as error:
        scope.problems.add_error(error, step=entry.key)
        return None


def _known_keys(entry: Entry, spec: StepKindSpec[Any], problems: Problems) -> Mapping:
    """The step without the keys that do not belong to its kind; each of those is a problem."""
    kept = []
    for inner in entry.value.entries if isinstance(entry.value, Mapping) else ():
        if inner.key in spec.keys.table:
            kept.append(inner)
        elif inner.key in all_keys():
            of_graph = spec.kind is StepKind.WORKFLOW and inner.key in CommonKeys.table
            message = f"`{inner.key}` does not apply to a `{spec.key}` step"
            hint = "its steps have their own" if of_graph else "remove it"
            problems.add(inner.where, message, hint, step=entry.key)
        else:
            what = f"the step `{entry.key}`"
            error = unknown_key(inner.key, inner.where, what, spec.keys.table, "step")
            problems.add_error(error, step=entry.key)
    return Mapping(where=entry.where, entries=tuple(kept))


def _step(entry: Entry, spec: StepKindSpec[Any], node: Mapping, scope: StepScope) -> Step | None:
    problems = scope.problems
    keys = read_keys(spec.keys, node, f"the step `{entry.key}`", problems, step=entry.key)
    if keys is None:
        _compile_all(entry, spec, node, scope)
        return None
    assert isinstance(keys, FlowKeys)  # noqa: S101 - every kind of step has these keys
    outer = Compiler(names=scope.names, sources=scope.sources, step=entry.key)
    scope.templates[entry.key] = outer.templates
    before = len(problems)
    foreach = foreach_of(keys, node, outer)
    compiler = outer.within(*item_names(keys, outer))
    when = None if keys.when is None else compiler.text(keys.when, condition=True)
    save = None if keys.save is None else compiler.within("output").text(keys.save)
    context = StepContext(id=entry.key, where=entry.where, node=node, compiler=compiler, scope=scope)
    body: Body | None = None
    try:
        body = spec.build(keys, context)
    except SourceError as error:
        context.add(error)
    edges = _edges(entry.key, keys.needs, compiler)
    scope.waits[entry.key] = (entry.where, [str(step) for step in edges])
    if body is None or (keys.foreach is not None and foreach is None) or len(problems) > before:
        return None
    given = keys.values
    step = Step(
        id=StepId(entry.key),
        kind=spec.kind,
        body=body,
        where=entry.where,
        edges=edges,
        uses=compiler.uses(),
        when=when,
        retry=retry_policy(given.get("retry"), harmless=body.harmless),
        timeout=given.get("timeout") or 1800.0,
        cache=given.get("cache") or CachePolicy(enabled=spec.cached),
        priority=given.get("priority") or Priority.NORMAL,
        on_error=given.get("on_error") or OnError.FAIL,
        foreach=foreach,
        save=save,
    )
    advise(step, scope.sources, outermost=scope.inherited.depth == 0)
    return step


def _compile_all(entry: Entry, spec: StepKindSpec[Any], node: Mapping, scope: StepScope) -> None:
    """Look for problems in the templates of a step that has other problems already."""
    local = ("item", "index") if node.get("foreach") is not None else ()
    name = node.get("as")
    if isinstance(name, Scalar):
        local = (*local, name.text)
    names = replace(scope.names, local=scope.names.local | set(local))
    compiler = Compiler(names=names, sources=scope.sources, step=entry.key)
    for inner in node.entries:
        if inner.key in spec.templates:
            compiler.value(inner.value, secrets=inner.key in _WITH_SECRETS)
    scope.waits[entry.key] = (entry.where, [str(step) for step in compiler.edges()])


def _edges(step: str, needs: tuple[Scalar, ...], compiler: Compiler) -> dict[StepId, Tolerance]:
    """What the step waits for: its templates' references, and `needs` where none shows that edge."""
    problems, steps = compiler.problems, compiler.names.steps
    for reference in (*compiler.references, *compiler.streamed):
        if reference.step == step:
            problems.add(reference.where, f"the step `{step}` refers to its own output", step=step)
    edges = compiler.edges()
    edges.pop(StepId(step), None)
    for need in needs:
        if need.text == step:
            problems.add(need.where, f"the step `{step}` needs itself", "remove it", step=step)
        elif need.text not in steps:
            problems.add(need.where, f"there is no step `{need.text}`", nearest(need.text, steps), step=step)
        else:
            edges.setdefault(StepId(need.text), Tolerance.REQUIRED)
    return edges
