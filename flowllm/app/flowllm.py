"""flowllm as a library: one FlowLLM a process, any number of runs in it, one limiter for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

from flowllm.app.cluster_workers import check_workers
from flowllm.app.dataset_run import absolute_paths, open_again, open_files
from flowllm.app.limit_shares import LimitShares
from flowllm.app.observer_hub import complain
from flowllm.app.prepare import PreparedRun, chosen_steps, new_run, plan_run, prepare_run, with_budget
from flowllm.app.recorded import RecordedRuns
from flowllm.app.result import RunResult
from flowllm.app.resume import edited, give_back, inputs_again, mended_items, run_to_resume, unmasked
from flowllm.app.run_attempt import RunAttempt, SharedServices
from flowllm.app.settings import check_arguments, load_settings, overrides, stored_project
from flowllm.app.telemetry import RunTelemetry
from flowllm.app.wiring import AUTO, SIMULATED, Providers
from flowllm.app.worker import Worker, pool_of
from flowllm.app.worker_pool import WorkerPool
from flowllm.calls.batch import Batches
from flowllm.calls.executor import CallExecutor
from flowllm.calls.response_cache import ResponseCache
from flowllm.calls.single_flight import InFlightCalls
from flowllm.core.cancel import StopSignal
from flowllm.core.clock import Clock, SystemClock
from flowllm.core.errors import UsageError
from flowllm.core.tasks import run_loop, start_task, to_the_end
from flowllm.core.types import ROW, Json, NodeId, RunStatus
from flowllm.datasets.file_writes import FileRegistry
from flowllm.datasets.spool import spool_path
from flowllm.language.files import SnapshotFiles
from flowllm.language.inputs import resolve_inputs
from flowllm.language.overrides import Overrides
from flowllm.language.project import Project
from flowllm.language.workflow import Workflow
from flowllm.limits.limiter import Limiter
from flowllm.providers.openai.provider import ClientPool
from flowllm.reporting.base import Observer
from flowllm.runtime.options import RunOptions
from flowllm.steps.loading import load_workflow
from flowllm.steps.python.guards import refuse_within_step
from flowllm.storage.base import RunLease, RunRecord, Store
from flowllm.storage.open import home_of, is_memory, open_store, this_process

if TYPE_CHECKING:
    from flowllm.app.planning import ShowPrompts
    from flowllm.explain.forecast import Forecast

WorkflowSource: TypeAlias = str | Path | Mapping[str, Json] | Workflow
"""The path of a workflow's file, its text (with a line break), a mapping, or one that was loaded."""


