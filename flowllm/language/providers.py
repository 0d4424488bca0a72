"""Who is asked: the names of providers, and which one a step means."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from flowllm.language.kinds import StepContext
from flowllm.language.nodes import Mapping, Scalar, constant
from flowllm.language.problems import SourceError, nearest
from flowllm.language.values import is_template

AUTO: Final = "auto"
OPENAI: Final = "openai"
SIMULATED: Final = "simulated"
BUILT_IN: Final = (OPENAI, SIMULATED)


def check_provider(name: Scalar, providers: Iterable[str]) -> None:
    """Raises SourceError if a text names a provider that does not exist."""
    known = [*providers, AUTO]
    if not is_template(name.text) and name.text not in known:
        raise SourceError(name.where, f"there is no provider `{name.text}`", nearest(name.text, known))


def check_default(defaults: Mapping | None, providers: Iterable[str]) -> None:
    """Raises SourceError if `defaults.provider` names a provider that does not exist."""
    named = None if defaults is None else defaults.get("provider")
    if isinstance(named, Scalar):
        check_provider(named, providers)


def check_named(name: Scalar, context: StepContext) -> None:
    """Add a problem if a step names a provider that does not exist."""
    try:
        check_provider(name, context.scope.providers)
    except SourceError as error:
        context.add(error)


def step_provider(named: Scalar | None, context: StepContext) -> Scalar:
    """The text that names a step's provider: its own, or the default."""
    if named is not None:
        check_named(named, context)
    if context.scope.simulate:
        return constant(SIMULATED, context.where)
    return named or constant(context.scope.default_provider, context.where)
