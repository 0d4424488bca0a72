"""What steps of each kind do, but for those that ask a chat model: see llm.py."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

from flowllm.core.types import CachePolicy, OnError, Priority, StepId, StepKind
from flowllm.language.compiling import Compiler
from flowllm.language.functions import python_body
from flowllm.language.keys import read_keys
from flowllm.language.kinds import StepContext, StepKindSpec, register
from flowllm.language.llm import build_llm
from flowllm.language.nodes import Entry, Mapping, Scalar, Sequence, constant
from flowllm.language.problems import SourceError, listing, nearest
from flowllm.language.project import merged
from flowllm.language.step_keys import (
    BatchKeys,
    EmbedKeys,
    HttpKeys,
    PromptKeys,
    PythonKeys,
    ShellKeys,
    ValueKeys,
    WorkflowStepKeys,
    retry_policy,
)
from flowllm.language.template import ValueTemplate
from flowllm.language.values import is_template
from flowllm.language.workflow import (
    Asks,
    EmbedBody,
    HttpBody,
    PythonBody,
    ShellBody,
    Step,
    Subgraph,
    ValueBody,
    WorkflowBody,
)


def build_embed(keys: EmbedKeys, context: StepContext) -> EmbedBody | None:
    """A step that asks for embeddings."""
    compiler, before = context.compiler, len(context.problems)
    provider = context.provider(keys.provider)
    hint = "set the step's `model`: `defaults.model` is one that chats, and is not used for embeddings"
    model = context.model(keys.model, provider, hint)
    batch = keys.batch or BatchKeys()
    body = EmbedBody(
        provider=compiler.as_text(provider),
        model=compiler.as_text(model),
        input=_texts(keys.embed, compiler),
        dimensions=compiler.optional(keys.dimensions),
        params=compiler.optional(keys.params),
        batch_size=batch.size,
        batch_wait=batch.max_wait,
    )
    return body if len(context.problems) == before else None


def _texts(node: Scalar | Sequence, compiler: Compiler) -> ValueTemplate:
    """A text, or a list of texts, as written: also where one looks like a number."""
    if isinstance(node, Scalar):
        return compiler.as_text(node)
    return ValueTemplate.of([compiler.text(item) for item in node.items if isinstance(item, Scalar)])


def _texts_by_name(node: Mapping | None, compiler: Compiler) -> ValueTemplate | None:
    """The same for texts under names, in which secrets may stand."""
    if node is None:
        return None
    entries = ((entry.key, entry.value) for entry in node.entries)
    return ValueTemplate.of(
        {key: compiler.text(value, secrets=True) for key, value in entries if isinstance(value, Scalar)}
    )


def build_http(keys: HttpKeys, context: StepContext) -> HttpBody | None:
    """A step that sends one request."""
    asked, compiler = keys.http, context.compiler
    if asked.json is not None and asked.body is not None:
        raise SourceError(asked.body.where, "`json` and `body` exclude each other", "remove one of them")
    if not is_template(asked.url.text) and not asked.url.text.startswith(("http://", "https://")):
        raise SourceError(
            asked.url.where, f"`{asked.url.text}` is not an address", "it begins with https:// or http://"
        )
    url = compiler.text(asked.url, secrets=True)
    if url is None:
        return None
    return HttpBody(
        url=url,
        method=asked.method,
        headers=_texts_by_name(asked.headers, compiler),
        query=compiler.optional(asked.query, secrets=True),
        json=compiler.optional(asked.json),
        body=None if asked.body is None else compiler.text(asked.body),
        allow_private=asked.allow_private,
    )


def build_shell(keys: ShellKeys, context: StepContext) -> ShellBody:
    """A step that runs a command."""
    compiler = context.compiler
    return ShellBody(
        command=keys.shell.text,
        stdin=None if keys.stdin is None else compiler.text(keys.stdin),
        env=_texts_by_name(keys.env, compiler),
    )


def build_value(keys: ValueKeys, context: StepContext) -> ValueBody:
    """A step that computes a value."""
    return ValueBody(value=context.compiler.value(keys.value))


def build_python(keys: PythonKeys, context: StepContext) -> PythonBody:
    """A step that calls a function, which is handed `ask` where `asks` is set."""
    asks = _asks(context) if keys.asks else None
    arguments = None if keys.with_ is None else _arguments(keys.with_, context.compiler)
    target = context.node.get("python")
    where = context.where if target is None else target.where
    if is_template(keys.python):
        raise SourceError(where, "the name of a function cannot be a template", "write module:function")
    if asks is not None and keys.with_ is not None and keys.with_.get("ask") is not None:
        raise SourceError(where, "`asks: true` gives the function `ask`, so `with` cannot", "rename the argument")
    return replace(python_body(keys.python, where, arguments, context.compiler.sources), asks=asks)


def _arguments(node: Mapping, compiler: Compiler) -> ValueTemplate:
    """Keyword arguments: one that is a whole output alone is handed on as it is, which within one it is not."""
    arguments = {}
    for entry in node.entries:
        with compiler.streaming() if isinstance(entry.value, Scalar) else nullcontext():
            arguments[entry.key] = compiler.tree(entry.value, secrets=True)
    return ValueTemplate.of(arguments)


def _asks(context: StepContext) -> Asks | None:
    """The prompt step of the defaults, for the questions of a function. Adds problems."""
    where, scope = context.where, context.scope
    question = Mapping(where=where, entries=(Entry(key="prompt", where=where, value=constant("-", where)),))
    node = merged(scope.defaults_for(PromptKeys.table), question)
    keys = read_keys(PromptKeys, node, f"the step `{context.id}`", context.problems, step=context.id)
    body = None if keys is None else build_llm(keys, context)
    if keys is None or body is None:
        return None
    given = context.compiler.within("messages", "sample")
    messages, sample = (given.as_text(constant(f"{{{{ {name} }}}}", where)) for name in ("messages", "sample"))
    return Asks(
        step=Step(
            id=StepId(context.id),
            kind=StepKind.PROMPT,
            body=replace(body, prompt=None, system=None, messages=messages, sample=sample),
            where=where,
            retry=retry_policy(keys.retry, harmless=True),
            timeout=1800.0 if keys.timeout is None else keys.timeout,
            cache=keys.cache or CachePolicy(),
            priority=keys.priority or Priority.NORMAL,
            on_error=OnError.CONTINUE,
        ),
        system=body.system,
    )


def build_workflow(keys: WorkflowStepKeys, context: StepContext) -> WorkflowBody | None:
    """A step that is a graph."""
    arguments = context.compiler.optional(keys.with_)
    graph = context.scope.subgraph(keys.workflow, context.compiler)
    if graph is None:
        return None
    if not isinstance(keys.with_, Scalar):
        _check_arguments(keys.with_, graph, context)
    return WorkflowBody(graph=graph, arguments=arguments)


def _check_arguments(given: Mapping | None, graph: Subgraph, context: StepContext) -> None:
    """`with` names inputs that there are, and all that have no default."""
    keys = {} if given is None else given.keys()
    for key, place in keys.items():
        if key not in graph.inputs:
            hint = nearest(key, graph.inputs) or f"it has {listing(list(graph.inputs)) if graph.inputs else 'none'}"
            context.add(SourceError(place, f"the workflow `{graph.name}` has no input `{key}`", hint))
    missing = [name for name, declared in graph.inputs.items() if declared.required and name not in keys]
    if missing:
        where, hint = context.where if given is None else given.where, f"write `with: {{{missing[0]}: …}}`"
        context.add(SourceError(where, f"the workflow `{graph.name}` needs {listing(missing)}", hint))


_SHARED = ("provider", "retry", "timeout", "cache", "priority", "on_error")
"""Of `defaults`, what holds for embeddings too: the rest is for chats."""
for _spec in (
    StepKindSpec(
        key="embed",
        kind=StepKind.EMBED,
        keys=EmbedKeys,
        build=build_embed,
        defaults=_SHARED,
        templates=("embed",),
        cached=True,
    ),
    StepKindSpec(key="python", kind=StepKind.PYTHON, keys=PythonKeys, build=build_python, templates=("with",)),
    StepKindSpec(key="shell", kind=StepKind.SHELL, keys=ShellKeys, build=build_shell, templates=("stdin", "env")),
    StepKindSpec(key="http", kind=StepKind.HTTP, keys=HttpKeys, build=build_http),
    StepKindSpec(
        key="workflow", kind=StepKind.WORKFLOW, keys=WorkflowStepKeys, build=build_workflow, templates=("with",)
    ),
    StepKindSpec(key="value", kind=StepKind.VALUE, keys=ValueKeys, build=build_value, templates=("value",)),
):
    register(_spec)
