"""One sitting of a run: from the claim on it to its end on record."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from flowllm.app.dataset_run import RowFiles, over_of
from flowllm.app.prepare import every_step
from flowllm.app.wiring import SIMULATED, Providers, allow_local, step_kinds
from flowllm.calls.budget import RunBudget
from flowllm.calls.single_flight import InFlightCalls
from flowllm.core import descriptors
from flowllm.core.cancel import CancelToken, StopSignal
from flowllm.core.clock import Clock
from flowllm.core.errors import FlowLLMError, StoreError, UsageError, text_of
from flowllm.core.events import Event, Notice, RunEnded, RunStarted
from flowllm.core.money import Spend
from flowllm.core.tasks import to_the_end
from flowllm.core.types import Json, NodeId, RunId, StepId, StepKind
from flowllm.datasets.file_registry import FileRegistry
from flowllm.language.workflow import Step, Workflow
from flowllm.limits.limiter import Limiter
from flowllm.reporting.base import Closable, Observer
from flowllm.reporting.stats import Stats
from flowllm.runtime.compiled_graph import CompiledGraph
from flowllm.runtime.execute import AttemptOutcome, DatasetRun, execute_node, execute_run
from flowllm.runtime.foreach_runner import WIDE
from flowllm.runtime.foreach_state import DEFAULT_WINDOW, MOST_OPEN_ITEMS, OpenItemLimit
from flowllm.runtime.options import RunOptions
from flowllm.runtime.recorded import COUNTED, SITTING
from flowllm.runtime.run_context import RunContext, RunServices
from flowllm.steps.base import Kind, close_kinds
from flowllm.steps.save import Saver
from flowllm.storage.base import NodeRecord, RunLease, RunRecord, Store

RATES_KEPT = 7 * 86_400.0
"""Seconds for which a learned rate is believed."""


class ObserverHub:
    """Hands each event to every observer; one that fails is heard of once, and then left out."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = list(observers)

    def __call__(self, event: Event) -> None:
        """Something happened."""
        for observer in list(self._observers):
            try:
                observer.handle(event)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - a reader of events must not harm the run
                self._observers.remove(observer)
                _complain(f"{type(observer).__name__} failed and is left out: {text_of(error)}")

    def close(self) -> None:
        """The run is over."""
        observers, self._observers = self._observers, []
        for observer in observers:
            try:
                if isinstance(observer, Closable):
                    observer.close()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - as above
                _complain(f"{type(observer).__name__} could not be closed: {text_of(error)}")


def _complain(words: str) -> None:
    """On standard error, if that can be written; a run does not need it."""
    with contextlib.suppress(Exception):
        print(f"flowllm: {words}", file=sys.stderr)  # noqa: T201


def taken(told: list[str]) -> list[str]:
    """What is there to tell, once."""
    found, told[:] = told[:], []
    return found


async def run_to_resume(store: Store, run_id: str | None, lost: Sequence[str] = ()) -> RunRecord:
    """That run; without an id the newest that has not succeeded, or the newest if all have. `lost` is what the database has
    lost, told if there is none. Raises RunNotFound, UsageError."""
    try:
        return await store.run(RunId(run_id) if run_id is not None else await _newest(store))
    except UsageError as error:  # RunNotFound is one
        error.hint = "\n".join((error.hint, *lost))
        raise


async def _newest(store: Store) -> RunId:
    runs = await store.runs(limit=1, unfinished=True) or await store.runs(limit=1)
    if not runs:
        raise UsageError("there is no run to resume", hint="start one with `flowllm run FILE`")
    return runs[0].run_id


async def give_back(
    store: Store, claiming: asyncio.Task[RunRecord], before: RunRecord, rows: RowFiles | None, *, now: float
) -> None:
    """A claimed run that cannot be gone on with stays as it was. Raises StoreError."""
    if rows is not None:
        await rows.close()
    try:
        claimed = await claiming
    except FlowLLMError:  # told already: it is not claimed
        return
    await store.finish_run(
        RunLease(run_id=claimed.run_id, epoch=claimed.epoch),
        status=before.status,
        finished_at=before.finished_at or now,
        outputs=before.outputs,
        error=before.error,
        stats=before.stats,
    )


