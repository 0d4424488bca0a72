"""`embed` steps: vectors of a text or of a list of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowllm.core.types import StepKind
from flowllm.language import step_values as sv
from flowllm.language import values as v
from flowllm.language.compiling import Compiler
from flowllm.language.file_keys import StepKeys
from flowllm.language.keys import REQUIRED, Key, Keys, nested
from flowllm.language.kinds import StepContext, StepKindSpec
from flowllm.language.nodes import Scalar, Sequence
from flowllm.language.template import ValueTemplate
from flowllm.language.workflow import EmbedBody
from flowllm.steps.registry import StepKindPackage

if TYPE_CHECKING:
    from flowllm.steps.embed.runner import EmbedRunner
    from flowllm.steps.registry import RunnerServices


_DEFAULTS = frozenset({"provider", "retry", "timeout", "cache", "priority", "on_error"})
"""Of `defaults`, what holds for embeddings too: the rest is for chats."""


class BatchKeys(Keys, title="batch"):
    """How texts share requests."""

    size = Key(v.number(least=1, most=2048, whole=True), "Texts in one request at most.", 100)
    max_wait = Key(v.duration_or_zero, "The longest that a text waits for others (50ms).", 0.05)


class EmbedKeys(StepKeys, title="embed step"):
    """Embeddings of a text, or of each text of a list."""

    embed = Key(sv.texts, "A text, or a list of texts.", REQUIRED)
    provider = Key(v.text, "Name of a provider (that of `defaults`).")
    model = Key(v.text, "Name of an embedding model; `defaults.model` is not used.")
    dimensions = Key(v.number(least=1, whole=True, template=True), "Length of the vectors, where the model can choose.")
    batch = Key(nested(BatchKeys, "batch"), "How texts share requests: {size, max_wait}.")
    params = Key(sv.embed_params, "Anything else that the API takes, sent as it is.")


def build(keys: EmbedKeys, context: StepContext) -> EmbedBody | None:
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
        aliases=context.scope.inherited.aliases,
    )
    return body if len(context.problems) == before else None


def _texts(node: Scalar | Sequence, compiler: Compiler) -> ValueTemplate:
    """A text, or a list of texts, as written: also where one looks like a number."""
    if isinstance(node, Scalar):
        return compiler.as_text(node)
    return ValueTemplate.of([compiler.text(item) for item in node.items if isinstance(item, Scalar)])


def make_runner(services: RunnerServices) -> EmbedRunner:
    """What runs these steps within one run."""
    from flowllm.steps.embed.runner import EmbedRunner  # noqa: PLC0415 - checking a workflow needs none

    return EmbedRunner(services.provider, services.calls)


KIND = StepKindPackage(
    specs=(
        StepKindSpec(
            key="embed",
            kind=StepKind.EMBED,
            keys=EmbedKeys,
            build=build,
            defaults=_DEFAULTS,
            templates=("embed",),
            cached=True,
        ),
    ),
    runner=make_runner,
)
