"""What `flowllm plan` prints: a table of the steps, and below it the sums, for whoever has to decide whether to spend that much."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator

from flowllm.cli.output import results
from flowllm.explain.estimate import Estimate
from flowllm.explain.forecast import BudgetForecast, Forecast
from flowllm.explain.load import calls_in
from flowllm.explain.span import Span, Takes, rounded_up
from flowllm.reporting.screen import Part, Screen
from flowllm.reporting.text import dollars, duration, plural, visible

_HEADERS = ("GEN", "STEP", "STATE", "REQS", "TOKENS IN", "OUT", "COST", "RANGE", "WHY")
_STEP, _WHY = _HEADERS.index("STEP"), _HEADERS.index("WHY")
_RIGHT = frozenset(_HEADERS) - {"STEP", "STATE", "WHY"}
_NARROWEST, _WIDEST = 14, 60
"""Columns of the last one."""
_STYLES = {"send": "bold", "maybe": "yellow", "cached": "green", "skipped": "dim", "error": "red"}
"""Of states."""
_SPARED = ("GEN", "OUT", "TOKENS IN", "COST", "STATE", "WHY", "REQS")
"""Columns that a narrow screen goes without, one after the other: the sums and --json have what is in them."""
_LABELS = 9
"""Columns of the words before the lines below it."""
_GAP = "  "
_INDENT = "  "
_THOUSANDS = 10_000
"""From here on a number stands in thousands, millions and so on."""
_CENT, _WHOLE = 0.01, 100
"""Dollars: below the one no least is worth a word, and from the other on nobody minds cents."""
_STEADY = 0.1
"""Share of the time by which nine of ten runs differ, up to which no range is told."""


def print_forecast(forecast: Forecast) -> None:
    """The table, and the sums below it."""
    screen = results()
    for notice in forecast.notices:
        screen.line(f"note: {visible(notice)}")
    _print_table(screen, [row for node in forecast.nodes for row in _rows(node.step, node.estimate, node.generation)])
    screen.line()
    for label, text in ((label, text) for label, text in _sums(forecast) if text):
        for number, line in enumerate(_wrapped(text, screen.width() - _LABELS)):
            screen.line((f"{'' if number else label:<{_LABELS}}", "bold"), visible(line))


# the sums


def _sums(forecast: Forecast) -> Iterator[tuple[str, str]]:
    """The lines below the table, each with its label: first what decides."""
    total = forecast.total
    takes = total.takes
    yield "sends", _requests(forecast)
    if not total.idle:
        yield "cost", _cost_text(forecast)
    for one in forecast.budget:
        yield "budget", _budget_text(one)
    if forecast.seconds != 0:
        yield "time", _time_text(forecast)
    yield "path", _path_text(forecast)
    if not total.idle:
        yield "tokens", f"{_range(takes.input_tokens)} in, {_range(takes.output_tokens)} out"
        yield "basis", total.basis
    yield from _notes(forecast)


def _notes(forecast: Forecast) -> Iterator[tuple[str, str]]:
    """What else is to be known, if anything is."""
    if line := _from_prompt_cache(forecast.total):
        yield "cache", line
    for model, most in forecast.max_concurrent.items():
        yield "limits", f"{plural(most, 'request')} to {model} in flight, as an earlier run found"
    if open_ended := [name for node in forecast.nodes for name in _open_ended(node.step, node.estimate)]:
        yield "note", f"nothing bounds the answers of {_listed(open_ended)}: set max_tokens"
    if forecast.unknown:
        yield "unknown", f"what {plural(forecast.unknown, 'step')} will take at most"


def _requests(forecast: Forecast) -> str:
    requests = forecast.total.takes.requests
    stored = sum(node.estimate.cached or 0 for node in forecast.nodes)
    paid = f"; {plural(stored, 'answer')} stored already" if stored else ""
    low, high = int(requests.low), rounded_up(requests.high_once)
    if high is None:
        text = f"at least {plural(low, 'request')}" if low else "requests that nobody can count yet"
        if requests.expected is not None:
            text = f"about {plural(round(requests.expected), 'request')}"
    elif requests.expected is None or round(requests.expected) == high:
        text = plural(high, "request") if low == high else f"{low:,} to {plural(high, 'request')}"
    else:
        text = f"about {plural(round(requests.expected), 'request')} ({low:,} to {high:,})"
    return f"{text} to {forecast.provider}{paid}"


def _range(span: Span) -> str:
    """`about 1,712 (14 to 3,119)`."""
    low, high = _number(span.low), None if span.high_once is None else _number(span.high_once)
    middle = "" if span.expected is None else f"about {_number(span.expected)} "
    if high is None and span.low < 1:
        return middle.rstrip() or "unknown"
    if high is None:
        return f"{middle}(at least {low})" if middle else f"at least {low}"
    if low == high:
        return low
    return f"{middle}({low} to {high})" if middle else f"{low} to {high}"


def _cost_text(forecast: Forecast) -> str:
    total = forecast.total
    cost = total.takes.cost_usd
    if cost is None:
        known = forecast.at_least["cost_usd"]
        unpriced = dict.fromkeys(model for node in forecast.nodes for model in _unpriced(node.estimate))
        rest = f"; the rest {_usd(known)} at most" if known else ""
        return f"unknown, as the price of {', '.join(unpriced)} is{rest}"
    if cost.high == 0:
        return "$0"
    middle = "" if cost.expected is None else f"about {_usd(cost.expected)}"
    ends = f"at least {_usd(cost.low)}" if cost.low >= _CENT else "" if middle else "unknown"
    if cost.high_once is not None:
        ends = " to ".join(_ends(cost.low, cost.high_once))
    text = f"{middle} ({ends})" if middle and ends else middle or ends
    if cost.high is not None and cost.high_once is not None and cost.high > cost.high_once:
        text += f", at most {_usd(cost.high)} with every repair, retry and fallback"
    return text + (f"; list price of {total.list_price}" if total.list_price else "")


def _unpriced(estimate: Estimate) -> Iterator[str]:
    """The models within whose price is not known."""
    if estimate.takes.cost_usd is None:
        if not estimate.within:
            yield estimate.model or "a model"
        for one in estimate.within.values():
            yield from _unpriced(one)


def _open_ended(name: str, estimate: Estimate) -> Iterator[str]:
    """Steps, or those within, of whose requests each may be answered at any length."""
    takes = estimate.per_item or estimate.takes
    sent = bool(estimate.model) and not estimate.within and takes.requests.high_once is not None
    if sent and takes.output_tokens.high_once is None:
        yield name
    for inner, one in estimate.within.items():
        yield from _open_ended(f"{name}.{inner}", one)


def _budget_text(one: BudgetForecast) -> str:
    def shown(amount: float | None) -> str:
        beyond = max(0.0, amount or 0.0)
        return _usd(beyond) if one.name == "usd" else f"{_number(beyond)} tokens"

    takes, amount = one.takes, dollars(one.amount) if one.name == "usd" else f"{one.amount:,.0f} tokens"
    if takes is None:
        return f"{amount}: a run would refuse to begin, as a price is not known"
    most = takes.high if takes.high_once is None else takes.high_once
    text = {
        "within": "the run stays within it",
        "within_once": "the run stays within it, unless very many answers have to be asked for again",
        "over": f"the run would be over it by {shown(takes.low - one.amount)} at least",
        "expected_over": f"the run is expected to be over it by {shown((takes.expected or 0.0) - one.amount)}",
        "maybe_over": f"the run is expected to stay within it, and could be over it by {shown((most or 0.0) - one.amount)}",
    }
    return f"{amount}: {text.get(one.verdict, 'whether the run stays within it is not known')}"


def _time_text(forecast: Forecast) -> str:
    """How long it takes, or why nobody knows."""
    calls = [one for node in forecast.nodes for one in calls_in(node.estimate.load) if one.count]
    if forecast.total.takes.requests.expected is None:
        return "unknown, as nobody can count the requests yet"
    if forecast.seconds is None:
        models = dict.fromkeys(one.model for one in calls if not one.seconds)
        return f"unknown, as no answered request to {' or '.join(models)} is on record"
    when = forecast.when
    varies = when.slowest - when.quickest > _STEADY * forecast.seconds
    ends = f" ({duration(when.quickest)} to {duration(when.slowest)})" if varies else ""
    others = dict.fromkeys(one.timed_by for one in calls if one.timed_by)
    basis = f", as requests to {' and '.join(others)} took" if others else ""
    return f"about {duration(forecast.seconds)}{ends}{basis}"


def _path_text(forecast: Forecast) -> str:
    if not forecast.critical_path:
        return ""
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
    saved = f", which saves about {_usd(cache.saved_usd)}" if cache.saved_usd else ""
    return (
        f"prompt cache: about {cache.cached_tokens:,} tokens in{share} from the provider's{saved}; "
        f"{cache.leaders:,} of {plural(cache.requests, 'request')} with long prompts find nothing there"
    )


# the table


def _rows(name: str, estimate: Estimate, generation: int | str, depth: int = 0) -> Iterator[list[str]]:
    """A step, then those within it."""
    cells = [""] * 5
    if not estimate.idle:
        unit = "" if estimate.per_item is None else "/item"
        cells = [*_cells(estimate.per_item or estimate.takes, unit)]
    why = estimate.why if depth == 0 else ""
    yield [str(generation), f"{_INDENT * depth}{name}", estimate.state, *cells, why]
    for inner, one in estimate.within.items():
        yield from _rows(inner, one, "", depth + 1)


def _cells(takes: Takes, unit: str) -> Iterator[str]:
    for span in (takes.requests, takes.input_tokens, takes.output_tokens):
        cell = _cell(span)
        yield f"{cell}{unit}" if cell[:1] != "u" else cell
    cost = takes.cost_usd
    if cost is None:
        yield from ("unknown", "unknown")
    elif cost.high == 0:
        yield from ("", "")
    else:
        yield "unknown" if cost.expected is None else f"~{_usd(cost.expected)}{unit}"
        if cost.high_once is None:
            yield f"≥{_usd(cost.low)}{unit}" if cost.low >= _CENT else "unknown"
        else:
            low, high = _ends(cost.low, cost.high_once)
            yield f"{low}–{high.removeprefix('$')}{unit}"  # noqa: RUF001 - from here to there


def _cell(span: Span) -> str:
    """What is expected; the most, where nothing else is; the least, where that is all there is."""
    if span.expected is not None and span.expected != span.high_once:
        return f"~{_number(span.expected)}"
    if span.high_once is not None:
        return _number(span.high_once) if span.low == span.high_once else f"≤{_number(span.high_once)}"
    return f"≥{_number(span.low)}" if span.low >= 1 else "unknown"


def _usd(amount: float, *, like: float | None = None) -> str:
    """To two significant digits below a dollar, to the cent above, to the dollar from a hundred on; `like`: rounded down, in the
    units of that amount."""
    unit = amount if like is None else like
    digits = 0 if unit == 0 or unit >= _WHOLE else 2 if unit >= 1 else max(2, 1 - math.floor(math.log10(unit)))
    if like is not None:
        amount = math.floor(amount * 10**digits) / 10**digits
    return f"${amount:,.{digits}f}" if amount else "$0"


def _ends(low: float, high: float) -> tuple[str, str]:
    """Of a range in dollars."""
    return _usd(low, like=high), _usd(high)


def _number(number: float) -> str:
    """9,999 and less as it is, others to three digits."""
    if number < _THOUSANDS:
        return f"{math.ceil(number) if number < 1 else round(number):,}"
    power = min(4, int(math.log10(number * 1.0005) // 3))
    shown = number / 1000**power
    return f"{shown:.{max(0, 2 - int(math.log10(shown)))}f}{'kMGT'[power - 1]}"


def _print_table(screen: Screen, rows: list[list[str]]) -> None:
    """Aligned columns, reasons wrapped within what the screen leaves; what has nothing in it, or no room, is left out."""
    cells = [[*_HEADERS], *([visible(cell) for cell in row] for row in rows)]
    used = [at for at, _ in enumerate(_HEADERS) if any(row[at] for row in cells[1:])]
    widths = [max(len(row[at]) for row in cells) for at, _ in enumerate(_HEADERS)]
    widths[_STEP] = min(widths[_STEP], max(_NARROWEST, screen.width() // 3))
    before = 0
    for dropped in ("", *_SPARED):
        used = [at for at in used if _HEADERS[at] != dropped]
        before = sum(widths[at] + len(_GAP) for at in used if at != _WHY)
        if before + (min(_NARROWEST, widths[_WHY]) if _WHY in used else -len(_GAP)) <= screen.width():
            break
    room = min(_WIDEST, screen.width() - before)
    for number, row in enumerate(cells):
        reasons = _wrapped(_reason(row[_WHY], room), room) if _WHY in used else [""]
        parts = [_part(row[at], at, widths[at], bold=not number) for at in used if at != _WHY]
        screen.line(*_stripped([*parts, (reasons[0], "dim" if number else "bold")]))
        for reason in reasons[1:]:
            screen.line((" " * before + reason, "dim"))


def _part(cell: str, at: int, width: int, *, bold: bool) -> tuple[str, str]:
    text = cell if len(cell) <= width else f"{cell[: width - 1]}…"
    style = "bold" if bold else _STYLES.get(cell, "") if _HEADERS[at] == "STATE" else ""
    return (text.rjust(width) if _HEADERS[at] in _RIGHT else text.ljust(width)) + _GAP, style


def _stripped(parts: list[tuple[str, str]]) -> list[Part]:
    """Without the blanks at the end of the line."""
    while parts and not parts[-1][0].strip():
        parts.pop()
    return [*parts[:-1], (parts[-1][0].rstrip(), parts[-1][1])] if parts else []


def _listed(names: list[str]) -> str:
    """So many that they are read."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")  # noqa: PLR2004


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
