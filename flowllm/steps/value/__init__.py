"""`value` steps: a value computed from templates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowllm.core.types import StepKind
from flowllm.language import values as v
from flowllm.language.file_keys import StepKeys
from flowllm.language.keys import REQUIRED, Key
from flowllm.language.kinds import StepContext, StepKindSpec
from flowllm.language.workflow import ValueBody
from flowllm.steps.registry import StepKindPackage

if TYPE_CHECKING:
    from flowllm.steps.registry import RunnerServices
    from flowllm.steps.value.runner import ValueRunner


class ValueKeys(StepKeys, title="value step"):
    """A value computed from templates."""

    value = Key(v.anything, "Any value; texts in it may be templates.", REQUIRED)


def build(keys: ValueKeys, context: StepContext) -> ValueBody:
    """A step that computes a value."""
    return ValueBody(value=context.compiler.value(keys.value))


def make_runner(_: RunnerServices) -> ValueRunner:
    """What runs these steps within one run."""
    from flowllm.steps.value.runner import ValueRunner  # noqa: PLC0415 - checking a workflow needs none

    return ValueRunner()


KIND = StepKindPackage(
    specs=(StepKindSpec(key="value", kind=StepKind.VALUE, keys=ValueKeys, build=build, templates=("value",)),),
    runner=make_runner,
)
