"""One step: its keys, over the defaults, to a checked Step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowllm.spec.compiling import Compiler
from flowllm.spec.functions import python_body
from flowllm.spec.llm import llm_body
from flowllm.spec.model import (
    KINDS,
    LATER_KINDS,
    LATER_STEP_KEYS,
    STEP_SHAPES,
    MessagesShape,
    PromptShape,
    PythonShape,
    ValueShape,
    key_names,
    read_shape,
    unknown_key,
)
from flowllm.spec.nodes import Entry, Mapping, kind_of
from flowllm.spec.problems import Wrong, listing, nearest
from flowllm.spec.project import merged
from flowllm.spec.readers import NAME, is_template
from flowllm.spec.reference import Tolerance
from flowllm.spec.template import RESERVED_IDS
from flowllm.spec.workflow import PythonBody, Step, ValueBody
from flowllm.types import CachePolicy, OnError, Priority, RetryPolicy, StepId, StepKind

if TYPE_CHECKING:
    from collections.abc import Mapping as AbstractMapping

    from flowllm.spec.files import Sources
    from flowllm.spec.model import RetryShape
    from flowllm.spec.nodes import Scalar
    from flowllm.spec.problems import Problems
    from flowllm.spec.reference import Location
    from flowllm.spec.template import Names
    from flowllm.spec.workflow import LlmBody, ProviderSettings

_LLM_KEYS = ("prompt", "messages")
_ALL_KEYS = tuple(dict.fromkeys(key for shape in STEP_SHAPES.values() for key in key_names(shape)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a step is read against."""

    names: Names
    sources: Sources
    problems: Problems
    defaults: Mapping | None
    providers: AbstractMapping[str, ProviderSettings]
    default_provider: str
    simulate: bool
    """Every call goes to `simulated`, whatever the steps say."""
    waits: dict[str, tuple[Location, list[str]]] = field(default_factory=dict)
    """Each step's place and what it waits for, as far as could be read: filled in step by step, for cycles."""


def kind_key(entry: Entry) -> str:
    """The one key that says what a step does. Raises Wrong if there is not exactly one."""
    if not isinstance(entry.value, Mapping):
        raise Wrong(
            entry.value.where, f"a step is a mapping, this is {kind_of(entry.value)}", "write `prompt: …`"
        )
    keys = entry.value.keys()
    found = [key for key in keys if key in KINDS or key in LATER_KINDS]
    if len(found) > 1:
        raise Wrong(
            keys[found[1]], f"a step does one thing, this one has {listing(found)}", "make two steps of it"
        )
    if not found:
        typo = next(
            (key for key in keys if key not in _ALL_KEYS and nearest(key, KINDS).startswith("did")), None
        )
        if typo is not None:
            raise Wrong(keys[typo], f"unknown key `{typo}` in the step `{entry.key}`", nearest(typo, KINDS))
        raise Wrong(
            entry.where, f"the step `{entry.key}` does nothing: it has none of {listing(KINDS)}", "add one"
        )
    if found[0] in LATER_KINDS:
        raise unknown_key(found[0], keys[found[0]], "", [], LATER_STEP_KEYS)
    return found[0]


def check_id(entry: Entry, problems: Problems) -> None:
    """Add a problem if a step cannot have that id."""
    name = entry.key
    if not NAME.fullmatch(name):
        problems.add(
            entry.where, f"`{name}` cannot be the id of a step", "use a-z, 0-9 and _, not a digit first"
        )
    elif name in RESERVED_IDS:
        problems.add(entry.where, f"`{name}` is reserved and cannot be the id of a step", "choose another id")


def parse_step(entry: Entry, around: Surroundings) -> Step | None:
    """A checked step. What is wrong goes to the problems; then the result may be None."""
    check_id(entry, around.problems)
    try:
        kind = kind_key(entry)
        node = _known_keys(entry, kind, around.problems)
        if kind in _LLM_KEYS:
            node = merged(around.defaults, node)
        return _step(entry, kind, node, around)
    except Wrong as wrong:
        around.problems.add_wrong(wrong, step=entry.key)
        return None


