"""`python` steps: a function of the user's own."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from flowllm.core.types import CachePolicy, OnError, Priority, Resources, StepId, StepKind
from flowllm.language import step_values as sv
from flowllm.language import values as v
from flowllm.language.compiling import Compiler
from flowllm.language.file_keys import StepKeys, retry_policy
from flowllm.language.functions import python_body
from flowllm.language.keys import REQUIRED, Key, Keys, nested, read_keys, value
from flowllm.language.kinds import StepContext, StepKindSpec
from flowllm.language.nodes import Entry, Mapping, Node, Scalar, constant
from flowllm.language.problems import SourceError
from flowllm.language.project import merged
from flowllm.language.template import ValueTemplate
from flowllm.language.values import is_template
from flowllm.language.workflow import Asks, PythonBody, Step
from flowllm.steps.prompt import PromptKeys
from flowllm.steps.prompt import build as build_llm
from flowllm.steps.prompt import make_runner as prompt_runner
from flowllm.steps.registry import StepKindPackage

if TYPE_CHECKING:
    from flowllm.steps.python.runner import PythonRunner
    from flowllm.steps.registry import RunnerServices


SMALLEST_PART: Final = 0.0001
"""Of a core or a GPU."""


@value({"type": "number", "minimum": SMALLEST_PART})
def _gpus(node: Node) -> float:
    """A part of one, or several whole ones."""
    found = float(v.number(least=SMALLEST_PART, most=10_000)(node))
    if found > 1 and not found.is_integer():
        raise SourceError(
            node.where, f"{found:g} GPUs: a step takes a part of one GPU, or whole ones", "write a whole number"
        )
    return found


class ResourceKeys(Keys, title="resources"):
    """What a step's work takes of a node of a cluster (`--cluster`)."""

    cpu = Key(v.number(least=SMALLEST_PART, most=10_000), "Cores (1).")
    gpu = Key(_gpus, "GPUs, or a part of one, such as 0.5 (none).")
    memory = Key(v.size, "Memory, such as 512MiB or 4GiB; a node has room for as many as fit (not looked at).")


class PythonKeys(StepKeys, title="python step"):
    """A call of a function."""

    python = Key(v.plain_text, "module:function, or ./file.py:function.", REQUIRED)
    with_ = Key(sv.arguments, "Keyword arguments.")
    asks = Key(v.boolean, "Hands the function `ask`, by which it asks models as steps do.", default=False)
    resources = Key(
        nested(ResourceKeys, "resources"),
        "Calls the function on a node of a cluster that has these: {cpu, gpu, memory}.",
    )


def build(keys: PythonKeys, context: StepContext) -> PythonBody:
    """A step that calls a function, which is handed `ask` where `asks` is set."""
    asks = _asks(context) if keys.asks else None
    arguments = None if keys.with_ is None else _arguments(keys.with_, context.compiler)
    target = context.node.get("python")
    where = context.where if target is None else target.where
    if is_template(keys.python):
        raise SourceError(where, "the name of a function cannot be a template", "write module:function")
    if asks is not None and keys.with_ is not None and keys.with_.get("ask") is not None:
        raise SourceError(where, "`asks: true` gives the function `ask`, so `with` cannot", "rename the argument")
    body = python_body(keys.python, where, arguments, context.compiler.sources)
    return replace(body, asks=asks, resources=_resources(keys, context))


def _resources(keys: PythonKeys, context: StepContext) -> Resources | None:
    """Raises SourceError."""
    if keys.resources is None:
        return None
    where = next(entry.where for entry in context.node.entries if entry.key == "resources")
    if keys.asks:
        raise SourceError(
            where,
            "`asks: true` asks models from here, and `resources` calls the function on another machine",
            "give what needs the resources a step of its own",
        )
    given = {name: amount for name, amount in keys.resources.values.items() if amount is not None}
    if not given:
        raise SourceError(where, "`resources` names none", "write {cpu: 2, gpu: 1, memory: 4GiB}")
    return Resources(**given)


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
    node = merged(scope.inherited.defaults_for(PromptKeys.table), question)
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


def make_runner(services: RunnerServices) -> PythonRunner:
    """What runs these steps within one run."""
    from flowllm.steps.python.runner import PythonRunner  # noqa: PLC0415 - checking a workflow needs none

    return PythonRunner(
        services.calls,
        services.files,
        services.secrets,
        services.redactor,
        prompts=prompt_runner(services),
        cluster=services.cluster,
    )


KIND = StepKindPackage(
    specs=(StepKindSpec(key="python", kind=StepKind.PYTHON, keys=PythonKeys, build=build, templates=("with",)),),
    runner=make_runner,
)
