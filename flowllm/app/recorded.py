"""Runs that are on record, as a FlowLLM gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from flowllm.app.prepare import chosen_steps, step_of
from flowllm.app.result import RunResult, figures_of, status_named
from flowllm.app.started import run_started
from flowllm.core.events import RunStarted
from flowllm.core.tasks import to_the_end
from flowllm.core.types import ROW, RunId, RunStatus, StepId, StepKind
from flowllm.datasets.spool import forget_spool, spool_path
from flowllm.explain.why import Why, explain
from flowllm.language.workflow import Workflow
from flowllm.runtime.options import RunOptions
from flowllm.storage.base import NodeRecord, RunRecord, Store
from flowllm.views.nodes import MOST_ITEMS, all_nodes, counted, whole_nodes


class RecordedRuns:
    """What of `FlowLLM` reads runs, or removes them."""

    @property
    def store(self) -> Store:
        """The open database. Raises UsageError outside of `async with`."""
        raise NotImplementedError

    @property
    def _file(self) -> Path | None:
        raise NotImplementedError

    def _stored(self, run: RunRecord, options: RunOptions) -> Workflow:
        """The workflow that a run has on record."""
        raise NotImplementedError

    async def why(self, run_id: str, step: str) -> Why:
        """Why a step of a run was carried out, or was not. Raises RunNotFound, and UsageError for the step."""
        run = await self.store.run(RunId(run_id))
        found = step_of(self.workflow_of(run), step)
        edges = () if found is None else tuple(found.edges)
        return await explain(self.store, run, step, edges, known=found is not None)

    def workflow_of(self, run: RunRecord) -> Workflow:
        """The workflow as the run has it on record. Raises InvalidWorkflow if this version takes it no more."""
        return self._stored(run, RunOptions.of(run.options))

    def started(self, run: RunRecord) -> RunStarted:
        """What the run's last attempt said of itself when it began. Raises InvalidWorkflow as
        `workflow_of`."""
        workflow, at = self.workflow_of(run), run.started_at if run.owner is None else run.owner.since
        steps = chosen_steps(workflow, RunOptions.of(run.options))
        named = {StepId(name): step for name, step in steps.items()}
        return run_started(workflow, named, run, at=at)

    async def delete(self, run_ids: Sequence[RunId]) -> int:
        """Remove runs with their results and what they kept of standard input, never stored answers; how many there
        were. Raises RunOwned, and removes nothing, if a process has one of them."""
        return await to_the_end(self._delete(list(dict.fromkeys(run_ids))))

    async def _delete(self, run_ids: Sequence[RunId]) -> int:
        count = await self.store.delete_runs(run_ids)
        for run_id in run_ids:
            forget_spool(spool_path(self._file, run_id))
        return count

    async def result(self, run_id: str, *, full: bool = False) -> RunResult:
        """A run as far as it has come; `full`: with all items of its foreaches, not only 1,000 of each. Raises
        RunNotFound."""
        run = await self.store.run(RunId(run_id))
        return await self._result(run.run_id, self._stored(run, RunOptions.of(run.options)), full=full)

    async def runs(
        self,
        *,
        limit: int = 50,
        workflow: str | None = None,
        status: RunStatus | str | None = None,
        since: datetime | None = None,
        tag: str | None = None,
    ) -> list[RunResult]:
        """The newest runs on record of which all that is given holds, the newest first: as `result` gives each, but without
        outputs of items (see `RunResult.rows`) and without steps that are not on record. `since`: started then or later. Raises
        UsageError for a status that there is not."""
        found = await self.store.runs(
            limit=limit,
            workflow=workflow,
            status=None if status is None else status_named(RunStatus, status),
            since=None if since is None else since.timestamp(),
            tag=tag,
        )
        return [await self._listed(run) for run in found]

    async def _listed(self, run: RunRecord) -> RunResult:
        nodes = all_nodes(run, await whole_nodes(self.store, run, 0), {})
        return RunResult.of(replace(run, stats=figures_of(run)), nodes, self.store.results(run.run_id))

    async def _result(
        self, run_id: RunId, workflow: Workflow, *, full: bool = False, nodes: Sequence[NodeRecord] | None = None
    ) -> RunResult:
        """`nodes` are those at the top, where they are at hand."""
        run = await self.store.run(run_id)
        if nodes is None:
            nodes = await whole_nodes(self.store, run, None if full else MOST_ITEMS)
        kinds: dict[str, StepKind] = {step.id: step.kind for step in workflow.steps.values()}
        if run.options.get("over") is not None:
            kinds = {ROW: StepKind.WORKFLOW}
        run = replace(run, stats=figures_of(run))
        return RunResult.of(
            run, await counted(self.store, all_nodes(run, nodes, kinds)), self.store.results(run.run_id)
        )