class RunAttempt:
    """Carries a claimed run to the end of this sitting and puts that on record."""

    def __init__(
        self,
        *,
        workflow: Workflow,
        steps: Mapping[NodeId, Step],
        run: RunRecord,
        options: RunOptions,
        providers: Providers,
        calls: InFlightCalls,
        limiter: Limiter,
        store: Store,
        clock: Clock,
        secrets: Mapping[str, str],
        observers: Sequence[Observer],
        spool: Path | None = None,
        rows: RowFiles | None = None,
        given: Mapping[str, Json] | None = None,
        claims: FileRegistry | None = None,
    ) -> None:
        """`spool` is a file for standard input; `rows` are the files of `--over`, `given` the inputs of all rows."""
        self._workflow = workflow
        self._spool = spool
        self._rows = rows
        self._given = given or {}
        self._claims = claims
        self._steps = steps
        self._run = run
        self._options = options
        self._providers = providers
        self._calls = calls
        self._limiter = limiter
        self._store = store
        self._clock = clock
        self._secrets = secrets
        self._stats = Stats()
        self._files = descriptors.left()
        self._resumed = False
        self._tell = ObserverHub([self._stats, *observers])

    async def hold(
        self,
        *,
        stop: StopSignal,
        before: Sequence[NodeRecord] = (),
        retry_failed: bool = False,
        resumed: bool = False,
        notices: Sequence[str] = (),
    ) -> None:
        """Run until the end; what happened is on record afterwards, also if the caller is cancelled meanwhile.

        Raises StoreError if the record could not be kept.
        """
        own_code = any(step.kind is StepKind.PYTHON for _, step in every_step(self._workflow.steps))
        stop.begun(self._options.grace, own_code=own_code)
        self._begin(resumed=resumed, notices=notices)
        kinds = step_kinds(self._workflow, self._providers, self._calls, self._secrets)
        token = stop.child()

        async def execute() -> None:
            self._claim()
            allow_local(self._limiter, kinds, holder=self._run.run_id)
            await self._remember_rates()
            context = await self._context(kinds, before, retry_failed=retry_failed)
            await self._execute(context, token, before)

        try:
            # From here on the run is put on record, however early its caller goes
            await to_the_end(execute(), abort=token.cancel)
        finally:
            await close_kinds(kinds)
            self._limiter.withdraw(self._run.run_id)
            stop.forget(token)
            self._tell.close()

    async def _context(
        self, kinds: Mapping[StepKind, Kind], before: Sequence[NodeRecord], *, retry_failed: bool
    ) -> RunContext:
        services = RunServices(
            kinds=kinds,
            store=self._store,
            clock=self._clock,
            redactor=self._providers.redactor,
            emit=self._tell,
            budget=await self._budget(),
            saver=Saver(claims=self._claims),
            spool=self._spool,
        )
        limits = self._workflow.limits
        return RunContext(
            self._run,
            services,
            execute_node,
            options=self._options,
            open_items=OpenItemLimit(min(MOST_OPEN_ITEMS, self._files), window=self._window),
            stop_at_error_rate=None if limits is None else limits.stop_at_error_rate,
            retry_failed=retry_failed,
            last_seq=max((node.seq for node in before), default=0),
        )

    async def _execute(self, context: RunContext, token: CancelToken, before: Sequence[NodeRecord]) -> None:
        began = self._clock.monotonic()
        graph = CompiledGraph(self._workflow.graph, {StepId(name): step for name, step in self._steps.items()})
        earlier = {node.node_id: node for node in before}
        ending = await execute_run(context, graph, token, before=earlier, dataset=self._over())
        with contextlib.suppress(StoreError):  # the run's own end comes first
            await self._learn_rates()
        await self._end(ending, self._clock.monotonic() - began)

    def _claim(self) -> None:
        """Tell the limiter what the run allows: no more connections than files may be opened yet."""
        holder, cap = self._run.run_id, self._options.max_concurrent
        self._providers.claim(self._limiter, holder=holder, cap=cap)
        slots = self._slots()
        if sum(slots) > self._files:
            most = max(1, self._files // len(slots))
            self._providers.claim(self._limiter, holder=holder, cap=most if cap is None else min(most, cap))
        if max(sum(slots), WIDE) > self._files:
            message = (
                f"at most {self._files} requests or items at once, as this process may have only "
                f"{descriptors.limit()} files open: `ulimit -n` raises that"
            )
            self._tell(Notice(run_id=holder, at=self._clock.now(), message=message))

    def _slots(self) -> list[int]:
        gauges = self._limiter.gauges()
        return [gauges[account].max_concurrent for account in self._providers.accounts() if account in gauges]

    def _window(self) -> int:
        """Enough items to keep all slots of the accounts that the run uses filled."""
        return max(DEFAULT_WINDOW, 2 * sum(self._slots()))

    def _over(self) -> DatasetRun | None:
        if self._rows is None:
            return None
        return over_of(
            self._workflow,
            self._rows,
            run=self._run,
            given=self._given,
            options=self._options,
            store=self._store,
            clock=self._clock,
        )

    async def _budget(self) -> RunBudget | None:
        """The run's budget, with what its earlier sittings spent."""
        budget = self._workflow.budget
        if budget is None:
            return None
        spend = await self._store.spend(self._run.run_id)
        return RunBudget(budget, spend)

    async def _remember_rates(self) -> None:
        """Begin with what earlier runs learned of the accounts' models."""
        known = await self._store.rates(since=self._clock.now() - RATES_KEPT)
        for account in self._providers.accounts():
            prefix = f"{account} model="
            for name, rate in known.items():
                if name.startswith(prefix):
                    self._limiter.remember(account, name.removeprefix(prefix), rate)

    async def _learn_rates(self) -> None:
        for account in self._providers.accounts():
            for model, rate in self._limiter.learned(account).items():
                await self._store.learn_rate(f"{account} model={model}", rate, at=self._clock.now())

    def _limits(self) -> dict[str, Json]:
        """How the accounts that this run used stand at its end."""
        gauges = self._limiter.gauges()
        return {
            name: gauges[account].as_dict()
            for name, account in self._providers.named_accounts().items()
            if account in gauges
        }

    def _begin(self, *, resumed: bool, notices: Sequence[str]) -> None:
        run, now = self._run, self._clock.now()
        self._resumed = resumed
        self._tell(
            RunStarted(
                run_id=run.run_id,
                at=now,
                workflow=run.workflow,
                provider=run.provider,
                nodes=1 if self._rows else len(self._steps),
                resumed=resumed,
                simulated=self._workflow.default_provider == "auto" and run.provider == SIMULATED,
                over=self._options.over,
                output=self._options.output,
            )
        )
        warnings = () if resumed else self._workflow.warnings
        for message in (*notices, *(str(warning).partition("\n")[0] for warning in warnings)):
            self._tell(Notice(run_id=run.run_id, at=now, message=message))

    async def _end(self, ending: AttemptOutcome, duration: float) -> None:
        run = self._run
        stats = {**self._stats.as_dict(duration_s=duration), "limits": self._limits()}
        if self._resumed:
            stats[SITTING] = {name: stats[name] for name in Spend().as_dict()}
        try:
            stats |= (await self._store.spend(run.run_id)).as_dict()
            stats[COUNTED] = 1 if self._rows else len(self._workflow.steps)
            await self._store.finish_run(
                RunLease(run_id=run.run_id, epoch=run.epoch),
                status=ending.status,
                finished_at=self._clock.now(),
                outputs=ending.outputs,
                error=ending.error,
                stats=stats,
            )
        except StoreError as error:
            raise (ending.failure if isinstance(ending.failure, StoreError) else error) from None
        self._tell(
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
