"""flowllm plan: what would happen, what it would take, and the prompts of one step."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import click

from flowllm.app.planning import ShowPrompts
from flowllm.cli.database import reading
from flowllm.cli.inputs import GivenInputs, input_options, plan_options
from flowllm.cli.options import Location, json_option, location_options
from flowllm.cli.output import heading, page_width, print_json, results
from flowllm.cli.plan_table import print_forecast
from flowllm.core.types import Json
from flowllm.explain.estimate import Estimate
from flowllm.explain.forecast import Forecast
from flowllm.explain.rendered import ShownPrompt
from flowllm.reporting.screen import Screen
from flowllm.reporting.tables import wrapped
from flowllm.reporting.text import readable, visible
from flowllm.runtime.options import RunOptions
from flowllm.views.node import Sent

_SHOWN = 3
"""Prompts of --show without --limit."""


@click.command()
@click.argument("file")
@input_options
@plan_options
@click.option(
    "--show", metavar="STEP", help="Print the prompts of this step that are known already, the first 3 or --limit."
)
@json_option
@location_options
def plan(
    *, file: str, given: GivenInputs, options: RunOptions, show: str | None, as_json: bool, location: Location
) -> None:
    """Show what `flowllm run FILE` would do: sends nothing.

    For each step: in which generation it starts, whether its answer is stored already and if not why, and how many tokens
    and dollars it takes; then the sums, what is left of the budget, and how long it takes under the limits.
    """
    inputs, texts = given.values(), given.texts()
    wanted = None if show is None else ShowPrompts(step=show, limit=options.limit or _SHOWN)
    forecast = reading(
        location, lambda app: app.forecast(file, inputs=inputs, input_text=texts, options=options, show=wanted)
    )
    if as_json:
        print_json(forecast_data(forecast))
    elif wanted is not None:
        _print_prompts(forecast, wanted)
    else:
        print_forecast(forecast)


def forecast_data(forecast: Forecast) -> dict[str, Json]:
    """The object that --json prints."""
    return {
        "workflow": forecast.workflow.name,
        "provider": forecast.provider,
        "steps": {
            node.step: {
                "generation": node.generation,
                "begins_s": node.begins,
                "ends_s": node.ends,
                **_data(node.estimate),
            }
            for node in forecast.nodes
        },
        **_sums(forecast.total),
        "at_least": forecast.at_least,
        "range": forecast.total.takes.as_dict(),
        "basis": forecast.total.basis,
        "budget": {one.name: one.as_dict() for one in forecast.budget},
        "prompt_cache": forecast.total.prompt_cache.as_dict(),
        "critical_path": list(forecast.critical_path),
        "max_parallel": forecast.max_parallel,
        "max_concurrent": dict(forecast.max_concurrent),
        "duration_s": forecast.seconds,
        "duration_range_s": None if forecast.seconds is None else [forecast.when.quickest, forecast.when.slowest],
        "notices": list(forecast.notices),
        **({} if forecast.shown is None else {"prompts": [one.as_dict() for one in forecast.shown]}),
    }


def _sums(estimate: Estimate) -> dict[str, Json]:
    return {
        "requests": estimate.requests,
        "input_tokens": estimate.input_tokens,
        "output_tokens": estimate.output_tokens,
        "cost_usd": estimate.cost_usd,
    }


def _data(estimate: Estimate) -> dict[str, Json]:
    """A step, or all items of a step within one."""
    return {
        "kind": estimate.kind.value,
        "state": estimate.state,
        "why": estimate.why,
        "model": estimate.model or None,
        "items": estimate.items,
        "cached": estimate.cached,
        **_sums(estimate),
        "range": estimate.takes.as_dict(),
        "per_item": None if estimate.per_item is None else estimate.per_item.as_dict(),
        "basis": estimate.basis,
        "list_price": estimate.list_price or None,
        **({"steps": {name: _data(one) for name, one in estimate.within.items()}} if estimate.within else {}),
    }


def _print_prompts(forecast: Forecast, wanted: ShowPrompts) -> None:
    """What the first nodes of the step would have a model read."""
    screen, shown = results(), forecast.shown or ()
    for number, one in enumerate(shown):
        if number:
            screen.line()
        heading(screen, one.node)
        _print_prompt(screen, one)
    more = forecast.shown_of - len(shown)
    if more > 0:
        screen.line()
        screen.line((f"and {more:,} more: --limit {forecast.shown_of} shows them", "dim"))
    if not shown:
        screen.line(visible(f"nobody can tell yet what {wanted.step} would ask; a plan without --show says why"))


def _print_prompt(screen: Screen, one: ShownPrompt) -> None:
    if one.body is None:
        screen.line((f"not known yet: it waits for {', '.join(one.waits)}", "dim"))
        return
    messages, settings, _ = Sent.of({"body": one.body})
    if not messages:
        _print_text(screen, readable(one.body))
        return
    names = sorted(settings, key=lambda name: (name != "model", name))
    _print_text(screen, visible(", ".join(f"{name}: {_short(settings[name])}" for name in names)), "dim")
    for role, content in messages:
        screen.line((f"[{visible(role)}]", "cyan"))
        _print_text(screen, readable(content).rstrip("\n"))


def _print_text(screen: Screen, text: str, style: str = "") -> None:
    """Within the terminal."""
    for line in wrapped(text, page_width()):
        screen.line((line, style) if style else line)


def _short(value: Json) -> str:
    """A setting in a few words: of what has a type, that."""
    if isinstance(value, Mapping) and "type" in value:
        return str(value["type"])
    text = value if isinstance(value, str) else readable(value)
    return textwrap.shorten(" ".join(text.split()), 60, placeholder=" …")
