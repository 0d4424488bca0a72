"""One step: its keys, over the defaults, to a checked Step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flowllm.core.types import CachePolicy, OnError, Priority, RetryPolicy, StepId, StepKind
from flowllm.language import kinds
from flowllm.language.advice import advise
from flowllm.language.compiling import Compiler
from flowllm.language.foreach import foreach_of, item_names
from flowllm.language.foreign import kind_meant
from flowllm.language.llm import llm_body
from flowllm.language.model import (
    KINDS,
    STEP_SHAPES,
    EmbedShape,
    HttpShape,
    MessagesShape,
    PromptShape,
    PythonShape,
    ShellShape,
    ValueShape,
    WorkflowStepShape,
    key_names,
    read_shape,
    unknown_key,
)
from flowllm.language.nodes import Entry, Mapping, Scalar, constant, kind_of
from flowllm.language.problems import Wrong, listing, nearest
from flowllm.language.project import merged
from flowllm.language.readers import NAME
from flowllm.language.reference import Tolerance
from flowllm.language.template import RESERVED_IDS
from flowllm.language.workflow import Asks, EmbedBody, HttpBody, LlmBody, Step, ValueBody

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Mapping as AbstractMapping

    from flowllm.language.files import Sources
    from flowllm.language.model import RetryShape, Shape
    from flowllm.language.problems import Problems
    from flowllm.language.reference import Location
    from flowllm.language.template import Names, Template
    from flowllm.language.workflow import Body, ProviderSettings, Subgraph

_LLM_KEYS = ("prompt", "messages")
_EMBED_DEFAULTS = ("provider", "retry", "timeout", "cache", "priority", "on_error")
"""Of `defaults`, what holds for embeddings too: the rest is for chats."""
_TEMPLATES = ("prompt", "system", "messages", "images", "value", "with", "embed", "stdin", "env")
_OF_INNER_STEPS = ("retry", "timeout", "cache")
_ALL_KEYS = tuple(dict.fromkeys(key for shape in STEP_SHAPES.values() for key in key_names(shape)))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepScope:
    """What a step is read against."""

    names: Names
    sources: Sources
    problems: Problems
    defaults: Mapping | None
    providers: AbstractMapping[str, ProviderSettings]
    default_provider: str
    simulate: bool
    """Every call goes to `simulated`, whatever the steps say."""
    subgraph: Callable[[Scalar | Mapping, Compiler], Subgraph | None]
    """The graph of a `workflow` step: given what stands under that key, the name of a file or a graph written
    out. What is wrong with it goes to the problems; then the result is None."""
    outermost: bool = True
    """The graph is not that of a step."""
    templates: dict[str, list[Template]] = field(default_factory=dict)
    """Those of each step, filled in step by step."""
    modelless: dict[str, list[tuple[Location, str]]] = field(default_factory=dict)
    """Steps that have no model, by what to do about it: filled in step by step, told once for all."""
    waits: dict[str, tuple[Location, list[str]]] = field(default_factory=dict)
    """Each step's place and what it waits for, as far as could be read: filled in step by step, for cycles."""


def kind_key(entry: Entry) -> str:
    """The one key that says what a step does. Raises Wrong if there is not exactly one."""
    if not isinstance(entry.value, Mapping):
        raise Wrong(entry.value.where, f"a step is a mapping, this is {kind_of(entry.value)}", "write `prompt: …`")
    keys = entry.value.keys()
    found = [key for key in keys if key in KINDS]
    if len(found) > 1:
        raise Wrong(keys[found[1]], f"a step does one thing, this one has {listing(found)}", "make two steps of it")
    if not found:
        for key in keys:
            near = nearest(key, KINDS)
            hint = "" if key in _ALL_KEYS else near if near.startswith("did") else kind_meant(key)
            if hint:
                raise Wrong(keys[key], f"unknown key `{key}` in the step `{entry.key}`", hint)
        raise Wrong(entry.where, f"the step `{entry.key}` does nothing: it has none of {listing(KINDS)}", "add one")
    return found[0]


