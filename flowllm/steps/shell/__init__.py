"""`shell` steps: a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowllm.core.types import StepKind
from flowllm.language import step_values as sv
from flowllm.language import values as v
from flowllm.language.compiling import texts_by_name
from flowllm.language.file_keys import StepKeys
from flowllm.language.keys import REQUIRED, Key
from flowllm.language.kinds import StepContext, StepKindSpec
from flowllm.language.workflow import ShellBody
from flowllm.steps.registry import StepKindPackage

if TYPE_CHECKING:
    from flowllm.steps.registry import RunnerServices
    from flowllm.steps.shell.runner import ShellRunner


class ShellKeys(StepKeys, title="shell step"):
    """A command; the output is what it writes to standard output."""

    shell = Key(sv.command, "Run by /bin/sh, as it is written: never a template.", REQUIRED)
    stdin = Key(v.written, "What the command reads.")
    env = Key(
        sv.texts_by_name(v.ENVIRONMENT_NAME, "an environment variable"),
        "Added to its environment; may hold {{ secrets.NAME }}.",
    )


def build(keys: ShellKeys, context: StepContext) -> ShellBody:
    """A step that runs a command."""
    compiler = context.compiler
    return ShellBody(
        command=keys.shell.text,
        stdin=None if keys.stdin is None else compiler.text(keys.stdin),
        env=texts_by_name(keys.env, compiler),
    )


def make_runner(services: RunnerServices) -> ShellRunner:
    """What runs these steps within one run."""
    from flowllm.steps.shell.runner import ShellRunner  # noqa: PLC0415 - checking a workflow needs none

    return ShellRunner(services.calls, services.secrets, services.redactor, private=services.private)


KIND = StepKindPackage(
    specs=(StepKindSpec(key="shell", kind=StepKind.SHELL, keys=ShellKeys, build=build, templates=("stdin", "env")),),
    runner=make_runner,
)
