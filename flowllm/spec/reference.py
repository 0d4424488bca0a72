"""Where something stands in a file, and what a template says of a step."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowllm.types import StepId


class Tolerance(IntEnum):
    """What a reference puts up with in the step that it names. The smallest of several holds."""

    REQUIRED = 0  # the step must have succeeded
    OPTIONAL = 1  # it may have been skipped
    ANY = 2  # any outcome: `steps.x.status` and `steps.x.error`


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
