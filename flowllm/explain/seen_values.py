"""What templates see while it is planned: in each case, and which steps of it are not known yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flowllm.core.errors import StepError
from flowllm.core.records import dataclass
from flowllm.core.types import Json
from flowllm.explain.stand_in import Case
from flowllm.language.template import Template, ValueTemplate
from flowllm.language.workflow import Step
from flowllm.runtime.execute import graph_inputs

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenValues:
    """The values of one step."""

    cases: tuple[Mapping[str, Json], Mapping[str, Json], Mapping[str, Json]]
    waits: tuple[str, ...] = ()
    """Steps whose outputs nobody knows: in their places is what stands in for them."""
    vague: frozenset[str] = frozenset()
    """What else of the values is not known: `inputs`, or the name of an item."""
    row: tuple[Json, ...] = ()
    """Of `--over`: the row that gives the inputs."""

    @property
    def likely(self) -> Mapping[str, Json]:
        """The values as they most likely are; where nothing is unknown, as they are."""
        return self.cases[Case.LIKELY]

    def item(self, name: str, values: tuple[Json, Json, Json], index: int, *, vague: bool = False) -> SeenValues:
        """With an item, and its place; `vague`: it is not known."""
        least, likely, most = (
            {**case, name: value, "index": index} for case, value in zip(self.cases, values, strict=True)
        )
        names = self.vague | {name} if vague else self.vague - {name}
        return SeenValues(cases=(least, likely, most), waits=self.waits, vague=names)

    def unsure(self, template: Template | ValueTemplate) -> bool:
        """What it gives depends on what nobody knows."""
        named: set[Any] = {reference.step for reference in template.references}
        return not (named.isdisjoint(self.waits) and template.names.isdisjoint(self.vague))

    def rendered(self, render: Callable[[Mapping[str, Json]], T]) -> tuple[T, T, T]:
        """Something in each case; in the least one as most likely, where that has nothing of the kind. Raises StepError."""
        least, likely, most = self.cases
        found = render(likely)
        if not self.waits:
            return found, found, found
        try:
            return render(least), found, render(most)
        except StepError:
            return found, found, render(most)

    def inputs(self, step: Step) -> tuple[Mapping[str, Json], Mapping[str, Json], Mapping[str, Json]]:
        """Those of the graph of a `workflow` step without a `when`, in each case. Raises StepError."""
        return self.rendered(lambda values: graph_inputs(step, values, *self.row) or {})
