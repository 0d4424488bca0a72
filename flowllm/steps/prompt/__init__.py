"""`prompt` and `messages` steps: chat completions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowllm.core.request import OutputFormat
from flowllm.core.types import Json, OnTruncated, StepKind
from flowllm.language import step_values as sv
from flowllm.language.compiling import Compiler
from flowllm.language.file_keys import LlmKeys, StepKeys
from flowllm.language.files import folder_of
from flowllm.language.keys import REQUIRED, Key
from flowllm.language.kinds import StepContext, StepKindSpec
from flowllm.language.nodes import Mapping, Node, Scalar, Sequence
from flowllm.language.output import output_format
from flowllm.language.problems import SourceError
from flowllm.language.template import ValueTemplate
from flowllm.language.workflow import LlmBody, Target
from flowllm.steps.registry import StepKindPackage

if TYPE_CHECKING:
    from flowllm.steps.prompt.runner import PromptRunner
    from flowllm.steps.registry import RunnerServices


_SENT = ("max_tokens", "temperature", "top_p", "seed")
_TEXT_KEYS = ("role", "content")


class PromptKeys(StepKeys, LlmKeys, title="prompt step"):
    """One chat completion from a text."""

    prompt = Key(sv.prompt, "What is asked: a text, or {file: ./prompt.md}.", REQUIRED)
    system = Key(sv.prompt, "The system message: a text, or {file: ./system.md}.")
    images = Key(sv.images, "URLs or files of images that go with the text.")


class MessagesKeys(StepKeys, LlmKeys, title="messages step"):
    """One chat completion from messages in the API's own shape."""

    messages = Key(
        sv.messages,
        "List of {role, content}; an item that is a template may give several of them, as a list.",
        REQUIRED,
    )


def build(keys: PromptKeys | MessagesKeys, context: StepContext) -> LlmBody | None:
    """What is asked and of whom."""
    compiler, before = context.compiler, len(context.problems)
    provider = context.provider(keys.provider)
    model = context.model(keys.model, provider, "set `defaults.model` or the step's `model`")
    fallback = tuple(_target(*target, context) for target in keys.fallback)
    output = _output(keys.output, context)
    prompt = system = messages = images = None
    if isinstance(keys, PromptKeys):
        prompt = compiler.prompt(keys.prompt)
        system = None if keys.system is None else compiler.prompt(keys.system)
        images = compiler.optional(keys.images)
    else:
        messages = ValueTemplate.of(_messages(keys.messages, compiler))
    params = _params(keys, compiler)
    sample = compiler.optional(keys.sample)
    if len(context.problems) > before:
        return None
    return LlmBody(
        provider=compiler.as_text(provider),
        model=compiler.as_text(model),
        prompt=prompt,
        system=system,
        messages=messages,
        params=params,
        output=output,
        sample=sample,
        samples=keys.samples,
        fallback=fallback,
        on_truncated=keys.on_truncated or OnTruncated.WARN,
        images=images,
        folder=folder_of(context.where.file),
        aliases=context.scope.inherited.aliases,
    )


def _target(model: Scalar, provider: Scalar | None, context: StepContext) -> Target:
    if provider is not None:
        context.check_provider(provider)
    compiled = context.compiler.as_text(model)
    if provider is None or context.scope.simulate:
        return Target(model=compiled)
    return Target(model=compiled, provider=context.compiler.as_text(provider))


def _output(node: Scalar | Mapping | None, context: StepContext) -> OutputFormat | None:
    try:
        return None if node is None else output_format(node, context.compiler.sources, context.problems, context.id)
    except SourceError as error:
        context.add(error)
        return None


def _params(keys: PromptKeys | MessagesKeys, compiler: Compiler) -> ValueTemplate | None:
    params: dict[str, Json] = {key: compiler.tree(keys.values[key]) for key in _SENT if keys.values[key] is not None}
    if isinstance(keys.stop, Sequence):
        params["stop"] = [compiler.text(item) for item in keys.stop.items if isinstance(item, Scalar)]
    elif keys.stop is not None:
        params["stop"] = compiler.text(keys.stop)
    if keys.params is not None:
        params |= compiler.tree(keys.params)
    return ValueTemplate.of(params) if params else None


def _messages(node: Sequence | Scalar, compiler: Compiler) -> Json:
    if isinstance(node, Scalar):
        return compiler.text(node)
    return [_message(item, compiler) for item in node.items]


def _message(node: Node, compiler: Compiler) -> Json:
    if not isinstance(node, Mapping):
        return compiler.tree(node)
    return {
        entry.key: compiler.text(entry.value)
        if entry.key in _TEXT_KEYS and isinstance(entry.value, Scalar) and entry.value.value is not None
        else compiler.tree(entry.value)
        for entry in node.entries
    }


def make_runner(services: RunnerServices) -> PromptRunner:
    """What runs these steps within one run."""
    from flowllm.steps.prompt.runner import PromptRunner  # noqa: PLC0415 - checking a workflow needs none

    return PromptRunner(services.provider, services.calls)


KIND = StepKindPackage(
    specs=tuple(
        StepKindSpec(
            key=key,
            kind=StepKind.PROMPT,
            keys=keys,
            build=build,
            defaults=frozenset(keys.table),
            templates=(key, "system", "images"),
            cached=True,
        )
        for key, keys in (("prompt", PromptKeys), ("messages", MessagesKeys))
    ),
    runner=make_runner,
)