def check_id(entry: Entry, problems: Problems) -> None:
    """Add a problem if a step cannot have that id."""
    name = entry.key
    if not NAME.fullmatch(name):
        problems.add(entry.where, f"`{name}` cannot be the id of a step", "use a-z, 0-9 and _, not a digit first")
    elif name in RESERVED_IDS:
        problems.add(entry.where, f"`{name}` is reserved and cannot be the id of a step", "choose another id")


def parse_step(entry: Entry, around: StepScope) -> Step | None:
    """A checked step. What is wrong goes to the problems; then the result may be None."""
    check_id(entry, around.problems)
    try:
        kind = kind_key(entry)
        node = _known_keys(entry, kind, around.problems)
        if kind == "embed":
            node = merged(_chosen(around.defaults, _EMBED_DEFAULTS), node)
        elif kind in _LLM_KEYS:
            node = merged(_chosen(around.defaults, tuple(key_names(STEP_SHAPES[kind]))), node)
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
            own = kind == "workflow" and inner.key in _OF_INNER_STEPS
            problems.add(
                inner.where,
                f"`{inner.key}` does not apply to a `{kind}` step",
                "its steps have their own" if own else "remove it",
                step=entry.key,
            )
        else:
            wrong = unknown_key(inner.key, inner.where, f"the step `{entry.key}`", known, "step")
            problems.add_wrong(wrong, step=entry.key)
    return Mapping(where=entry.where, entries=tuple(kept))


def _chosen(defaults: Mapping | None, keys: tuple[str, ...]) -> Mapping | None:
    """Those of the defaults that hold for a kind of step."""
    if defaults is None:
        return None
    return Mapping(where=defaults.where, entries=tuple(one for one in defaults.entries if one.key in keys))


def _step(entry: Entry, kind: str, node: Mapping, around: StepScope) -> Step | None:
    shape = read_shape(STEP_SHAPES[kind], node, f"the step `{entry.key}`", around.problems, step=entry.key)
    if shape is None:
        _compile_all(entry, node, around)
        return None
    outer = Compiler(names=around.names, sources=around.sources, problems=around.problems, step=entry.key)
    around.templates[entry.key] = outer.templates
    before = len(around.problems)
    foreach = foreach_of(shape, node, outer)
    compiler = outer.within(*item_names(shape, outer))
    when = None if shape.when is None else compiler.text(shape.when, condition=True)
    save = None if shape.save is None else compiler.within("output").text(shape.save)
    body = _body(shape, entry, node, compiler, around)
    edges = _edges(entry.key, shape.needs, compiler)
    around.waits[entry.key] = (entry.where, [str(step) for step in edges])
    if body is None or (shape.foreach is not None and foreach is None) or len(around.problems) > before:
        return None
    step_kind = StepKind.PROMPT if kind in _LLM_KEYS else StepKind(kind)
    asks = step_kind in {StepKind.PROMPT, StepKind.EMBED}
    timeout = getattr(shape, "timeout", None)
    step = Step(
        id=StepId(entry.key),
        kind=step_kind,
        body=body,
        where=entry.where,
        edges=edges,
        uses=compiler.uses(),
        when=when,
        retry=_retry(getattr(shape, "retry", None), body),
        timeout=1800.0 if timeout is None else timeout,
        cache=getattr(shape, "cache", None) or CachePolicy(enabled=asks),
        priority=getattr(shape, "priority", None) or Priority.NORMAL,
        on_error=getattr(shape, "on_error", None) or OnError.FAIL,
        foreach=foreach,
        save=save,
    )
    advise(step, around.sources, around.problems, outermost=around.outermost)
    return step


