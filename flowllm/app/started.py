"""What a run attempt says of itself when it begins, by which others can follow it."""

from __future__ import annotations

from collections.abc import Mapping

from flowllm.app.wiring import SIMULATED
from flowllm.core.events import RunStarted
from flowllm.core.types import ROW, Budget, StepId
from flowllm.language.workflow import Step, Workflow, WorkflowBody
from flowllm.storage.base import RunRecord


def run_started(workflow: Workflow, steps: Mapping[StepId, Step], run: RunRecord, *, at: float) -> RunStarted:
    """The event of the attempt that the run's record stands for, which executes these steps."""
    over, output = run.options.get("over"), run.options.get("output")
    budget, spent = workflow.budget or Budget(), run.totals.spend
    return RunStarted(
        run_id=run.run_id,
        at=at,
        workflow=run.workflow,
        provider=run.provider,
        nodes=1 if over is not None else len(steps),
        resumed=run.epoch > 1,
        simulated=workflow.default_provider == "auto" and run.provider == SIMULATED,
        over=over,
        output=output,
        steps=_needs(steps) if over is None else {ROW: [], **_needs(steps, f"{ROW}.")},
        budget_usd=budget.usd,
        budget_tokens=budget.tokens,
        spent_usd=spent.known_usd,
        spent_tokens=spent.known_input + spent.known_output,
    )


def _needs(steps: Mapping[StepId, Step], within: str = "") -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, step in steps.items():
        found[f"{within}{name}"] = [f"{within}{needed}" for needed in step.edges]
        if isinstance(step.body, WorkflowBody):
            found |= _needs(step.body.graph.steps, f"{within}{name}.")
    return found