class FlowLLM(RecordedRuns):
    """Opens a database and runs workflows in it.

    async with FlowLLM() as app:
        run = await app.run("workflows/blog.yaml", inputs={"topic": "Tea"})
        print(run.outputs["headline"])
    """

    def __init__(
        self,
        *,
        database: str | Path | None = None,
        config: str | Path | None = None,
        clock: Clock | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`database` is a path or URL, `config` a flowllm.yaml; both are found as the command line finds them.

        Raises InvalidWorkflow for a flowllm.yaml with problems, UsageError for one that is not there.
        """
        self._settings = load_settings(
            environ=os.environ if environ is None else environ, config=config, database=database
        )
        self._clock = clock or SystemClock()
        self._pool = ClientPool()
        self._limiter = Limiter(self._clock, weights=self._settings.project.tenants)
        self._store: Store | None = None
        self._told: list[str] = []
        """What the database has lost, for the next run to tell."""
        self._line: CallExecutor | None = None
        self._calls: InFlightCalls | None = None
        self._shares: LimitShares | None = None
        self._telemetry = RunTelemetry(self._settings.environ, self._told.append)

    async def __aenter__(self) -> Self:
        self._store = await open_store(self._settings.database, clock=self._clock, told=self._told.append)
        line = self._line = CallExecutor(self._limiter, self._store, self._clock)
        if not is_memory(self.database):
            self._shares = LimitShares(self._limiter, self._store.balance, self._clock)
        batches = Batches(line, self._clock)
        self._calls = InFlightCalls(ResponseCache(batches, self._store, self._clock), self._clock)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await to_the_end(self._close())

    async def _close(self) -> None:
        store, self._store = self._store, None
        calls, self._calls = self._calls, None
        shares, self._shares = self._shares, None
        try:
            if calls is not None:
                await calls.drain()
            if self._line is not None:
                self._line.hedges.close()
            if shares is not None:
                await shares.close()
            self._limiter.close()
            await self._pool.close()
        finally:
            if store is not None:
                await store.close()
            await self._telemetry.close()

    @property
    def store(self) -> Store:
        """The open database. Raises UsageError outside of `async with`."""
        if self._store is None:
            raise UsageError("this FlowLLM is not open", hint="use it as `async with FlowLLM() as app:`")
        return self._store

    @property
    def database(self) -> str:
        """Where the database is."""
        return self._settings.database

    async def run(
        self,
        workflow: WorkflowSource,
        *,
        inputs: Mapping[str, Json] | None = None,
        input_text: Mapping[str, str] | None = None,
        options: RunOptions | None = None,
        tenant: str = "",
        observers: Sequence[Observer] = (),
        stop: StopSignal | None = None,
        claims: FileRegistry | None = None,
        workers: int | WorkerPool | None = None,
    ) -> RunResult:
        """Run a workflow and give its result, whether it succeeded or not.

        `inputs` are typed values; `input_text` are texts that are converted to the inputs' types; `claims` are more files
        that the run must not write over; so many `workers`, processes of this machine, execute the rows of `over` and the items of
        a foreach at the top, with those that join by `flowllm work` (0: those alone). Raises InvalidWorkflow, InvalidInputs and other UsageErrors before anything is
        sent, StoreError if results can no longer be kept. It is refused within a python step, whose run would know
        nothing of it.
        """
        refuse_within_step()
        check_arguments(workflow, inputs, options)
        stop = stop or StopSignal()
        options = absolute_paths(self._settings.complete(options or RunOptions()))
        options = replace(options, given=tuple({**(inputs or {}), **(input_text or {})}))
        loaded = self._load(workflow, options)
        given = resolve_inputs(loaded, inputs or {}, input_text, partial=options.over is not None)
        prepared = self._prepare(loaded, options, given, self._settings.project, claims)
        check_workers(workers, options, self.database)
        run = new_run(prepared, tenant=tenant, owner=this_process(self._clock), now=self._clock.now())
        rows, spool = None, spool_path(self._file, run.run_id)
        if options.over is not None:
            rows = await open_files(loaded, options, run=run, new=True, spool=spool, given=given, stop=stop)
        try:
            run = replace(await self.store.create_run(run), inputs=given)
        except BaseException:
            if rows is not None:
                await to_the_end(rows.close())
            raise
        pool, unsplit = pool_of(workers, prepared, self._settings)
        attempt = RunAttempt(
            prepared,
            run,
            self._shared,
            observers=self._telemetry.with_observer(observers, self.store),
            rows=rows,
            pool=pool,
        )
        nodes = await attempt.execute(stop, [*self._take_notices(), *unsplit, *(() if rows is None else rows.notices)])
        return await self._result(run.run_id, loaded, nodes=nodes)

    async def resume(
        self,
        run_id: str | None = None,
        *,
        file: str | Path | None = None,
        inputs: Mapping[str, Json] | None = None,
        input_text: Mapping[str, str] | None = None,
        mended: Sequence[Json] = (),
        retry_failed: bool = False,
        until: str | None = None,
        budget: Mapping[str, float] | None = None,
        cluster: str | None = None,
        observers: Sequence[Observer] = (),
        stop: StopSignal | None = None,
        claims: FileRegistry | None = None,
        workers: int | WorkerPool | None = None,
    ) -> RunResult:
        """Go on with a run: what holds is kept, everything else is carried out.

        Without `run_id`, the newest run that has not succeeded, or the newest if all have. `file` takes the workflow as it is on disk now;
        `inputs` and `input_text`, as for `run`, go over what it was given before; `mended` are lines of `flowllm failed`,
        whose items are taken in place of those that failed; `budget` (see RunOptions) is what it may spend in all,
        `cluster` another one than before; `workers` as for `run`.
        A run that has succeeded with all its steps is given back as it is. Raises RunNotFound, RunOwned and other UsageErrors.
        """
        refuse_within_step()
        stop = stop or StopSignal()
        run = await run_to_resume(self.store, run_id, self._told)
        options = RunOptions.of(run.options)
        options = replace(options, until=until, cluster=cluster or options.cluster)
        if budget:
            options = replace(options, budget={**(options.budget or {}), **budget})
        other = file is not None or bool(inputs) or bool(input_text)
        done = {node.node_id: node for node in await self.store.nodes(run.run_id)}
        rows_before = done.get(NodeId(ROW))
        part = rows_before is not None and rows_before.parts.get("until") not in {None, until}
        part = part or any(node.damaged for node in done.values())
        if run.status is RunStatus.SUCCEEDED and not (retry_failed or other or mended or part):
            stored = self._stored(run, options)
            if options.over is not None or done.keys() >= chosen_steps(stored, options).keys():
                return await self._result(run.run_id, stored)
        if file is not None:
            options = replace(options, config=self._settings.project.path or None)
            loaded, project = self._load(file, options), self._settings.project
        else:
            run = unmasked(run)
            loaded, project = self._stored(run, options), stored_project(options, run.snapshot)
        given = run.inputs
        if other:
            given, names = inputs_again(run, options, loaded, inputs or {}, input_text or {})
            options = replace(options, given=names)
        prepared = self._prepare(loaded, options, given, project, claims, before=run)
        check_workers(workers, options, self.database)
        redactor = prepared.providers.redactor
        options = replace(options, mended=await mended_items(self.store, run, mended, redactor))
        prepared = replace(prepared, options=options)
        rows, claiming = None, start_task(self.store.claim_run(run.run_id, this_process(self._clock)))
        try:
            claimed = replace(await asyncio.shield(claiming), inputs=given)
            anew = retry_failed or other or part or bool(mended)
            spool = spool_path(self._file, run.run_id)
            rows = await open_again(loaded, options, claimed, spool, self.store, anew=anew, stop=stop)
            before = await self.store.nodes(run.run_id)
            if other or mended or budget or cluster:
                await self._update(claimed, prepared)
        except BaseException:  # also when it is cancelled
            await to_the_end(give_back(self.store, claiming, run, rows, now=self._clock.now()))
            raise
        pool, unsplit = pool_of(workers, prepared, self._settings)
        attempt = RunAttempt(
            prepared,
            claimed,
            self._shared,
            observers=self._telemetry.with_observer(observers, self.store),
            rows=rows,
            before=before,
            retry_failed=retry_failed,
            pool=pool,
        )
        changed = [] if file is not None else edited(run)
        notices = [*self._take_notices(), *unsplit, *changed, *(() if rows is None else rows.notices)]
        await attempt.execute(stop, notices)
        return await self._result(run.run_id, loaded)

    async def work(
        self,
        run_id: str | None = None,
        *,
        idle: float | None = None,
        observers: Callable[[RunRecord], Sequence[Observer]] = lambda _: (),
        tell: Callable[[str], None] = complain,
        stop: StopSignal | None = None,
        started: bool = False,
    ) -> None:
        """Be a worker: execute items of runs that other processes of this database have, or of that one alone, until told to
        stop, or nothing was to be done for `idle` seconds; for one run until it is over. `observers` of each run that is joined;
        `tell` hears of runs that need what this process lacks; `started`: by the run itself, beside it. Raises UsageError where
        that one run needs what this process lacks."""
        worker = Worker(self.store, self._clock, self._join, observers=observers, tell=tell, started=started)
        await worker.work(run_id, idle=idle, stop=stop or StopSignal())

    def _join(self, run: RunRecord) -> tuple[PreparedRun, SharedServices]:
        options = RunOptions.of(run.options)
        options = replace(options, cluster=self._settings.environ.get("FLOWLLM_CLUSTER") or options.cluster)
        run = unmasked(run)
        project = stored_project(options, run.snapshot)
        return self._prepare(self._stored(run, options), options, run.inputs, project, None, before=run), self._shared

    async def forecast(
        self,
        workflow: WorkflowSource,
        *,
        inputs: Mapping[str, Json] | None = None,
        input_text: Mapping[str, str] | None = None,
        options: RunOptions | None = None,
        show: ShowPrompts | None = None,
    ) -> Forecast:
        """What a run would do; sends nothing. `show` names a step whose prompts are to be given too. Raises what `run`
        raises before it sends anything."""
        from flowllm.app.planning import plan  # noqa: PLC0415 - no other command needs the whole of `explain`

        check_arguments(workflow, inputs, options)
        options = self._settings.complete(options or RunOptions())
        if options.over is None:
            absolute_paths(options)  # refuses what belongs to `over`
        loaded = self._load(workflow, options)
        given = resolve_inputs(loaded, inputs or {}, input_text, partial=options.over is not None)
        prepared = plan_run(loaded, options, given, self._providers(loaded, options, self._settings.project))
        run = new_run(prepared, tenant="", owner=this_process(self._clock), now=self._clock.now())
        return await plan(prepared, replace(run, inputs=given), self._shared, show)

    # parts

    def _load(self, workflow: WorkflowSource, options: RunOptions) -> Workflow:
        wanted = overrides(options)
        if not isinstance(workflow, Workflow):
            loaded = load_workflow(workflow, project=self._settings.project, overrides=wanted)
        elif wanted == Overrides():
            loaded = workflow
        else:
            files, project = SnapshotFiles(workflow.files), stored_project(options, workflow.files)
            loaded = load_workflow(workflow.path, files=files, project=project, overrides=wanted)
        return with_budget(loaded, options)

    def _stored(self, run: RunRecord, options: RunOptions) -> Workflow:
        files, project = SnapshotFiles(run.snapshot), stored_project(options, run.snapshot)
        stored = load_workflow(run.path, files=files, project=project, overrides=overrides(options))
        return with_budget(stored, options)

    def _providers(self, workflow: Workflow, options: RunOptions, project: Project) -> Providers:
        return Providers(
            workflow,
            environ=self._settings.environ,
            pool=self._pool,
            clock=self._clock,
            prices=project.prices,
            all_simulated=options.provider == SIMULATED,
            database=self._settings.database,
        )

    def _prepare(
        self,
        workflow: Workflow,
        options: RunOptions,
        inputs: Mapping[str, Json],
        project: Project,
        files: FileRegistry | None,
        *,
        before: RunRecord | None = None,
    ) -> PreparedRun:
        """`before` is the run as earlier attempts left it."""
        providers = self._providers(workflow, options, project)
        if before is not None and before.provider != providers.default and workflow.default_provider == AUTO:
            raise UsageError(
                f"run {before.run_id} used {before.provider}, and `auto` would now mean {providers.default}",
                hint="set or unset OPENAI_API_KEY as it was, or start a new run",
            )
        return prepare_run(workflow, options, inputs, providers, files=files, database=self._file)

    @property
    def _shared(self) -> SharedServices:
        store, calls = self.store, self._calls
        assert calls is not None  # noqa: S101 - it is open with the store
        return SharedServices(
            store=store, clock=self._clock, limiter=self._limiter, calls=calls, shares=self._shares, database=self._file
        )

    def _take_notices(self) -> list[str]:
        """What the database has lost, told once."""
        found, self._told[:] = list(self._told), []
        return found

    @property
    def _file(self) -> Path | None:
        return home_of(self.database)

    async def _update(self, run: RunRecord, prepared: PreparedRun) -> None:
        await self.store.update_run(
            RunLease(run_id=run.run_id, epoch=run.epoch),
            snapshot=prepared.workflow.snapshot,
            path=prepared.workflow.path,
            options=prepared.options.as_dict(),
            inputs=prepared.providers.redactor.value(dict(run.inputs)),
        )


def run(
    workflow: WorkflowSource,
    *,
    inputs: Mapping[str, Json] | None = None,
    options: RunOptions | None = None,
    database: str | Path | None = None,
    config: str | Path | None = None,
    observers: Sequence[Observer] = (),
) -> RunResult:
    """Run a workflow from code that has no event loop; see FlowLLM.run.

    Raises UsageError when called inside of a running loop: there, use FlowLLM.
    """
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise UsageError(
            "flowllm.run() was called inside of a running event loop",
            hint="there, use `async with FlowLLM() as app: await app.run(…)`",
        )

    async def go() -> RunResult:
        async with FlowLLM(database=database, config=config) as app:
            return await app.run(workflow, inputs=inputs, options=options, observers=observers)

    return run_loop(go())
