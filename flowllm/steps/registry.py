"""The registry of step kinds: what a folder of a kind brings, and who runs its steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from flowllm.core.records import dataclass, field
from flowllm.core.redact import Redactor
from flowllm.core.types import StepKind
from flowllm.language import kinds as language

if TYPE_CHECKING:  # what checks a workflow needs nothing that runs it
    from flowllm.calls.single_flight import InFlightCalls
    from flowllm.cluster.base import Cluster
    from flowllm.providers.base import Provider
    from flowllm.steps.base import StepRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerServices:
    """What runners of steps may use; one for each run."""

    calls: InFlightCalls
    """The pipeline of calls."""
    provider: Callable[[str], Provider]
    """Finds one by the name that a step gives. Raises StepError for an unknown name."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Path to text: the run's snapshot of the workflow's files."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    redactor: Redactor = field(default_factory=Redactor)
    cluster: Cluster | None = None
    """Where functions of steps with `resources` are called."""
    private: Collection[str] = ()
    """Variables of the environment that nothing sees which a step starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepKindPackage:
    """One kind of step."""

    specs: tuple[language.StepKindSpec[Any], ...]
    """Its keys and its builder; one for each key that names it."""
    runner: Callable[[RunnerServices], StepRunner] | None = None
    """Makes what runs its steps within one run; None for a graph, which the runtime runs itself."""


_RUNNERS: dict[StepKind, Callable[[RunnerServices], StepRunner]] = {}


def register(package: StepKindPackage) -> None:
    """Add a kind. Raises ValueError for a key that another kind has."""
    for spec in package.specs:
        language.register(spec)
        if package.runner is not None:
            _RUNNERS[spec.kind] = package.runner


def step_runners(services: RunnerServices, wanted: Collection[StepKind] | None = None) -> dict[StepKind, StepRunner]:
    """Runners for one run, of the kinds that it has (by default of all): to import one takes a while."""
    return {kind: make(services) for kind, make in _RUNNERS.items() if wanted is None or kind in wanted}
