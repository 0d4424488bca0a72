"""flowllm plan and flowllm why: what would happen, and why something did."""

from __future__ import annotations

from shlex import quote

import click

from flowllm.app.flowllm import FlowLLM
from flowllm.cli.database import find_run, reading
from flowllm.cli.inputs import GivenInputs, input_options, plan_options
from flowllm.cli.options import Location, json_option, location_options
from flowllm.cli.output import print_json, print_table, results
from flowllm.core.types import Json
from flowllm.explain.estimate import Estimate, Forecast, ForecastNode
from flowllm.explain.why import Why
from flowllm.reporting.text import at_least, dollars, one_line, plural, visible, waits_text
from flowllm.runtime.options import RunOptions


@click.command()
@click.argument("file")
@input_options
@plan_options
@json_option
@location_options
def plan(*, file: str, given: GivenInputs, options: RunOptions, as_json: bool, location: Location) -> None:
    """Show what `flowllm run FILE` would do: sends nothing.

    For each step: in which generation it starts, whether its answer is stored already and if not why, and at most
    how many tokens and dollars it takes.
    """
    inputs, texts = given.values(), given.texts()
    forecast = reading(location, lambda app: app.forecast(file, inputs=inputs, input_text=texts, options=options))
    if as_json:
        print_json(forecast_data(forecast))
    else:
        print_forecast(forecast)


def forecast_data(forecast: Forecast) -> dict[str, Json]:
    """The object that --json prints."""
    return {
        "workflow": forecast.workflow.name,
        "provider": forecast.provider,
        "steps": {node.step: _node_data(node) for node in forecast.nodes},
        "requests": forecast.total.requests,
        "input_tokens": forecast.total.input_tokens,
        "output_tokens": forecast.total.output_tokens,
        "cost_usd": forecast.total.cost_usd,
        "at_least": forecast.at_least,
        "prompt_cache": forecast.total.prompt_cache.as_dict(),
        "critical_path": list(forecast.critical_path),
        "max_parallel": forecast.max_parallel,
        "max_concurrent": dict(forecast.max_concurrent),
    }


def _node_data(node: ForecastNode) -> dict[str, Json]:
    estimate = node.estimate
    return {
        "kind": estimate.kind.value,
        "generation": node.generation,
        "state": estimate.state,
        "why": estimate.why,
        "model": estimate.model or None,
        "items": estimate.items,
        "requests": estimate.requests,
        "cached": estimate.cached,
        "input_tokens": estimate.input_tokens,
        "output_tokens": estimate.output_tokens,
        "cost_usd": estimate.cost_usd,
    }


def print_forecast(forecast: Forecast) -> None:
    """The table, and the sums below it."""
    rows = [_cells(node) for node in forecast.nodes]
    headers = ["GEN", "STEP", "KIND", "STATE", "REQUESTS", "TOKENS IN", "OUT AT MOST", "COST", "WHY"]
    print_table(headers, rows, right=("GEN", "REQUESTS", "TOKENS IN", "OUT AT MOST", "COST"))
    screen = results()
    screen.line()
    known = forecast.at_least
    cost = at_least(forecast.total.cost_usd, known["cost_usd"], dollars)
    screen.line(
        f"{_requests(forecast)} to {visible(forecast.provider)}; "
        f"tokens: {known['input_tokens']:,} in, {known['output_tokens']:,} out at most; cost: {cost}"
    )
    if line := _from_prompt_cache(forecast.total):
        screen.line(line)
    for model, most in forecast.max_concurrent.items():
        screen.line(f"{plural(most, 'request')} to {visible(model)} in flight, as an earlier run found")
    if forecast.unknown:
        count = plural(forecast.unknown, "step")
        screen.line(f"and what {count} will take, which depends on answers: the sums above leave that out")
    if forecast.critical_path:
        path = " → ".join(forecast.critical_path)
        screen.line(f"critical path: {path}; at most {plural(forecast.max_parallel, 'step')} at a time")


def _from_prompt_cache(total: Estimate) -> str:
    """What requests that wait for those whose prompts begin the same are expected to save; empty where none do."""
    cache = total.prompt_cache
    if not cache.cached_tokens:
        return ""
    share = f" ({cache.cached_tokens / total.input_tokens:.0%})" if total.input_tokens else ""
    saved = f", which saves about {dollars(cache.saved_usd)}" if cache.saved_usd else ""
    return (
        f"prompt cache: about {cache.cached_tokens:,} tokens in{share} from the provider's{saved}; "
        f"{cache.leaders:,} of {plural(cache.requests, 'request')} with long prompts find nothing there"
    )


def _cells(node: ForecastNode) -> list[str]:
    estimate = node.estimate
    sums = [""] * 4
    if not estimate.idle:
        numbers = (estimate.requests, estimate.input_tokens, estimate.output_tokens)
        sums = [*map(_known, numbers), dollars(estimate.cost_usd)]
    return [str(node.generation), node.step, estimate.kind.value, estimate.state, *sums, estimate.why]


def _requests(forecast: Forecast) -> str:
    if forecast.total.requests is None:
        return f"{plural(forecast.at_least['requests'], 'request')}, and those of steps that nobody can count yet,"
    return f"{plural(forecast.total.requests, 'request')} at most"


def _known(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


@click.command()
@click.argument("run")
@click.argument("step")
@json_option
@location_options
def why(*, run: str, step: str, as_json: bool, location: Location) -> None:
    """Say why STEP of RUN was carried out again: which part of its request changed, what changed it, and why it waited.

    RUN is an id, its beginning, or `last`.
    """

    async def work(app: FlowLLM) -> Why:
        return await app.why((await find_run(app.store, run)).run_id, step)

    found = reading(location, work)
    if as_json:
        print_json(found.as_dict())
        return
    screen = results()
    screen.line(visible(found.text))
    for change in found.changes:
        screen.line(f"  {visible(change.path)}")
        screen.line(("    - ", "red"), one_line(change.before, 400))
        screen.line(("    + ", "green"), one_line(change.after, 400))
    for cause in found.causes:
        screen.line(f"  because {visible(cause)}")
    leader = found.equal_call or ("", "")
    equal_to = leader[1] if leader[0] in {"", found.run_id} else f"{leader[1]} of run {leader[0]}"
    if waited := waits_text(found.waits, equal_to=equal_to):
        screen.line(f"waited {visible(waited)}")
    if found.hedged:
        what = f"{plural(found.hedged, 'request')} took long, and {'was' if found.hedged == 1 else 'were'}"
        screen.line(f"{what} sent twice: `flowllm show {found.run_id} {quote(visible(found.step))}` has both attempts")
