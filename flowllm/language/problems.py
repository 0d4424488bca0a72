"""Places in files; collects the problems of the files of a workflow, so that all are reported at once."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from flowllm.core.errors import InvalidWorkflow, Problem, sorted_problems
from flowllm.core.records import dataclass, replace

_MANY_NAMES = 1000
"""Names among which the nearest is looked for."""
_LONG_NAME = 100
"""Characters of a name that others may be near to."""
LONGEST_LINE = 200
"""Characters of a source line that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    @classmethod
    def at(cls, file: str, text: str, offset: int) -> Location:
        """That of an offset, from 0, in a file's text."""
        return cls(file=file, line=text.count("\n", 0, offset) + 1, column=offset - text.rfind("\n", 0, offset))

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class SourceError(ValueError):
    """A problem at a place in a file. Never reaches the user as an exception."""

    def __init__(self, where: Location, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.where = where
        self.message = message
        self.hint = hint


class Problems:
    """The problems found so far, each with the line of source that it stands on."""

    def __init__(self) -> None:
        self._found: dict[tuple[Location, str], Problem] = {}
        self._lines: dict[str, list[str]] = {}
        self._certain = 0

    def learn(self, file: str, text: str) -> None:
        """Keep a file's text, so that its lines can be shown."""
        self._lines[file] = text.split("\n")

    def warn(self, where: Location, message: str, hint: str = "", *, step: str = "") -> None:
        """Add what may be what was meant: nothing is refused for it."""
        self.add(where, message, hint, step=step, warning=True)

    def add(self, where: Location, message: str, hint: str = "", *, step: str = "", warning: bool = False) -> None:
        """Add one problem; the same one at the same place counts once."""
        if (where, message) in self._found:
            return
        self._certain += not warning
        self._found[where, message] = Problem(
            file=where.file,
            line=where.line,
            column=where.column,
            message=message,
            hint=hint,
            source_line=self._line(where),
            step=step,
            warning=warning,
        )

    def add_error(self, error: SourceError, *, step: str = "") -> None:
        """Add a problem that was raised."""
        self.add(error.where, error.message, error.hint, step=step)

    def add_errors(self, group: ExceptionGroup, *, step: str = "") -> None:
        """Add the problems that a table of keys has raised together."""
        for error in group.exceptions:
            assert isinstance(error, SourceError)  # noqa: S101 - no reader raises anything else
            self.add_error(error, step=step)

    def _line(self, where: Location) -> str:
        lines = self._lines.get(where.file, [])
        line = lines[where.line - 1].rstrip() if where.line <= len(lines) else ""
        return line if len(line) <= LONGEST_LINE else ""

    def __len__(self) -> int:
        """Without the warnings."""
        return self._certain

    def check(self, masking: Callable[[Mapping[str, str]], Callable[[str], str]] | None = None) -> tuple[Problem, ...]:
        """The warnings. Raises InvalidWorkflow if there is any other problem. `masking` gives, for the texts by their
        names, what takes out of a line that which nobody may see."""
        found = list(self._found.values())
        if found and masking is not None:
            mask = masking({file: "\n".join(lines) for file, lines in self._lines.items()})
            found = [_masked(problem, mask) for problem in found]
        warnings = sorted_problems(problem for problem in found if problem.warning)
        if len(warnings) < len(found):
            problems = [problem for problem in found if not problem.warning]
            raise InvalidWorkflow(problems, warnings=warnings)
        return warnings


def _masked(problem: Problem, mask: Callable[[str], str]) -> Problem:
    before, line = problem.source_line[: problem.column - 1], mask(problem.source_line)
    return replace(
        problem,
        message=mask(problem.message),
        hint=mask(problem.hint),
        source_line=line if line.startswith(before) else "",  # the caret would point at something else
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of the names that exist: `did you mean …?`, else all of them if few."""
    if len(name) > _LONG_NAME:
        return ""
    names = list(dict.fromkeys(other for other in islice(known, _MANY_NAMES) if len(other) <= _LONG_NAME))
    lowered = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{lowered[close[0]]}`?"
    return f"there is {listing(names)}" if 0 < len(names) <= 12 else ""  # noqa: PLR2004 - what fits a line


def listing(names: Iterable[str], last: str = "and") -> str:
    """Names for a sentence: `a`, `b` and `c`."""
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {last} {quoted[-1]}" if quoted else ""
