"""What `plan` is told of providers, limits and data sets, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from flowllm.app.dataset_run import planned_rows, row_step
from flowllm.app.learned import found_concurrent, keeps_prefixes
from flowllm.app.prepare import PreparedRun, every_step, kinds_of
from flowllm.app.run_attempt import SharedServices
from flowllm.app.wiring import SIMULATED, Providers, step_kinds
from flowllm.core.errors import UsageError
from flowllm.core.records import dataclass, replace
from flowllm.core.types import ROW, AttemptStatus, NodeId, RunId, StepKind
from flowllm.explain.asking import Known
from flowllm.explain.forecast import Forecast, forecast, forecast_rows
from flowllm.explain.planner import Planner
from flowllm.explain.rendered import Shown, ShownPrompt
from flowllm.explain.timing import Lane
from flowllm.language.problems import nearest
from flowllm.language.workflow import Workflow
from flowllm.limits.concurrency import CAREFUL, FIRST, OPENING_PACE, UNHEARD
from flowllm.limits.scope import MINUTE, STEADY
from flowllm.runtime.options import RunOptions
from flowllm.storage.base import AttemptRecord, RunRecord, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowPrompts:
    """Which prompts are to be shown."""

    step: str
    """Its path: `post.headline` is a step within one."""
    limit: int = 3
    """So many first ones."""


async def plan(prepared: PreparedRun, run: RunRecord, shared: SharedServices, show: ShowPrompts | None) -> Forecast:
    """What the run would do. Raises UsageError for a step to show that there is not, and for a data set; StoreError."""
    workflow, options, providers = prepared.workflow, prepared.options, prepared.providers
    store, clock = shared.store, shared.clock
    shown = None if show is None else _shown(show, workflow)

    async def concurrent() -> Mapping[str, int]:
        return await found_concurrent(providers, store, clock, options.max_concurrent)

    async def lanes() -> Mapping[str, Lane]:
        return _lanes(providers, workflow, options, await concurrent())

    planner = Planner(
        run,
        options,
        kinds=step_kinds(workflow, providers, shared.calls, prepared.secrets, kinds_of(workflow)),
        store=store,
        known=Known(
            keeps=await keeps_prefixes(providers, store, clock),
            latency=_Latencies(providers, workflow, store).of,
            list_price=providers.list_price,
        ),
        shown=shown,
    )
    notices: tuple[str, ...] = ()
    if options.over is None:
        found = await forecast(planner, workflow, prepared.steps, providers.default, lanes=lanes)
    else:
        rows, notices = await planned_rows(workflow, options, run.inputs)
        try:
            chosen = {step.id: step for step in prepared.steps.values()}
            step = row_step(replace(workflow, steps=chosen), run.inputs)
            found = await forecast_rows(planner, workflow, step, rows, providers.default, lanes=lanes)
        finally:
            if rows is not None:
                await rows.close()
    models = {node.estimate.model for node in found.nodes}
    return replace(
        found,
        max_concurrent={name: most for name, most in (await concurrent()).items() if name in models},
        shown=None if shown is None else tuple(_masked(one, providers) for one in shown.found),
        shown_of=0 if shown is None else shown.count,
        notices=notices,
    )


def _shown(show: ShowPrompts, workflow: Workflow) -> Shown:
    """Raises UsageError for a step that there is not, or that has no prompt."""
    known = dict(every_step(workflow.steps))
    step = known.get(show.step)
    if step is None:
        raise UsageError(
            f"there is no step {show.step!r} in {workflow.name}",
            hint=nearest(show.step, known) or f"there are: {', '.join(known)}",
        )
    if step.kind is StepKind.WORKFLOW:
        within = [name for name in known if name.startswith(f"{show.step}.")]
        raise UsageError(f"{show.step} is a graph and has no prompt of its own", hint=f"within it: {', '.join(within)}")
    return Shown(step=show.step, limit=show.limit)


def _masked(one: ShownPrompt, providers: Providers) -> ShownPrompt:
    return replace(one, body=providers.redactor.value(one.body))


def _lanes(
    providers: Providers, workflow: Workflow, options: RunOptions, concurrent: Mapping[str, int]
) -> dict[str, Lane]:
    """What each provider allows, by its name."""
    found = {}
    for name in providers.named_accounts():
        limits, settings = providers.limits(name, options.max_concurrent), workflow.providers[name]
        slots, grows_to, opening = math.inf, 0.0, 0.0
        if limits.max_concurrent is not None:
            slots = limits.max_concurrent
        elif name == providers.default and concurrent:
            slots = max(concurrent.values())
        elif name == providers.default or settings.type != SIMULATED:
            slots, grows_to, opening = FIRST, CAREFUL, OPENING_PACE
        if settings.type == SIMULATED and settings.slots is not None:
            slots, grows_to = min(slots, settings.slots), min(grows_to, settings.slots)
        rates = [(window.requests / window.per, float(window.requests)) for window in limits.windows]
        if limits.requests_per_minute:
            rate = limits.requests_per_minute / MINUTE
            rates.append((rate, float(limits.burst or max(1.0, rate))))
        rate, burst = min(rates, default=(math.inf, 1.0))
        tokens = limits.tokens_per_minute
        found[name] = Lane(
            slots=slots,
            grows_to=grows_to,
            opening=opening,
            unheard=min(UNHEARD, grows_to),
            requests_per_second=rate * STEADY,
            burst=burst,
            tokens_per_second=math.inf if tokens is None else tokens / MINUTE * STEADY,
            token_burst=tokens or 0.0,
            charges_usage=limits.tokens_charged == "usage",
        )
    return found


class _Latencies:
    """How long requests take where the step itself has no earlier one."""

    def __init__(self, providers: Providers, workflow: Workflow, store: Store) -> None:
        self._providers = providers
        self._workflow = workflow
        self._store = store
        self._known: dict[tuple[str, str], float | None] = {}

    async def of(self, provider: str, model: str) -> float | None:
        """Seconds: of a simulated provider as it is set, of others as the newest requests to that model took."""
        settings = self._workflow.providers.get(provider)
        if settings is not None and settings.type == SIMULATED:
            return settings.latency * math.exp(settings.latency_sigma**2 / 2)
        if (provider, model) not in self._known:
            like = AttemptRecord(
                attempt_id="",
                run_id=RunId(""),
                node_id=NodeId(ROW),
                key="",
                number=1,
                provider=provider,
                model=model,
                started_at=0.0,
                status=AttemptStatus.SENT,
            )
            found = await self._store.latencies(like)
            self._known[provider, model] = sum(found) / len(found) if found else None
        return self._known[provider, model]
