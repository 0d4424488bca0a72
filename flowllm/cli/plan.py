"""flowllm plan: what would happen, what it would take, and the prompts of one step."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

import click

from flowllm.app.planning import ShowPrompts
from flowllm.cli.database import reading
from flowllm.cli.inputs import GivenInputs, input_options, plan_options
from flowllm.cli.options import Location, json_option, location_options
from flowllm.cli.output import heading, print_json, results
from flowllm.core.types import Json
from flowllm.explain.estimate import Estimate
from flowllm.explain.forecast import BudgetForecast, Forecast
from flowllm.explain.rendered import ShownPrompt
from flowllm.explain.span import Span, Takes, whole_high
from flowllm.reporting.screen import Part, Screen
from flowllm.reporting.text import dollars, duration, plural, readable, visible
from flowllm.runtime.options import RunOptions

_HEADERS = ("GEN", "STEP", "STATE", "REQS", "TOKENS IN", "OUT", "COST", "AT MOST", "WHY")
_RIGHT = frozenset(_HEADERS) - {"STEP", "STATE", "WHY"}
_NARROWEST, _WIDEST = 14, 60
"""Columns of the last one."""
_STYLES = {"send": "bold", "maybe": "yellow", "cached": "green", "skipped": "dim", "error": "red"}
"""Of states."""
_SPARED = ("AT MOST", "GEN", "OUT", "TOKENS IN", "STATE")
"""Columns that a narrow screen goes without, one after the other: the sums and --json have what is in them."""
_LABELS = 9
"""Columns of the words before the lines below it."""
_GAP = "  "
_INDENT = "  "
_SHORT = 10_000_000
"""From here on a number of tokens stands in millions."""
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


def print_forecast(forecast: Forecast) -> None:
    """The table, and the sums below it."""
    screen = results()
    for notice in forecast.notices:
        screen.line(f"note: {visible(notice)}")
    rows = [row for node in forecast.nodes for row in _rows(node.step, node.estimate, str(node.generation))]
    _print_table(screen, rows)
    screen.line()
    for label, text in _summary(forecast):
        for number, line in enumerate(_wrapped(text, screen.width() - _LABELS)):
            screen.line((f"{'' if number else label:<{_LABELS}}", "bold"), visible(line))


def _summary(forecast: Forecast) -> Iterator[tuple[str, str]]:
    """The lines below the table, each with its label."""
    takes, total = forecast.total.takes, forecast.total
    yield "sends", f"{_requests(takes.requests)} to {forecast.provider}"
    if not total.idle:
        yield "tokens", f"{_range(takes.input_tokens)} in, {_range(takes.output_tokens)} out"
        yield "cost", _cost_text(forecast)
    for one in forecast.budget:
        yield "budget", _budget_text(one)
    if forecast.seconds is None:
        yield "time", _timeless(forecast)
    elif forecast.seconds:
        yield "time", f"about {duration(forecast.seconds)}"
    if forecast.critical_path:
        yield "path", _path_text(forecast)
    if total.basis:
        yield "basis", f"{total.basis}; retries, repairs and fallbacks are not counted"
    if line := _from_prompt_cache(total):
        yield "cache", line
    for model, most in forecast.max_concurrent.items():
        yield "limits", f"{plural(most, 'request')} to {model} in flight, as an earlier run found"
    if forecast.unknown:
        yield "unknown", f"what {plural(forecast.unknown, 'step')} will take at most, which depends on answers"


def _timeless(forecast: Forecast) -> str:
    """Why nobody knows when it would be over."""
    if forecast.total.takes.requests.expected is None:
        return "unknown, as nobody can count the requests yet"
    models = dict.fromkeys(node.estimate.model for node in forecast.nodes if node.estimate.model)
    return f"unknown, as no answered request to {' or '.join(models)} is on record"


def _requests(requests: Span) -> str:
    low, high = int(requests.low), whole_high(requests)
    if high is None:
        return f"at least {plural(low, 'request')}" if low else "requests that nobody can count yet,"
    if low == high or requests.expected is None:
        return plural(high, "request") if low == high else f"{low:,} to {plural(high, 'request')}"
    return f"about {plural(round(requests.expected), 'request')} ({low:,} to {high:,})"


def _range(span: Span, shown: str = "") -> str:
    """`about 1,712 (14 to 3,119)`."""
    low, high = _number(span.low), None if span.high is None else _number(span.high)
    middle = "" if span.expected is None else f"about {shown}{_number(span.expected)} "
    if high is None:
        return f"{middle}(at least {low})" if middle else f"at least {low}" if span.low >= 1 else "unknown"
    if low == high:
        return low
    return f"{middle}({low} to {high})" if middle else f"{low} to {high}"


def _cost_text(forecast: Forecast) -> str:
    total = forecast.total
    cost = total.takes.cost_usd
    listed = f"; list price of {total.list_price}" if total.list_price else ""
    if cost is None:
        known = forecast.at_least["cost_usd"]
        unpriced = dict.fromkeys(model for node in forecast.nodes for model in _unpriced(node.estimate))
        return f"unknown, as the price of {', '.join(unpriced)} is" + (
            f"; the rest {dollars(known)} at most" if known else ""
        )
    if cost.high == 0:
        return "$0"
    middle = "" if cost.expected is None else f"about {dollars(cost.expected)}"
    ends = f"at least {dollars(cost.low)}" if cost.low else "unknown"
    if cost.high is not None:
        ends = f"{dollars(cost.low)} to {dollars(cost.high)}"
    return (f"{middle} ({ends})" if middle else ends) + listed


def _unpriced(estimate: Estimate) -> Iterator[str]:
    """The models within whose price is not known."""
    if estimate.takes.cost_usd is None:
        if not estimate.within:
            yield estimate.model or "a model"
        for one in estimate.within.values():
            yield from _unpriced(one)


def _budget_text(one: BudgetForecast) -> str:
    def shown(amount: float) -> str:
        return dollars(amount) if one.name == "usd" else f"{_number(amount)} tokens"

    takes = one.takes
    if takes is None:
        return f"{shown(one.amount)}: a run would refuse to begin, as a price is not known"
    text = {
        "within": "the run stays within it",
        "over": f"the run would be over it by {shown(takes.low - one.amount)} at least",
        "expected_over": f"the run is expected to be over it by {shown((takes.expected or 0.0) - one.amount)}",
        "maybe_over": "the run is expected to stay within it, and could be over it by "
        f"{shown((takes.high or 0.0) - one.amount)}",
    }
    return f"{shown(one.amount)}: {text.get(one.verdict, 'whether the run stays within it is not known')}"


def _path_text(forecast: Forecast) -> str:
    times = {node.step: (node.ends or 0.0) - (node.begins or 0.0) for node in forecast.nodes}
    timed = bool(forecast.seconds)
    path = " → ".join(
        f"{name} {duration(times[name])}" if timed and times[name] else name for name in forecast.critical_path
    )
    return f"{path}; at most {plural(forecast.max_parallel, 'step')} at a time"


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


def _rows(name: str, estimate: Estimate, generation: str, depth: int = 0) -> Iterator[list[str]]:
    """A step, then those within it."""
    cells = [""] * 5
    if not estimate.idle:
        unit = "" if estimate.per_item is None else "/item"
        cells = [*_cells(estimate.per_item or estimate.takes, unit)]
    why = estimate.why if depth == 0 else ""
    yield [generation, f"{_INDENT * depth}{name}", estimate.state, *cells, why]
    for inner, one in estimate.within.items():
        yield from _rows(inner, one, "", depth + 1)


def _cells(takes: Takes, unit: str) -> Iterator[str]:
    for span in (takes.requests, takes.input_tokens, takes.output_tokens):
        cell = _cell(span)
        yield f"{cell}{unit}" if cell[:1] != "u" else cell
    cost = takes.cost_usd
    if cost is None:
        yield from ("unknown", "")
    elif cost.high == 0:
        yield from ("$0", "")
    else:
        least = f"≥{_usd(cost.low)}" if cost.low else "unknown"
        yield least if cost.expected is None else f"~{_usd(cost.expected)}"
        yield "" if cost.high is None else _usd(cost.high)


def _cell(span: Span) -> str:
    """What is expected; the most, where nothing else is; the least, where that is all there is."""
    if span.expected is not None and span.expected != span.high:
        return f"~{_number(span.expected)}"
    if span.high is not None:
        return _number(span.high) if span.low == span.high else f"≤{_number(span.high)}"
    return f"≥{_number(span.low)}" if span.low >= 1 else "unknown"


def _usd(amount: float) -> str:
    """To two significant digits below a dollar."""
    return dollars(float(f"{amount:.2g}")) if amount < 1 else f"${amount:,.2f}"


def _number(number: float) -> str:
    return f"{number / 1e6:,.1f}M" if number >= _SHORT else f"{round(number):,}"


def _print_table(screen: Screen, rows: list[list[str]]) -> None:
    """Aligned columns, the last one wrapped within what the screen leaves; those with nothing in them are left out."""
    shown = [[visible(cell) for cell in row] for row in rows]
    used = [at for at, header in enumerate(_HEADERS) if header == "WHY" or any(row[at] for row in shown)]
    for dropped in ("", *_SPARED):  # until there is room for reasons
        used = [at for at in used if _HEADERS[at] != dropped]
        headers = [_HEADERS[at] for at in used]
        cells = [[row[at] for at in used] for row in shown]
        widths = [max(len(row[at]) for row in [headers, *cells]) for at in range(len(used) - 1)]
        before = sum(widths) + len(_GAP) * len(widths)
        if screen.width() - before >= _NARROWEST:
            break
    room = max(_NARROWEST, min(_WIDEST, screen.width() - before))

    def line(row: list[str], last: str, *, bold: bool = False) -> list[Part]:
        parts: list[Part] = []
        filled = len(row) - 1 if last else max(at for at, cell in enumerate(row) if cell) + 1
        for cell, width, header in list(zip(row[:-1], widths, headers, strict=False))[:filled]:
            text = (cell.rjust(width) if header in _RIGHT else cell.ljust(width)) + _GAP
            if not last and len(parts) == filled - 1:
                text = text.rstrip()
            style = "bold" if bold else _STYLES.get(cell, "") if header == "STATE" else ""
            parts.append((text, style) if style else text)
        return [*parts, (last, "bold" if bold else "dim")] if last else parts

    screen.line(*line(headers, "WHY", bold=True))
    for row in cells:
        first, *others = _wrapped(_reason(row[-1], room), room)
        screen.line(*line(row, first))
        for reason in others:
            screen.line((" " * before + reason, "dim"))


def _wrapped(text: str, width: int) -> list[str]:
    """Its lines, one at least."""
    return textwrap.wrap(text, max(_NARROWEST, width), break_on_hyphens=False) or [""]


def _reason(why: str, room: int) -> str:
    """Of many steps that are waited for, so many as fit on a line."""
    if len(why) <= room or not why.startswith("after ") or ";" in why:
        return why
    names = why.removeprefix("after ").split(", ")
    for shown in range(len(names) - 1, 0, -1):
        text = f"after {', '.join(names[:shown])} +{len(names) - shown}"
        if len(text) <= room:
            return text
    return f"after {plural(len(names), 'step')}" if len(names) > 1 else why


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
    body: Mapping[str, Json] = one.body if isinstance(one.body, Mapping) else {}
    messages = body.get("messages") or body.get("input")
    if not isinstance(messages, list) or not all(isinstance(one, Mapping) for one in messages):
        screen.line(readable(one.body))
        return
    rest = {
        name: body[name]
        for name in sorted(body.keys() - {"messages", "input"}, key=lambda name: (name != "model", name))
    }
    screen.line((visible(", ".join(f"{name}: {_short(value)}" for name, value in rest.items())), "dim"))
    for message in messages:
        screen.line((f"[{visible(str(message.get('role', '')))}]", "cyan"))
        screen.line(readable(message.get("content", message)).rstrip("\n"))


def _short(value: Json) -> str:
    text = value if isinstance(value, str) else readable(value)
    return textwrap.shorten(" ".join(text.split()), 60, placeholder=" …")
