"""flowllm diff: what differs between two runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from flowllm.app.flowllm import FlowLLM
from flowllm.cli.database import find_run, reading
from flowllm.cli.diff_lines import MARGIN, Line, diff_lines, field_lines
from flowllm.cli.options import Location, json_option, location_options
from flowllm.cli.output import print_json, print_table, results
from flowllm.cli.report import write_page
from flowllm.core.money import dollars
from flowllm.core.types import NODE_TERMINAL, Json, N
from flowllm.datasets.output import check_output
from flowllm.reporting.text import at_least, columns, duration, error_text, json_text, one_line, plural, visible
from flowllm.ui.report.compare_page import compare_page
from flowllm.views.compare import SHOWN, Comparison, compare
from flowllm.views.differences import Figures, NodeChange, StepComparison, Verdict, differs, number, signed, why
from flowllm.views.text_diff import DiffLine

_NUMBERS = ("TOOK", "TOKENS", "CALL", "COST")
_WHY = 40
"""Characters of why a step's request differs."""
_WIDEST = 110
"""Columns of a text that is easily read."""
_LEAST = 12
"""Columns that a step's name has at least."""
_GAP = 2
"""Between columns."""
_MOST_GIVEN = 10
"""Inputs and options that are told."""


@click.command()
@click.argument("base")
@click.argument("run")
@click.argument("step", required=False)
@json_option
@click.option("--limit", type=click.IntRange(min=0), default=SHOWN, show_default=True, help="Changes to show in full.")
@click.option("--page", metavar="FILE", help="Write it as a page for a browser too: one file, which loads nothing.")
@click.option("--overwrite", is_flag=True, help="FILE may exist already.")
@click.option("--fail-on", type=click.Choice(["change"]), help="Exit with 1 where an output or a status differs.")
@location_options
def diff(
    *,
    base: str,
    run: str,
    step: str | None,
    as_json: bool,
    limit: int,
    page: str | None,
    overwrite: bool,
    fail_on: str | None,
    location: Location,
) -> int:
    """Show what differs in RUN from the earlier run BASE, or in one STEP of both.

    Steps are joined by their names, items by their content: one that moved is the same. Outputs and statuses count as
    changes; cost, time, models and prompts that differ are told, and are none. BASE and RUN are ids, their beginnings, `last`,
    or `last~1` for the run before.

    \b
      flowllm diff last~1 last
      flowllm diff last~1 last classify --fail-on change
    """  # noqa: D301 - \b is click's mark for lines that are kept as they are
    if page is not None:
        check_output(Path(page), overwrite=overwrite)

    async def work(app: FlowLLM) -> Comparison:
        store = app.store
        before, after = [await find_run(store, name) for name in (base, run)]
        return await compare(store, before, after, step, limit=limit, now=time.time())

    found = reading(location, work)
    if as_json:
        print_json(found.as_dict())
    else:
        _print(found)
    if page is not None:
        write_page(Path(page), compare_page(found, now=time.time()))
    return int(fail_on is not None and found.changed)


def _print(found: Comparison) -> None:
    screen = results(wraps=True)
    _print_runs(found)
    for line in _given(found):
        screen.line(*line)
    screen.line()
    _print_steps(found)
    for step in found.steps:
        for mean in step.means:
            where = visible(f"{step.step}.{mean.path}" if mean.path else step.step)
            means = f"{number(mean.before)} → {number(mean.after)} ({signed(mean.after - mean.before)})"
            screen.line(f"mean of {where}: {means} in {plural(mean.items, 'item')}")
    for change in found.changes:
        screen.line()
        for line in _change(change, min(screen.width(), _WIDEST)):
            screen.line(*line)
    screen.line()
    if left := found.total - len(found.changes):
        screen.line(f"and {plural(left, 'more change')}: a STEP or --limit shows them")
    if not found.changed:
        screen.line("no output and no status differs")