def _body(shape: Shape, entry: Entry, node: Mapping, compiler: Compiler, around: StepScope) -> Body | None:
    body: Body | None
    if isinstance(shape, PromptShape | MessagesShape):
        body = llm_body(shape, entry.where, compiler, around)
    elif isinstance(shape, EmbedShape):
        body = kinds.embedding(shape, entry.where, compiler, around)
    elif isinstance(shape, PythonShape):
        asks = _asks(entry, compiler, around) if shape.asks else None
        body = kinds.python(shape, node, compiler, asks)
    elif isinstance(shape, ShellShape):
        body = kinds.shell(shape, compiler)
    elif isinstance(shape, HttpShape):
        body = kinds.http(shape, compiler)
    elif isinstance(shape, WorkflowStepShape):
        body = kinds.inner_workflow(shape, entry.where, compiler, around)
    else:
        body = ValueBody(value=compiler.value(shape.value)) if isinstance(shape, ValueShape) else None
    return body


def _asks(entry: Entry, compiler: Compiler, around: StepScope) -> Asks | None:
    """The prompt step of the defaults, for the questions of a function. What is wrong goes to the problems."""
    question = Entry(key="prompt", where=entry.where, value=constant("-", entry.where))
    node = merged(
        _chosen(around.defaults, tuple(key_names(PromptShape))), Mapping(where=entry.where, entries=(question,))
    )
    shape = read_shape(PromptShape, node, f"the step `{entry.key}`", around.problems, step=entry.key)
    body = None if shape is None else llm_body(shape, entry.where, compiler, around)
    if shape is None or body is None:
        return None
    given = compiler.within("messages", "sample")
    messages, sample = (given.as_text(constant(f"{{{{ {name} }}}}", entry.where)) for name in ("messages", "sample"))
    return Asks(
        step=Step(
            id=StepId(entry.key),
            kind=StepKind.PROMPT,
            body=replace(body, prompt=None, system=None, messages=messages, sample=sample),
            where=entry.where,
            retry=_retry(shape.retry, body),
            timeout=1800.0 if shape.timeout is None else shape.timeout,
            cache=shape.cache or CachePolicy(),
            priority=shape.priority or Priority.NORMAL,
            on_error=OnError.CONTINUE,
        ),
        system=body.system,
    )


def _compile_all(entry: Entry, node: Mapping, around: StepScope) -> None:
    """Look for problems in the templates of a step that has other problems already."""
    local = ("item", "index") if node.get("foreach") is not None else ()
    name = node.get("as")
    if isinstance(name, Scalar):
        local = (*local, name.text)
    names = replace(around.names, local=around.names.local | set(local))
    compiler = Compiler(names=names, sources=around.sources, problems=around.problems, step=entry.key)
    for inner in node.entries:
        if inner.key in _TEMPLATES:
            compiler.value(inner.value, secrets=inner.key in {"with", "env"})
    around.waits[entry.key] = (entry.where, [str(step) for step in compiler.edges()])


def _edges(step: str, needs: tuple[Scalar, ...], compiler: Compiler) -> dict[StepId, Tolerance]:
    """What the step waits for: its templates' references, and `needs` where none shows that edge."""
    problems = compiler.problems
    for reference in (*compiler.references, *compiler.streamed):
        if reference.step == step:
            problems.add(reference.where, f"the step `{step}` refers to its own output", step=step)
    edges = compiler.edges()
    edges.pop(StepId(step), None)
    for need in needs:
        if need.text == step:
            problems.add(need.where, f"the step `{step}` needs itself", "remove it", step=step)
        elif need.text not in compiler.names.steps:
            problems.add(
                need.where, f"there is no step `{need.text}`", nearest(need.text, compiler.names.steps), step=step
            )
        else:
            edges.setdefault(StepId(need.text), Tolerance.REQUIRED)
    return edges


def _retry(shape: RetryShape | None, body: Body) -> RetryPolicy:
    """Requests that change nothing are tried again unless told otherwise; anything else only when told so."""
    if shape is None:
        harmless = isinstance(body, (LlmBody, EmbedBody)) or (
            isinstance(body, HttpBody) and body.method in {"GET", "HEAD"}
        )
        return RetryPolicy() if harmless else RetryPolicy(max_attempts=1)
    return RetryPolicy(**{**dict(shape), "jitter": shape.jitter == "full"})
