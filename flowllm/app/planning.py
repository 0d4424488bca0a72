"""What `plan` is told of providers, limits and data sets, and what comes of it."""

from __future__ import annotations

from flowllm.app.dataset_run import planned_rows, row_step
from flowllm.app.lanes import Latencies, Learned, found_concurrent, planned_lanes
from flowllm.app.learned import learned_traits
from flowllm.app.prepare import PreparedRun, every_step, kinds_of
from flowllm.app.run_attempt import SharedServices
from flowllm.app.wiring import Providers, step_kinds
from flowllm.core.errors import UsageError
from flowllm.core.records import dataclass, replace
from flowllm.core.types import StepKind, Trait
from flowllm.explain.asking import Known
from flowllm.explain.forecast import Forecast, forecast, forecast_rows
from flowllm.explain.load import Lanes, calls_in
from flowllm.explain.planner import Planner
from flowllm.explain.rendered import Shown, ShownPrompt
from flowllm.language.problems import nearest
from flowllm.language.workflow import Workflow
from flowllm.storage.base import RunRecord


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

    learned = await learned_traits(store, clock)

    def lanes() -> Lanes:
        return planned_lanes(providers, workflow, options.max_concurrent, learned)

    planner = Planner(
        run,
        options,
        kinds=step_kinds(workflow, providers, shared.calls, prepared.secrets, kinds_of(workflow)),
        store=store,
        known=Known(
            keeps=lambda provider, model: _keeps(providers, learned, provider, model),
            latencies=Latencies(workflow, store).of,
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
    models = {one.model for node in found.nodes for one in calls_in(node.estimate.load)}
    concurrent = found_concurrent(providers, options.max_concurrent, learned)
    return replace(
        found,
        max_concurrent={model: most for model, most in concurrent.items() if model in models},
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


def _keeps(providers: Providers, learned: Learned, provider: str, model: str) -> bool:
    """Whether requests to a model wait for those whose prompts begin the same."""
    mode = providers.limits(provider).prefix_cache
    traits = learned.get(str(providers.get(provider).account), {}).get(model, {})
    return mode == "on" or (mode != "off" and traits.get(Trait.CACHES_PREFIXES, 0.0) > 0)