def _print_runs(found: Comparison) -> None:
    rows = [
        {
            "RUN": run.run_id,
            "": name,
            "STATUS": run.status.value,
            "TOOK": duration(run.elapsed_s),
            "TOKENS": f"{(run.usage.input_tokens or 0) + (run.usage.output_tokens or 0):,}",
            "COST": at_least(run.cost_usd, run.cost_at_least, dollars),
        }
        for name, run in (("base", found.base), ("run", found.run))
    ]
    print_table(rows, right=_NUMBERS, spare=("TOKENS", "STATUS", "TOOK"))


def _given(found: Comparison) -> Iterator[Line]:
    """What was asked for in another way."""
    for one in found.given[:_MOST_GIVEN]:
        before, after = (_short(value) for value in (one.before, one.after))
        yield (visible(one.path), ": ", (before, "red"), " → ", (after, "green"))
    if len(found.given) > _MOST_GIVEN:
        yield (f"and {plural(len(found.given) - _MOST_GIVEN, 'more input')}",)
    if found.edited:
        names = ", ".join(Path(path).name for path in found.edited)
        yield ("edited: ", one_line(names, 70))


def _short(value: Json) -> str:
    return "none" if value is None else one_line(value if isinstance(value, str) else json_text(value, indent=None), 30)


def _print_steps(found: Comparison) -> None:
    rows = []
    for step in found.steps:
        tokens = _delta(step, lambda one: one.tokens, number)
        call = _delta(step, lambda one: one.call_s, duration)
        cost = _delta(step, lambda one: one.cost_usd, dollars)
        rows.append({"STEP": step.step, "DIFFERENCE": differs(step), "TOKENS": tokens, "CALL": call, "COST": cost})
        rows[-1]["WHY"] = one_line(why(step), _WHY)
    print_table(rows, right=_NUMBERS, spare=("CALL", "TOKENS", "WHY", "COST"))


def _delta(step: StepComparison, figure: Callable[[Figures], N | None], shown: Callable[[N], str]) -> str:
    """How much more it took, with its sign; a dash for no difference, and for what has not ended."""
    if step.verdict is Verdict.OPEN or any(
        one and one.status not in NODE_TERMINAL for one in (step.before, step.after)
    ):
        return "-"
    known = [0 if one is None else figure(one) for one in (step.before, step.after)]
    if known[0] is None or known[1] is None:
        return "unknown"
    delta = known[1] - known[0]
    text = shown(abs(delta))
    return "-" if text == shown(0) else f"{'+' if delta > 0 else '-'}{text}"


def _change(change: NodeChange, width: int) -> Iterator[Line]:
    """A node's name, then what differs in it."""
    moved = "" if change.base_node in {None, change.node} else f" (was {change.base_node})"
    name = visible(change.node + moved)
    room = width - columns(name) - _GAP
    item = "" if change.item is None or room < _LEAST else f"  {_item(change.item, room)}"
    yield ((name, "bold"), (item, "dim"))
    name = "answer" if isinstance(change.fields[0].after if change.fields else None, str) else "output"
    before, after = change.before, change.after
    if before is None or after is None:
        yield ("  ", (change.verdict.value, "green" if before is None else "red"))
        for field in change.fields:
            yield from diff_lines(field.lines(width - MARGIN), width)
        return
    if before.status is not after.status:
        yield ("  ", (before.status.value, "red"), " → ", (after.status.value, "green"))
        for sign, one in (("-", before), ("+", after)):
            if one.error is not None:
                yield from diff_lines([DiffLine(sign=sign, parts=((error_text(one.error), True),))], width)
    for field in change.fields:
        yield from field_lines(field, name, width)
    if change.more_fields:
        yield ((f"  and {plural(change.more_fields, 'more place')}", "dim"),)
    if change.why:
        yield ((f"  asked otherwise: {visible(', '.join(change.why))}", "dim"),)


def _item(value: Json, longest: int) -> str:
    if isinstance(value, dict) and len(value) == 1:
        (value,) = value.values()
    return one_line(value if isinstance(value, str) else json_text(value, indent=None), longest)
