"""The part of a step that asks a model."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from flowllm.core.types import OnTruncated
from flowllm.language.files import absolute
from flowllm.language.model import MessagesShape, PromptShape
from flowllm.language.nodes import Mapping, Scalar, Sequence, constant
from flowllm.language.output import output_format
from flowllm.language.problems import Wrong, nearest
from flowllm.language.project import AUTO
from flowllm.language.readers import is_template
from flowllm.language.template import ValueTemplate
from flowllm.language.workflow import LlmBody, Target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowllm.core.request import OutputFormat
    from flowllm.core.types import Json
    from flowllm.language.compiling import Compiler
    from flowllm.language.nodes import Node
    from flowllm.language.reference import Location
    from flowllm.language.steps import StepScope

SIMULATED = "simulated"
_SENT = ("max_tokens", "temperature", "top_p", "seed")
_TEXT_KEYS = ("role", "content")


def llm_body(
    shape: PromptShape | MessagesShape, where: Location, compiler: Compiler, around: StepScope
) -> LlmBody | None:
    """What is asked and of whom. What is wrong goes to the problems; then the result may be None."""
    before = len(compiler.problems)
    provider = named_provider(shape.provider, where, around, compiler)
    model = _model(shape.model, provider, where, around, compiler)
    fallback = tuple(_target(*target, around, compiler) for target in shape.fallback)
    output = _output(shape.output, compiler)
    prompt = system = messages = None
    if isinstance(shape, PromptShape):
        prompt = compiler.prompt(shape.prompt)
        system = None if shape.system is None else compiler.prompt(shape.system)
    else:
        messages = ValueTemplate.of(_messages(shape.messages, compiler))
    params = _params(shape, compiler)
    sample = None if shape.sample is None else compiler.value(shape.sample)
    images = None
    if isinstance(shape, PromptShape) and shape.images is not None:
        images = compiler.value(shape.images)
    if len(compiler.problems) > before:
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
        samples=shape.samples,
        fallback=fallback,
        on_truncated=shape.on_truncated or OnTruncated.WARN,
        images=images,
        folder=str(PurePath(absolute(where.file)).parent),
    )


def check_provider(name: Scalar, providers: Iterable[str]) -> None:
    """Raises Wrong if a text names a provider that does not exist."""
    known = [*providers, AUTO]
    if not is_template(name.text) and name.text not in known:
        raise Wrong(name.where, f"there is no provider `{name.text}`", nearest(name.text, known))


def check_provider_of(named: Scalar | None, around: StepScope, compiler: Compiler) -> None:
    """Add a problem if a step names a provider that does not exist."""
    if named is not None:
        _guarded_check(named, around, compiler)


def named_provider(named: Scalar | None, where: Location, around: StepScope, compiler: Compiler) -> Scalar:
    """The text that names a step's provider: its own, or the default."""
    check_provider_of(named, around, compiler)
    if around.simulate:
        return constant(SIMULATED, where)
    return named or constant(around.default_provider, where)


def _guarded_check(name: Scalar, around: StepScope, compiler: Compiler) -> None:
    try:
        check_provider(name, around.providers)
    except Wrong as wrong:
        compiler.problems.add_wrong(wrong, step=compiler.step)


def _model(named: Scalar | None, provider: Scalar, where: Location, around: StepScope, compiler: Compiler) -> Scalar:
    if named is not None:
        return named
    settings = around.providers.get(provider.text)
    if settings is None or settings.type != SIMULATED:
        hint = "set `defaults.model` or the step's `model`"
        around.modelless.setdefault(hint, []).append((where, compiler.step))
    return constant(SIMULATED, where)


def _target(model: Scalar, provider: Scalar | None, around: StepScope, compiler: Compiler) -> Target:
    if provider is not None:
        _guarded_check(provider, around, compiler)
    if provider is None or around.simulate:
        return Target(model=compiler.as_text(model))
    return Target(model=compiler.as_text(model), provider=compiler.as_text(provider))


def _output(node: Scalar | Mapping | None, compiler: Compiler) -> OutputFormat | None:
    try:
        return None if node is None else output_format(node, compiler.sources, compiler.problems, compiler.step)
    except Wrong as wrong:
        compiler.problems.add_wrong(wrong, step=compiler.step)
        return None


def _params(shape: PromptShape | MessagesShape, compiler: Compiler) -> ValueTemplate | None:
    params: dict[str, Json] = {}
    for key in _SENT:
        node = getattr(shape, key)
        if node is not None:
            params[key] = compiler.tree(node)
    if isinstance(shape.stop, Sequence):
        params["stop"] = [compiler.text(item) for item in shape.stop.items if isinstance(item, Scalar)]
    elif shape.stop is not None:
        params["stop"] = compiler.text(shape.stop)
    if shape.params is not None:
        params |= compiler.tree(shape.params)
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
