"""Which files a run is to leave alone, as far as that shows before it begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flowllm.core.errors import FlowLLMError, UsageError
from flowllm.core.types import Json, StepId
from flowllm.datasets.file_registry import FileConflict, FileRegistry, no_step
from flowllm.datasets.files import STDIN
from flowllm.language.workflow import DataFile, LlmBody, Step, Workflow, WorkflowBody
from flowllm.runtime.options import RunOptions


def claim_files(
    claims: FileRegistry | None,
    workflow: Workflow,
    options: RunOptions,
    given: Mapping[str, Json],
    *,
    database: Path | None,
) -> FileRegistry:
    """`claims` with the files of the run: its database, what it reads, what it writes. Raises UsageError where one of
    those would be written over."""
    claims = claims or FileRegistry()
    known: dict[str, Json] = {} if options.over is not None else {"inputs": given}
    steps = list(_steps(workflow.steps))
    try:
        for path, what, after in _read(workflow, options, database, steps, known):
            claims.reads(path, what, after=after)
        if options.output not in {None, STDIN}:
            claims.writes(str(options.output), "--output")
        for place in steps:
            with suppress(FlowLLMError):  # what is not known yet is looked at when it is
                if place.step.save is not None:
                    path = Path(place.step.save.text(known))
                    claims.check(path, f"`save` of step {place.name}", by=place.name)
    except FileConflict as error:
        raise UsageError(str(error), hint="name another file to write to") from None
    return claims


def _read(
    workflow: Workflow, options: RunOptions, database: Path | None, steps: Iterable[_Place], known: Mapping[str, Json]
) -> Iterator[tuple[str | Path, str, Callable[[str], bool]]]:
    if database is not None:
        for tail in ("", "-wal", "-shm", "-journal"):
            yield f"{database}{tail}", "the database", no_step
    yield workflow.path, "the workflow", no_step
    for path in workflow.files:
        yield path, "flowllm.yaml" if path == options.config else "a file of the workflow", no_step
    if options.over not in {None, STDIN}:
        yield str(options.over), "the data set of --over", no_step
    for place in steps:
        for file in _files_of(place.step, known):
            yield file, f"a file that step {place.name} reads", place.waits_for


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A step within its graph, and that within those around it."""

    steps: Mapping[StepId, Step]
    step: Step
    prefix: str
    around: _Place | None

    @property
    def name(self) -> str:
        return f"{self.prefix}{self.step.id}"

    def waits_for(self, other: str) -> bool:
        """Whether it waits, directly or not, for that step or for one that has it within."""
        if self.around is not None and self.around.waits_for(other):
            return True
        if not other.startswith(self.prefix):
            return False
        wanted = other[len(self.prefix) :].partition(".")[0]
        waiting, seen = list(self.step.edges), set(self.step.edges)
        while waiting:
            one = waiting.pop()
            if one == wanted:
                return True
            more = [need for need in self.steps[one].edges if need not in seen] if one in self.steps else []
            seen.update(more)
            waiting += more
        return False


def _steps(steps: Mapping[StepId, Step], prefix: str = "", around: _Place | None = None) -> Iterator[_Place]:
    """All steps, with those within others."""
    for step in steps.values():
        place = _Place(steps=steps, step=step, prefix=prefix, around=around)
        yield place
        if isinstance(step.body, WorkflowBody):
            yield from _steps(step.body.graph.steps, f"{place.name}.", place)


def _files_of(step: Step, known: Mapping[str, Json]) -> Iterator[Path]:
    """Data sets and images whose paths need nothing but what is known."""
    foreach = step.foreach
    sources = [] if foreach is None else [foreach.file, *(foreach.matrix or {}).values()]
    for source in sources:
        if isinstance(source, DataFile):
            with suppress(FlowLLMError, ValueError, OSError, NotImplementedError):
                name, folder = source.path.text(known), Path(source.folder)
                if source.many:
                    yield from folder.glob(name)
                elif name != STDIN:
                    yield folder / name
    if isinstance(step.body, LlmBody) and step.body.images is not None:
        with suppress(FlowLLMError):
            images = step.body.images.render(known)
            for image in images if isinstance(images, list) else [images]:
                if isinstance(image, str) and "://" not in image and not image.startswith("data:"):
                    yield Path(step.body.folder, image)
