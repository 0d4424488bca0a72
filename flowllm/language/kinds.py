"""What steps of each kind do, but for those that ask a chat model (llm.py) or call a function (functions.py)."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from flowllm.language.functions import python_body
from flowllm.language.llm import SIMULATED, named_provider
from flowllm.language.model_steps import BatchShape
from flowllm.language.nodes import Scalar, constant
from flowllm.language.problems import Wrong, listing, nearest
from flowllm.language.readers import is_template
from flowllm.language.template import ValueTemplate
from flowllm.language.workflow import EmbedBody, HttpBody, ShellBody, WorkflowBody

if TYPE_CHECKING:
    from flowllm.language.compiling import Compiler
    from flowllm.language.model import EmbedShape, HttpShape, PythonShape, ShellShape, WorkflowStepShape
    from flowllm.language.nodes import Mapping, Sequence
    from flowllm.language.reference import Location
    from flowllm.language.steps import StepScope
    from flowllm.language.workflow import Asks, PythonBody, Subgraph


def embedding(shape: EmbedShape, where: Location, compiler: Compiler, around: StepScope) -> EmbedBody | None:
    """A step that asks for embeddings. What is wrong goes to the problems; then the result may be None."""
    before = len(compiler.problems)
    provider = named_provider(shape.provider, where, around, compiler)
    model = shape.model
    if model is None:
        settings = around.providers.get(provider.text)
        if settings is None or settings.type != SIMULATED:
            hint = "set the step's `model`: `defaults.model` is one that chats, and is not used for embeddings"
            around.modelless.setdefault(hint, []).append((where, compiler.step))
        model = constant(SIMULATED, where)
    batch = BatchShape() if shape.batch is None else shape.batch
    body = EmbedBody(
        provider=compiler.as_text(provider),
        model=compiler.as_text(model),
        input=_texts(shape.embed, compiler),
        dimensions=None if shape.dimensions is None else compiler.value(shape.dimensions),
        params=None if shape.params is None else compiler.value(shape.params),
        batch_size=batch.size,
        batch_wait=batch.max_wait,
    )
    return body if len(compiler.problems) == before else None


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


def http(shape: HttpShape, compiler: Compiler) -> HttpBody | None:
    """A step that sends one request. Raises Wrong."""
    asked = shape.http
    if asked.json_ is not None and asked.body is not None:
        raise Wrong(asked.body.where, "`json` and `body` exclude each other", "remove one of them")
    if not is_template(asked.url.text) and not asked.url.text.startswith(("http://", "https://")):
        raise Wrong(asked.url.where, f"`{asked.url.text}` is not an address", "it begins with https:// or http://")
    url = compiler.text(asked.url, secrets=True)
    if url is None:
        return None
    return HttpBody(
        url=url,
        method=asked.method,
        headers=_texts_by_name(asked.headers, compiler),
        query=None if asked.query is None else compiler.value(asked.query, secrets=True),
        json=None if asked.json_ is None else compiler.value(asked.json_),
        body=None if asked.body is None else compiler.text(asked.body),
        allow_private=asked.allow_private,
    )


def shell(shape: ShellShape, compiler: Compiler) -> ShellBody:
    """A step that runs a command."""
    return ShellBody(
        command=shape.shell.text,
        stdin=None if shape.stdin is None else compiler.text(shape.stdin),
        env=_texts_by_name(shape.env, compiler),
    )


def python(shape: PythonShape, node: Mapping, compiler: Compiler, asks: Asks | None) -> PythonBody:
    """A step that calls a function, which is handed `ask` where there is `asks`. Raises Wrong."""
    arguments = None if shape.with_ is None else _arguments(shape.with_, compiler)
    target = node.get("python")
    where = node.where if target is None else target.where
    if is_template(shape.python):
        raise Wrong(where, "the name of a function cannot be a template", "write module:function")
    if asks is not None and shape.with_ is not None and shape.with_.get("ask") is not None:
        raise Wrong(where, "`asks: true` gives the function `ask`, so `with` cannot", "rename the argument")
    return replace(python_body(shape.python, where, arguments, compiler.sources), asks=asks)


def _arguments(node: Mapping, compiler: Compiler) -> ValueTemplate:
    """Keyword arguments: one that is a whole output alone is handed on as it is, which within one it is not."""
    arguments = {}
    for entry in node.entries:
        with compiler.streaming() if isinstance(entry.value, Scalar) else nullcontext():
            arguments[entry.key] = compiler.tree(entry.value, secrets=True)
    return ValueTemplate.of(arguments)


def inner_workflow(
    shape: WorkflowStepShape, where: Location, compiler: Compiler, around: StepScope
) -> WorkflowBody | None:
    """A step that is a graph. What is wrong goes to the problems; then the result may be None."""
    arguments = None if shape.with_ is None else compiler.value(shape.with_)
    graph = around.subgraph(shape.workflow, compiler)
    if graph is None:
        return None
    if not isinstance(shape.with_, Scalar):
        _check_arguments(shape.with_, where, graph, compiler)
    return WorkflowBody(graph=graph, arguments=arguments)


def _check_arguments(given: Mapping | None, where: Location, graph: Subgraph, compiler: Compiler) -> None:
    """`with` names inputs that there are, and all that have no default."""
    keys = {} if given is None else given.keys()
    for key, place in keys.items():
        if key not in graph.inputs:
            hint = nearest(key, graph.inputs) or f"it has {listing(list(graph.inputs)) if graph.inputs else 'none'}"
            compiler.problems.add(place, f"the workflow `{graph.name}` has no input `{key}`", hint, step=compiler.step)
    missing = [name for name, declared in graph.inputs.items() if declared.required and name not in keys]
    if missing:
        compiler.problems.add(
            where if given is None else given.where,
            f"the workflow `{graph.name}` needs {listing(missing)}",
            f"write `with: {{{missing[0]}: …}}`",
            step=compiler.step,
        )