def _known_keys(entry: Entry, kind: str, problems: Problems) -> Mapping:
    """The step without the keys that do not belong to its kind; each of those is a problem."""
    known = key_names(STEP_SHAPES[kind])
    kept = []
    for inner in entry.value.entries if isinstance(entry.value, Mapping) else ():
        if inner.key in known:
            kept.append(inner)
        elif inner.key in _ALL_KEYS:
            problems.add(
                inner.where, f"`{inner.key}` does not apply to a `{kind}` step", "remove it", step=entry.key
            )
        else:
            wrong = unknown_key(inner.key, inner.where, f"the step `{entry.key}`", known, LATER_STEP_KEYS)
            problems.add_wrong(wrong, step=entry.key)
    return Mapping(where=entry.where, entries=tuple(kept))


def _step(entry: Entry, kind: str, node: Mapping, around: Surroundings) -> Step | None:
    shape = read_shape(STEP_SHAPES[kind], node, f"the step `{entry.key}`", around.problems, step=entry.key)
    if shape is None:
        _compile_all(entry, node, around)
        return None
    compiler = Compiler(names=around.names, sources=around.sources, problems=around.problems, step=entry.key)
    when = None if shape.when is None else compiler.text(shape.when, condition=True)
    body: LlmBody | PythonBody | ValueBody | None
    if isinstance(shape, PromptShape | MessagesShape):
        body = llm_body(shape, entry.where, compiler, around)
    elif isinstance(shape, PythonShape):
        body = _python(shape, node, compiler)
    else:
        body = ValueBody(value=compiler.value(shape.value)) if isinstance(shape, ValueShape) else None
    edges = _edges(entry.key, shape.needs, compiler)
    around.waits[entry.key] = (entry.where, [str(step) for step in edges])
    if body is None:
        return None
    step_kind = StepKind.PROMPT if kind in _LLM_KEYS else StepKind(kind)
    default_cache = CachePolicy(enabled=step_kind is StepKind.PROMPT)
    return Step(
        id=StepId(entry.key),
        kind=step_kind,
        body=body,
        where=entry.where,
        edges=edges,
        when=when,
        retry=_retry(shape.retry, step_kind),
        timeout=1800.0 if shape.timeout is None else shape.timeout,
        cache=shape.cache or default_cache,
        priority=shape.priority or Priority.NORMAL,
        on_error=shape.on_error or OnError.FAIL,
    )


def _compile_all(entry: Entry, node: Mapping, around: Surroundings) -> None:
    """Look for problems in the templates of a step that has other problems already."""
    compiler = Compiler(names=around.names, sources=around.sources, problems=around.problems, step=entry.key)
    for inner in node.entries:
        if inner.key in {"prompt", "system", "messages", "value", "with"}:
            compiler.value(inner.value, secrets=inner.key == "with")
    around.waits[entry.key] = (entry.where, [str(step) for step in compiler.edges()])


def _python(shape: PythonShape, node: Mapping, compiler: Compiler) -> PythonBody | None:
    arguments = None if shape.with_ is None else compiler.value(shape.with_, secrets=True)
    target = node.get("python")
    where = node.where if target is None else target.where
    if is_template(shape.python):
        raise Wrong(where, "the name of a function cannot be a template", "write module:function")
    return python_body(shape.python, where, arguments, compiler.sources)


def _edges(step: str, needs: tuple[Scalar, ...], compiler: Compiler) -> dict[StepId, Tolerance]:
    """What the step waits for: its templates' references, and `needs` where none shows that edge."""
    problems = compiler.problems
    for reference in compiler.references:
        if reference.step == step:
            problems.add(reference.where, f"the step `{step}` refers to its own output", step=step)
    edges = compiler.edges()
    edges.pop(StepId(step), None)
    for need in needs:
        if need.text == step:
            problems.add(need.where, f"the step `{step}` needs itself", "remove it", step=step)
        elif need.text not in compiler.names.steps:
            problems.add(
                need.where,
                f"there is no step `{need.text}`",
                nearest(need.text, compiler.names.steps),
                step=step,
            )
        else:
            edges.setdefault(StepId(need.text), Tolerance.REQUIRED)
    return edges


def _retry(shape: RetryShape | None, kind: StepKind) -> RetryPolicy:
    """Requests are tried again unless told otherwise; the author's own functions only when told so."""
    if shape is None:
        return RetryPolicy() if kind is StepKind.PROMPT else RetryPolicy(max_attempts=1)
    return RetryPolicy(**{**dict(shape), "jitter": shape.jitter == "full"})
