"""One attempt at a run: from the claim on it to its end on record."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path

from flowllm.app.cluster_workers import ClusterWorkers
from flowllm.app.dataset_run import RowFiles, over_of
from flowllm.app.learned import learn, remember
from flowllm.app.limit_shares import LimitShares
from flowllm.app.observer_hub import ObserverHub
from flowllm.app.prepare import PreparedRun, every_step, kinds_of, needs_cluster, unsplit
from flowllm.app.result import COUNTED, LAST_ATTEMPT
from flowllm.app.started import run_started
from flowllm.app.wiring import allow_local, step_kinds
from flowllm.app.worker_pool import PoolEvents, WorkerPool
from flowllm.calls.budget import RunBudget
from flowllm.calls.shared_budget import SharedBudget
from flowllm.calls.single_flight import InFlightCalls
from flowllm.cluster.base import Cluster
from flowllm.core import descriptors
from flowllm.core.cancel import CancelToken, StopSignal
from flowllm.core.clock import Clock
from flowllm.core.errors import RunStopped, StoreError, fuller
from flowllm.core.events import Notice, RunEnded
from flowllm.core.models import MODELS, with_savings
from flowllm.core.money import Spend
from flowllm.core.records import dataclass
from flowllm.core.tasks import start_task, to_the_end
from flowllm.core.types import Json, StepId, StepKind
from flowllm.datasets.spool import spool_path
from flowllm.limits.concurrency import UNHEARD
from flowllm.limits.limiter import Limiter
from flowllm.limits.rates import MINUTE
from flowllm.providers.base import Account
from flowllm.reporting.base import AccountState, Observer
from flowllm.reporting.followed import SpendRead
from flowllm.reporting.stats import Stats
from flowllm.runtime.coordinator import Coordinator
from flowllm.runtime.execute import AttemptOutcome, DatasetRun, execute_node, execute_run
from flowllm.runtime.foreach_state import DEFAULT_WINDOW, MOST_OPEN_ITEMS, OpenItemLimit
from flowllm.runtime.graph_state import CompiledGraph
from flowllm.runtime.item_pump import LOCAL_WINDOW
from flowllm.runtime.run_context import RunContext, RunServices
from flowllm.steps.base import StepRunner, close_runners
from flowllm.steps.save import Saver
from flowllm.storage.base import NodeRecord, RunLease, RunRecord, Store
from flowllm.storage.monitoring import Gauge
from flowllm.storage.timeline import RUN_ATTEMPTS
from flowllm.views.gauges import FRESH, together
from flowllm.views.within import StepsWithin

WATCHED_EVERY = 1.0
"""Seconds from one look at the limiter, and at suspended nodes, to the next."""


GROUPED = 16
"""Items for each slot of an account whose server keeps the beginnings of prompts: enough of several groups to fill the
slots while the first of each is on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedServices:
    """What all runs of one FlowLLM share."""

    store: Store
    clock: Clock
    limiter: Limiter
    calls: InFlightCalls
    shares: LimitShares | None
    """None: no other process can use its database."""
    database: Path | None
    """Its file."""


