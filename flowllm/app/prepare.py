"""What is settled about a run before it is claimed: which steps, under which id, from which files."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flowllm.app.file_claims import claim_files
from flowllm.app.wiring import Providers, read_secrets
from flowllm.core.errors import UsageError
from flowllm.core.types import Budget, Json, NodeId, Priority, RunId, RunStatus, StepId
from flowllm.datasets.file_registry import FileRegistry
from flowllm.language.problems import nearest
from flowllm.language.workflow import Step, Workflow, WorkflowBody
from flowllm.runtime.options import RunOptions
from flowllm.storage.base import Owner, RunRecord

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
    )


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
        owner=owner,
    )
