"""Where something stands in a file, and what a template says of a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

from flowllm.core.types import StepId


class Tolerance(IntEnum):
    """Which outcomes of the step that it names a reference tolerates. The smallest of several holds."""

    REQUIRED = 0  # the step must have succeeded
    OPTIONAL = 1  # it may have been skipped
    ANY = 2  # any outcome: `steps.x`, `steps.x.status` and `steps.x.error`


class Part(StrEnum):
    """What of a step a template looks at: decides what must be at hand when it is rendered."""

    OUTPUT = "output"  # `x`: of a foreach, the whole list
    ROWS = "rows"  # `steps.x.rows`: every item with its outcome
    RECORD = "record"  # anything else of `steps.x`


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """That a template names a step, and how."""

    step: StepId
    tolerance: Tolerance
    where: Location
    parts: frozenset[Part] = frozenset({Part.OUTPUT})


def united(first: Reference, second: Reference) -> Reference:
    """Two references to one step as one: the stricter of them, and all parts."""
    strict = second if second.tolerance < first.tolerance else first
    return replace(strict, parts=first.parts | second.parts)