class RunAttempt:
    """Executes a claimed run until it ends or stops, and puts that on record."""

    def __init__(
        self,
        prepared: PreparedRun,
        run: RunRecord,
        shared: SharedServices,
        *,
        observers: Sequence[Observer],
        rows: RowFiles | None = None,
        before: Sequence[NodeRecord] = (),
        retry_failed: bool = False,
        pool: WorkerPool | None = None,
    ) -> None:
        """`rows` are the files of `--over`; `before` is what earlier attempts left of the nodes at the top; `pool` starts
        the run's workers."""
        self._prepared = prepared
        self._workflow = prepared.workflow
        self._options = prepared.options
        self._providers = prepared.providers
        self._run = run
        self._shared = shared
        self._limiter = shared.limiter
        self._store = shared.store
        self._clock = shared.clock
        self._rows = rows
        self._before = before
        self._retry_failed = retry_failed
        self._pool = pool
        self._stats = Stats()
        self._within = StepsWithin(shared.store, run.run_id, ())
        self._others: Sequence[Gauge] = ()
        """How accounts stand by all processes, where workers have items of the run."""
        self._files = descriptors.left()
        self._resumed = run.epoch > 1
        self._emit = ObserverHub([self._stats, *observers])

    async def execute(self, stop: StopSignal, notices: Sequence[str] = ()) -> Sequence[NodeRecord] | None:
        """Run until the end; what happened is on record afterwards, also if the caller is cancelled meanwhile. Gives the
        nodes at the top as they are on record, None where they are to be read there.

        Raises StoreError if the record could not be kept.
        """
        wanted = kinds_of(self._workflow)
        stop.begun(self._options.grace, own_code=StepKind.PYTHON in wanted)
        self._begin(notices)
        cluster = self._cluster()
        kinds = step_kinds(
            self._workflow, self._providers, self._shared.calls, self._prepared.secrets, wanted, cluster=cluster
        )
        token = stop.child()

        async def execute() -> Sequence[NodeRecord] | None:
            self._claim()
            allow_local(self._limiter, kinds, holder=self._run.run_id)
            await remember(self._limiter, self._providers.accounts(), self._store, self._clock)
            await self._share()
            context = await self._context(kinds)
            try:
                return await self._execute_run(context, token)
            finally:
                if context.budget is not None:
                    await context.budget.close()

        unheard = self._store.listen(self._notice)
        stop.listen(self, self._store.hurry)
        try:
            # From here on the run is put on record, however early its caller goes
            return await to_the_end(execute(), abort=token.cancel)
        finally:
            await close_runners(kinds)
            if cluster is not None:
                await cluster.close()
            self._limiter.withdraw(self._run.run_id)
            if self._shared.shares is not None:
                self._shared.shares.leave(self._run.run_id)
            stop.forget(token)
            stop.forget(self)
            unheard()
            self._emit.close()

    def _cluster(self) -> Cluster | None:
        """The run's cluster, where it needs one, on its way while the run begins."""
        cluster = self._prepared.cluster
        every = every_step({StepId(name): step for name, step in self._prepared.steps.items()})
        if cluster is None or not (
            isinstance(self._pool, ClusterWorkers) or any(needs_cluster(step) for _, step in every)
        ):
            return None
        cluster.start(self._notice)
        return cluster

    def _notice(self, message: str) -> None:
        self._emit(Notice(run_id=self._run.run_id, at=self._clock.now(), message=message))

    async def _context(self, kinds: Mapping[StepKind, StepRunner]) -> RunContext:
        services = RunServices(
            kinds=kinds,
            store=self._store,
            clock=self._clock,
            redactor=self._providers.redactor,
            emit=self._emit,
            budget=await self._budget(),
            saver=Saver(claims=self._prepared.files),
            spool=spool_path(self._shared.database, self._run.run_id),
        )
        return RunContext(
            self._run,
            services,
            execute_node,
            options=self._options,
            open_items=OpenItemLimit(min(MOST_OPEN_ITEMS, self._files), window=self._window),
            stop_at_error_rate=self._stops_at_error_rate(),
            retry_failed=self._retry_failed,
        )

    def _stops_at_error_rate(self) -> float | None:
        limits = self._workflow.limits
        return None if limits is None else limits.stop_at_error_rate

    def _graph(self) -> CompiledGraph:
        return CompiledGraph(self._workflow, {StepId(name): step for name, step in self._prepared.steps.items()})

    async def _execute_run(self, context: RunContext, token: CancelToken) -> Sequence[NodeRecord] | None:
        began = self._clock.monotonic()
        earlier = {node.node_id: node for node in self._before}
        watching = start_task(self._watch(context))
        try:
            async with self._workers(context):
                ending = await execute_run(context, self._graph(), token, before=earlier, dataset=self._over())
        finally:
            watching.cancel()
        with contextlib.suppress(StoreError):  # the run's own end comes first
            await learn(self._limiter, self._providers.accounts(), self._store, self._clock)
        await self._end(ending, self._clock.monotonic() - began)
        return ending.nodes

    async def _watch(self, context: RunContext) -> None:
        """Once a second: keep how the run's accounts stand and what its nodes have waited, let observers say what is waited for, and go on with suspended
        nodes that were woken."""
        shares = self._shared.shares
        while True:
            await self._clock.sleep(WATCHED_EVERY)
            if (lost := self._store.lost(context.lease)) is not None:
                context.broke(lost)
                return
            self._store.note_gauges(self._gauges())
            self._limiter.count_waits()
            self._store.note_waits(context.lease, context.waits(1 if shares is None else shares.processes))
            with contextlib.suppress(StoreError):  # whoever writes next hears of it
                if context.budget is not None:
                    await context.budget.look()
                await context.suspended.look()
                if context.coordinator is not None:
                    await context.coordinator.look()
                    await self._tell_of_workers(context.coordinator)
            self._emit.look(self._clock.now(), self._accounts())

    async def _tell_of_workers(self, coordinator: Coordinator) -> None:
        """What is not heard here of what workers do is read from the record, for who looks at it."""
        run_id, now = self._run.run_id, self._clock.now()
        self._others = await self._store.gauges(since=now - FRESH) if coordinator.handed else []
        states = [
            together(AccountState(), self._others, account=str(one), but=self._process)
            for one in self._providers.accounts()
        ]
        coordinator.in_flight = sum(state.in_flight or 0 for state in states)
        if not self._others or not self._emit.watched:
            return
        for foreach in coordinator.handed:
            for event in await self._within.read(foreach, now, over=False):
                self._emit(event)
        spend = await self._store.spend(run_id)
        tokens, exact = spend.known_input + spend.known_output, spend.cost_usd is not None
        self._emit(SpendRead(run_id=run_id, at=now, usd=spend.known_usd, tokens=tokens, exact=exact))

    def _accounts(self) -> dict[str, AccountState]:
        """One value for each account, under all names that the workflow gives it."""
        gauges, addresses = self._limiter.gauges(), self._providers.addresses()
        states: dict[Hashable, AccountState] = {}
        named = self._providers.named_accounts()
        for name, account in named.items():
            if account not in states and (gauge := gauges.get(account)) is not None:
                state = AccountState(
                    address=addresses.get(name, ""),
                    requests_per_minute=gauge.requests_per_minute,
                    tokens_per_minute=gauge.tokens_per_minute,
                    pause_s=gauge.paused_s,
                )
                if self._others:
                    state = together(state, self._others, account=str(account), but=self._process)
                states[account] = state
        return {name: states[account] for name, account in named.items() if account in states}

    @property
    def _process(self) -> str:
        """As gauges name it."""
        return "" if self._run.owner is None else self._run.owner.process

    def _gauges(self) -> list[Gauge]:
        gauges, now, process = self._limiter.gauges(), self._clock.now(), self._process
        return [
            Gauge(
                process=process,
                account=str(account),
                at=now,
                in_flight=gauge.in_flight,
                waiting=gauge.waiting,
                max_concurrent=gauge.slots,
                rate=None if gauge.requests_per_minute is None else gauge.requests_per_minute / MINUTE,
                requests_sent=gauge.requests_sent,
                tokens_per_minute=gauge.tokens_per_minute,
                tokens=gauge.tokens_left,
                tokens_used=gauge.tokens_used,
                refused=gauge.refused,
                pause_s=gauge.paused_s,
                waits=gauge.waits,
            )
            for account in self._providers.accounts()
            if (gauge := gauges.get(account)) is not None
        ]

    def _claim(self) -> None:
        """Tell the limiter what the run allows: no more connections than files may be opened yet."""
        holder, cap, accounts = self._run.run_id, self._options.max_concurrent, self._providers.accounts()
        self._providers.claim(self._limiter, holder=holder, cap=cap)
        found = [self._limiter.written(account) for account in accounts]
        written, share = sum(most or 0 for most in found), max(1, self._files // max(1, len(found)))
        over = written > self._files
        ceiling = share if over else max(1, (self._files - written) // max(1, found.count(None)))
        most = share if over else None
        self._providers.claim(
            self._limiter, holder=holder, cap=cap, most=most, ceiling=ceiling, found=self._share_later
        )
        if max(written, LOCAL_WINDOW) > self._files:
            message = (
                f"at most {self._files:,} requests or items at once, as this process may have only "
                f"{descriptors.limit():,} files open: `ulimit -n` raises that"
            )
            self._emit(Notice(run_id=holder, at=self._clock.now(), message=message))

    async def _share(self) -> None:
        """Divide the limits with other processes at the database."""
        if self._shared.shares is not None:
            steps = {StepId(name): step for name, step in self._prepared.steps.items()}
            models = self._providers.models(step for _, step in every_step(steps))
            await self._shared.shares.join(models, holder=self._run.run_id)

    def _share_later(self, account: Account) -> None:
        if self._shared.shares is not None:
            self._shared.shares.add({account: ()}, holder=self._run.run_id)

    def _window(self, any_order: bool) -> int:
        """Enough items to keep all slots of the accounts that the run uses filled, as they are now; more where those go
        together whose prompts begin the same. In a given order always as many, so that a repeat pulls no others."""
        accounts, limiter = self._providers.accounts(), self._limiter
        if not any_order:
            return max(DEFAULT_WINDOW, 2 * sum(limiter.written(account) or UNHEARD for account in accounts))
        slots = {account: limiter.slots(account) for account in accounts}
        found = (max(2 * most, min(GROUPED * most, limiter.ahead(account))) for account, most in slots.items())
        return max(DEFAULT_WINDOW, sum(found))

    @contextlib.asynccontextmanager
    async def _workers(self, context: RunContext) -> AsyncIterator[None]:
        """Within it the run has its workers, where it is to have any; else those may join it that come by themselves."""
        pool, run = self._pool, self._run

        def figures(counted: Mapping[str, Json]) -> None:
            self._stats.add(counted["stats"])
            context.counted_elsewhere(counted["failures"])

        if pool is None:
            if not unsplit(self._prepared, in_memory=self._shared.database is None):
                context.coordinator = Coordinator(context, workers=None, figures=figures)
            yield
            if context.coordinator is not None:
                await context.coordinator.end()
            return
        try:
            await pool.open()
        except RunStopped as error:
            context.end_early(error)
        coordinator = context.coordinator = Coordinator(context, workers=pool.size, figures=figures)
        await coordinator.begin()
        await pool.start(run.run_id, PoolEvents(tell=self._notice, gone=coordinator.gone, lost=coordinator.alone))
        try:
            yield
        finally:
            await pool.close(cancel=context.token.cancelled)
            await coordinator.end()

    def _over(self) -> DatasetRun | None:
        if self._rows is None:
            return None
        return over_of(
            self._workflow,
            self._rows,
            run=self._run,
            given=self._run.inputs,
            options=self._options,
            store=self._store,
            clock=self._clock,
        )

    @property
    def _splits(self) -> bool:
        """Other processes may work at the run, too."""
        return self._pool is not None or not unsplit(self._prepared, in_memory=self._shared.database is None)

    async def _budget(self) -> RunBudget | None:
        """The run's budget, with what its earlier attempts took."""
        budget = self._workflow.budget
        if budget is None:
            return None
        if self._splits:
            return SharedBudget(budget, partial(self._store.take_portion, self._run.run_id, budget), self._clock)
        return RunBudget(budget, await self._store.spend(self._run.run_id))

    def _limits(self) -> dict[str, Json]:
        """How the accounts that this run used stand at its end."""
        gauges = self._limiter.gauges()
        return {
            name: gauges[account].as_dict()
            for name, account in self._providers.named_accounts().items()
            if account in gauges
        }

    def _begin(self, notices: Sequence[str]) -> None:
        run, now = self._run, self._clock.now()
        steps = {StepId(name): step for name, step in self._prepared.steps.items()}
        started = run_started(self._workflow, steps, run, at=now)
        self._within = StepsWithin(self._store, run.run_id, started.steps)
        self._emit(started)
        warnings = () if self._resumed else self._workflow.warnings
        for message in (*notices, *(str(warning).partition("\n")[0] for warning in warnings)):
            self._emit(Notice(run_id=run.run_id, at=now, message=message))

    async def _end(self, ending: AttemptOutcome, duration: float) -> None:
        run = self._run
        stats = {**self._stats.as_dict(duration_s=duration), "limits": self._limits()}
        if self._resumed:
            stats[LAST_ATTEMPT] = {name: stats[name] for name in Spend().as_dict()}
        try:
            stats |= (await self._store.spend(run.run_id)).as_dict()
            if self._resumed:
                attempts = (run.stats.get(MODELS), stats[MODELS])
                stats[MODELS] = with_savings(await self._store.models(run.run_id), attempts)
            stats[COUNTED] = 1 if self._rows else len(self._workflow.steps)
            await self._store.finish_run(
                RunLease(run_id=run.run_id, epoch=run.epoch),
                status=ending.status,
                finished_at=self._clock.now(),
                outputs=ending.outputs,
                error=ending.error,
                stats={**stats, RUN_ATTEMPTS: run.stats[RUN_ATTEMPTS]},
            )
        except StoreError as error:
            raise (fuller(ending.failure, error) if isinstance(ending.failure, StoreError) else error) from None
        self._emit(
            RunEnded(
                run_id=run.run_id,
                at=self._clock.now(),
                status=ending.status,
                duration_s=duration,
                outputs=ending.outputs,
                error=ending.error,
                stats=stats,
            )
        )
        if ending.failure is not None:
            raise ending.failure
