"""What is settled about a run before it is claimed: which steps, under which id, from which files."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flowllm.app.wiring import Providers, cluster_of, read_secrets
from flowllm.cluster.base import Cluster, cluster_address
from flowllm.cluster.process import check_ray
from flowllm.core.errors import FlowLLMError, UsageError
from flowllm.core.records import dataclass, replace
from flowllm.core.types import ROW, Budget, Json, NodeId, Priority, RunId, RunStatus, StepId, StepKind, step_path
from flowllm.datasets.file_writes import FileConflict, FileRegistry, no_step
from flowllm.datasets.files import STDIN
from flowllm.language.problems import nearest
from flowllm.language.workflow import DataFile, LlmBody, PythonBody, Step, Workflow, WorkflowBody
from flowllm.runtime.options import RunOptions
from flowllm.storage.base import Owner, RunRecord
from flowllm.storage.timeline import RUN_ATTEMPTS, begun

_AMOUNTS = {"usd": "number", "tokens": "whole number"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """What is known and checked of a run before it is claimed, or only planned, and before anything is sent."""

    workflow: Workflow
    steps: Mapping[NodeId, Step]
    """Those to run, with all that they need."""
    options: RunOptions
    inputs: Mapping[str, Json]
    providers: Providers
    secrets: Mapping[str, str]
    files: FileRegistry
    cluster: Cluster | None = None
    """Not started yet."""


def prepare_run(
    workflow: Workflow,
    options: RunOptions,
    inputs: Mapping[str, Json],
    providers: Providers,
    *,
    files: FileRegistry | None = None,
    database: Path | None = None,
) -> PreparedRun:
    """Check all that can be known before anything is sent. Raises UsageError.

    `files` are more files that the run must not write over; `database` is its own.
    """
    steps = chosen_steps(workflow, options)
    every = [step for _, step in every_step({StepId(name): step for name, step in steps.items()})]
    providers.check(every)
    check_cluster(every, options)
    if workflow.budget is not None and workflow.budget.usd is not None:
        providers.check_prices(every)
    secrets = read_secrets(workflow, providers.environ)
    providers.redactor.add(secrets.values())
    return PreparedRun(
        workflow=workflow,
        steps=steps,
        options=options,
        inputs=inputs,
        providers=providers,
        secrets=secrets,
        files=claim_files(files, workflow, options, inputs, database=database),
        cluster=cluster_of(workflow, providers, options.cluster),
    )


def check_cluster(steps: Iterable[Step], options: RunOptions) -> None:
    """Raises UsageError for steps that need a cluster where none is named, and for one that cannot be used."""
    if options.cluster is not None:
        cluster_address(options.cluster)
        check_ray()
        return
    needing = next((step for step in steps if needs_cluster(step)), None)
    if needing is not None:
        raise UsageError(
            f"{needing.where}: step {needing.id} has `resources`, which take a cluster",
            hint="`--cluster ray` starts one on this machine (pip install 'flowllm[ray]'), `--cluster ray://HOST:10001` uses "
            "another; without `resources` the function is called in this process",
        )


def needs_cluster(step: Step) -> bool:
    """It cannot be carried out in this process."""
    return isinstance(step.body, PythonBody) and step.body.resources is not None


def plan_run(workflow: Workflow, options: RunOptions, inputs: Mapping[str, Json], providers: Providers) -> PreparedRun:
    """As `prepare_run`, of a run that is only planned: it needs no keys and no secrets."""
    return PreparedRun(
        workflow=workflow,
        steps=chosen_steps(workflow, options),
        options=options,
        inputs=inputs,
        providers=providers,
        secrets={name: providers.environ.get(name, "") for name in workflow.secrets},
        files=FileRegistry(),
    )


def chosen_steps(workflow: Workflow, options: RunOptions) -> dict[NodeId, Step]:
    """The steps to run: all, or under `until` that one and what it needs. Raises UsageError for unknown names."""
    known = dict(every_step(workflow.steps))
    for name in (*options.refresh, *([options.until] if options.until else [])):
        if name not in (workflow.steps if name == options.until else known):
            raise UsageError(
                f"there is no step {name!r} in {workflow.name}",
                hint=nearest(name, known) or f"there are: {', '.join(known)}",
            )
    wanted = set(workflow.steps)
    if options.until:
        wanted, waiting = set(), [StepId(options.until)]
        while waiting:
            step = waiting.pop()
            if step not in wanted:
                wanted.add(step)
                waiting += workflow.steps[step].edges
    urgency = Priority(options.priority or Priority.NORMAL)
    return {NodeId(name): _urgent(step, urgency) for name, step in workflow.steps.items() if name in wanted}


def with_budget(workflow: Workflow, options: RunOptions) -> Workflow:
    """The workflow with the budget that the options name. Raises UsageError for amounts that are none."""
    if not options.budget:
        return workflow
    for name, amount in options.budget.items():
        if name not in {"usd", "tokens"}:
            raise UsageError(f"there is no budget of {name!r}", hint="there are: usd, tokens")
        if (
            isinstance(amount, bool)
            or not isinstance(amount, int | float)
            or not 0 < amount < math.inf
            or (name == "tokens" and amount != int(amount))
        ):
            raise UsageError(f"a budget of {name} is a {_AMOUNTS[name]} above 0, not {amount!r}")
    amounts: dict[str, Any] = {
        name: int(amount) if name == "tokens" else float(amount) for name, amount in options.budget.items()
    }
    return replace(workflow, budget=replace(workflow.budget or Budget(), **amounts))


def every_step(steps: Mapping[StepId, Step], within: str = "") -> Iterator[tuple[str, Step]]:
    """All steps with those of the graphs within them, by their full names: `post`, `post.headline`."""
    for name, step in steps.items():
        yield f"{within}{name}", step
        if isinstance(step.body, WorkflowBody):
            yield from every_step(step.body.graph.steps, f"{within}{name}.")


def step_of(workflow: Workflow, node: str) -> Step | None:
    """The step that a node is of, wherever it stands; None where the workflow has none of that name."""
    return dict[str, Step](every_step(workflow.steps)).get(step_path(node).removeprefix(f"{ROW}."))


def kinds_of(workflow: Workflow) -> frozenset[StepKind]:
    """The kinds of all its steps, and of what its functions may ask."""
    steps = [step for _, step in every_step(workflow.steps)]
    asked = [step.body.asks.step for step in steps if isinstance(step.body, PythonBody) and step.body.asks is not None]
    return frozenset(step.kind for step in (*steps, *asked))


def _urgent(step: Step, urgency: Priority) -> Step:
    """The step, and those within it, with that priority where they name none."""
    if urgency is Priority.NORMAL:
        return step
    if isinstance(step.body, WorkflowBody):
        graph = step.body.graph
        inner = {name: _urgent(one, urgency) for name, one in graph.steps.items()}
        return replace(step, body=replace(step.body, graph=replace(graph, steps=inner)))
    return replace(step, priority=urgency) if step.priority is Priority.NORMAL else step


def new_run_id(now: float) -> RunId:
    """The date and time in UTC, so that ids sort by age, and five random letters and digits."""
    alphabet = "abcdefghijkmnpqrstuvwxyz23456789"
    tail = "".join(secrets.choice(alphabet) for _ in range(5))
    return RunId(f"{datetime.fromtimestamp(now, UTC):%Y%m%d-%H%M%S}-{tail}")


def new_run(prepared: PreparedRun, *, tenant: str, owner: Owner, now: float) -> RunRecord:
    """The record of a run that begins, its inputs masked."""
    workflow = prepared.workflow
    return RunRecord(
        run_id=new_run_id(now),
        workflow=workflow.name,
        path=workflow.path,
        status=RunStatus.RUNNING,
        started_at=now,
        provider=prepared.providers.default,
        inputs=prepared.providers.redactor.value(dict(prepared.inputs)),
        options=prepared.options.as_dict(),
        snapshot=workflow.snapshot,
        tenant=tenant,
        tags=tuple(sorted({prepared.providers.redactor.text(tag) for tag in prepared.options.tags})),
        owner=owner,
        stats={RUN_ATTEMPTS: [begun(owner, now)]},
    )


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
        for found in steps:
            with suppress(FlowLLMError):  # what is not known yet is looked at when it is
                if found.step.save is not None:
                    path = Path(found.step.save.text(known))
                    claims.check(path, f"`save` of step {found.name}", by=found.name)
    except FileConflict as error:
        raise UsageError(str(error), hint="name another file to write to") from None
    return claims


def _read(
    workflow: Workflow,
    options: RunOptions,
    database: Path | None,
    steps: Iterable[_StepInGraph],
    known: Mapping[str, Json],
) -> Iterator[tuple[str | Path, str, Callable[[str], bool]]]:
    if database is not None:
        for tail in ("", "-wal", "-shm", "-journal"):
            yield f"{database}{tail}", "the database", no_step
    yield workflow.path, "the workflow", no_step
    for path in workflow.files:
        yield path, "flowllm.yaml" if path == options.config else "a file of the workflow", no_step
    if options.over not in {None, STDIN}:
        yield str(options.over), "the data set of --over", no_step
    for found in steps:
        for file in _files_of(found.step, known):
            yield file, f"a file that step {found.name} reads", found.waits_for


@dataclass(frozen=True, slots=True, kw_only=True)
class _StepInGraph:
    """A step within its graph, and that within those around it."""

    steps: Mapping[StepId, Step]
    step: Step
    prefix: str
    around: _StepInGraph | None

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


def _steps(
    steps: Mapping[StepId, Step], prefix: str = "", around: _StepInGraph | None = None
) -> Iterator[_StepInGraph]:
    """All steps, with those within others."""
    for step in steps.values():
        found = _StepInGraph(steps=steps, step=step, prefix=prefix, around=around)
        yield found
        if isinstance(step.body, WorkflowBody):
            yield from _steps(step.body.graph.steps, f"{found.name}.", found)


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


def unsplit(prepared: PreparedRun, *, in_memory: bool) -> str:
    """Why nothing of the run can be another process's; empty if it can."""
    if in_memory:
        return "the database is in memory, where no other process sees it"
    steps = prepared.steps.values()
    if prepared.options.over is None and not any(one.foreach and one.kind is not StepKind.VALUE for one in steps):
        return "there is no --over, and no foreach at the top of the graph"
    if prepared.providers.redactor.value(dict(prepared.inputs)) != prepared.inputs:
        return "a secret is in its inputs, and they are to get these from the database"
    return ""
