"""What is settled about a run before it is claimed: which steps, under which id, from which files."""

from __future__ import annotations

import contextlib
import json
import math
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from flowllm.core.errors import UsageError
from flowllm.core.types import Budget, Json, NodeId, Priority, RunId, RunStatus, StepId
from flowllm.language.files import DiskFiles, Unreadable
from flowllm.language.inputs import resolve_inputs
from flowllm.language.literals import missing, restored
from flowllm.language.problems import nearest
from flowllm.language.workflow import Input, Step, Workflow, WorkflowBody
from flowllm.runtime.options import RunOptions
from flowllm.storage.base import Owner, RunRecord

_AMOUNTS = {"usd": "number", "tokens": "whole number"}


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


def inputs_again(
    run: RunRecord, options: RunOptions, workflow: Workflow, inputs: Mapping[str, Json], texts: Mapping[str, str]
) -> tuple[dict[str, Json], tuple[str, ...]]:
    """The inputs of a run that goes on with this workflow, and the names of those that are given: what it was given and
    still has a use for, under what it is given now; defaults are those of the workflow. Raises InvalidInputs."""
    before = run.inputs if options.given is None else options.given
    kept = {
        name: run.inputs[name]
        for name in before
        if name in run.inputs and name in workflow.inputs and name not in inputs and name not in texts
    }
    as_texts = {
        name: text for name, value in kept.items() if (text := _as_text(value, workflow.inputs[name])) is not None
    }
    values = resolve_inputs(
        workflow,
        {**{name: value for name, value in kept.items() if name not in as_texts}, **inputs},
        {**as_texts, **texts},
        partial=options.over is not None,
    )
    given = {*kept, *inputs, *texts}
    return values, tuple(name for name in workflow.inputs if name in given)


def _as_text(value: Json, declared: Input) -> str | None:
    """The text of a value that is to be converted to what the input takes now; None: as it is."""
    if isinstance(value, str):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return json.dumps(value) if number and declared.type == "string" else None


def new_run(
    workflow: Workflow,
    options: RunOptions,
    *,
    inputs: Mapping[str, Json],
    provider: str,
    tenant: str,
    owner: Owner,
    now: float,
) -> RunRecord:
    """The record of a run that begins; `inputs` are masked already."""
    return RunRecord(
        run_id=new_run_id(now),
        workflow=workflow.name,
        path=workflow.path,
        status=RunStatus.RUNNING,
        started_at=now,
        provider=provider,
        inputs=inputs,
        options=options.as_dict(),
        snapshot=workflow.snapshot,
        tenant=tenant,
        owner=owner,
    )


def unmasked(run: RunRecord) -> RunRecord:
    """The run with the secrets that its files have written out, which are not on record, as they are on disk. Raises
    UsageError if they are no longer there."""
    if not missing(run.snapshot):
        return run
    disk, texts = DiskFiles(), {}
    for path in run.snapshot:
        with contextlib.suppress(Unreadable):
            texts[path] = disk.read(path)
    whole = restored(run.snapshot, texts)
    places = missing(whole)
    if places:
        raise UsageError(
            f"run {run.run_id} began with a secret that was written out in {', '.join(places)}; no record has it, and "
            "that line is no longer there",
            hint="put the line back, or go on with the files as they are now: "
            f"flowllm resume {run.run_id} --file {run.path}",
        )
    return replace(run, snapshot=whole)


def edited(run: RunRecord) -> list[str]:
    """What to tell of files that are not what they were when the run began."""
    disk, edited = DiskFiles(), []
    for path, text in run.snapshot.items():
        try:
            same = disk.read(path) == text
        except Unreadable:
            same = False
        if not same:
            edited.append(path)
    if not edited:
        return []
    told = f"{', '.join(edited)} changed since this run began; it goes on with what it began with."
    return [f"{told} To take what is on disk: flowllm resume {run.run_id} --file {run.path}"]
