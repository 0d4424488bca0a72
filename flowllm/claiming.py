"""Which files a run is to leave alone, as far as that shows before it begins."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flowllm.data.claims import Claimed, Claims
from flowllm.data.files import STDIN
from flowllm.errors import FlowLLMError, UsageError
from flowllm.spec.workflow import DataFile, LlmBody, WorkflowBody

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from flowllm.result import RunOptions
    from flowllm.spec.workflow import Step, Workflow
    from flowllm.types import Json, StepId


def claim_files(
    claims: Claims | None,
    workflow: Workflow,
    options: RunOptions,
    given: Mapping[str, Json],
    *,
    database: Path | None,
) -> Claims:
    """`claims` with the files of the run: its database, what it reads, what it writes. Raises UsageError where one of
    those would be written over."""
    claims = claims or Claims()
    known: dict[str, Json] = {} if options.over is not None else {"inputs": given}
    steps = list(_steps(workflow.steps))
    try:
        for path, what, after in _read(workflow, options, database, steps, known):
            claims.reads(path, what, after=after)
        if options.output not in {None, STDIN}:
            claims.writes(str(options.output), "--output")
        for name, step, _ in steps:
            with suppress(FlowLLMError):  # what is not known yet is looked at when it is
                if step.save is not None:
                    claims.check(Path(step.save.text(known)), f"`save` of step {name}", by=name)
    except Claimed as error:
        raise UsageError(str(error), hint="name another file to write to") from None
    return claims


def _read(
    workflow: Workflow,
    options: RunOptions,
    database: Path | None,
    steps: Iterable[tuple[str, Step, Collection[str]]],
    known: Mapping[str, Json],
) -> Iterator[tuple[str | Path, str, Collection[str]]]:
    if database is not None:
        for tail in ("", "-wal", "-shm", "-journal"):
            yield f"{database}{tail}", "the database", ()
    yield workflow.path, "the workflow", ()
    for path in workflow.files:
        yield path, "flowllm.yaml" if path == options.config else "a file of the workflow", ()
    if options.over not in {None, STDIN}:
        yield str(options.over), "the data set of --over", ()
    for name, step, after in steps:
        for file in _files_of(step, known):
            yield file, f"a file that step {name} reads", after


def _steps(
    steps: Mapping[StepId, Step], within: str = "", outside: Collection[str] = ()
) -> Iterator[tuple[str, Step, Collection[str]]]:
    """All steps, by their full names, each with those that it waits for."""
    for name, step in steps.items():
        waiting, found = list(step.edges), set(outside)
        while waiting:
            one = waiting.pop()
            if f"{within}{one}" not in found and one in steps:
                found.add(f"{within}{one}")
                waiting += steps[one].edges
        yield f"{within}{name}", step, found
        if isinstance(step.body, WorkflowBody):
            yield from _steps(step.body.graph.steps, f"{within}{name}.", found)


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
