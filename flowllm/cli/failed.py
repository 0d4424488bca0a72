"""flowllm failed: the failed items of a run, to be corrected and run again."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator, Callable

import click

from flowllm.app.flowllm import FlowLLM
from flowllm.cli.database import find_run, reading, step_kinds
from flowllm.cli.failures import say
from flowllm.cli.options import Location, location_options
from flowllm.cli.output import results, unicode_output
from flowllm.core.errors import UsageError
from flowllm.core.types import ROW, Json, step_path
from flowllm.language.problems import nearest
from flowllm.reporting.text import json_text, plural
from flowllm.storage.base import NodeRecord, RunRecord, Store

PAGE = 500


@click.command()
@click.argument("run")
@click.option("--step", metavar="STEP", help="Only items of this foreach.")
@location_options
def failed(*, run: str, step: str | None, location: Location) -> None:
    """Print the failed items of RUN as JSON Lines, to be mended and given back to it.

    Each line has the fields of the item, or `item` if it has none, with `_node` and `_error` beside them. Of a run
    with --over these are its rows. RUN is an id, its beginning, or `last`. What is mended takes the item's place, under
    its own number and in the same output.

    \b
      flowllm failed last > letters.jsonl      # then mend the lines
      flowllm resume last --mended letters.jsonl
    """  # noqa: D301 - \b is click's mark for lines that are kept as they are

    async def work(app: FlowLLM) -> None:
        await _print(app, await find_run(app.store, run), step)

    reading(location, work)


async def _print(app: FlowLLM, run: RunRecord, step: str | None) -> None:
    wanted = _foreach(run, step)
    name = _name_of_rows(app, run)
    screen, ascii_only = results(), not unicode_output()
    printed = others = 0
    async for node in _failures(app.store, run):
        if wanted and step_path(node.parent) != wanted:
            others += 1
            continue
        printed += 1
        screen.line(json_text(_line(node, name), indent=None, ascii_only=ascii_only))
    if not printed:
        say(f"run {run.run_id} has no failed {'rows' if wanted == ROW else 'items'}")
    elif sys.stdout.isatty():
        say(f"mend these lines, then: flowllm resume {run.run_id} --mended FILE")
    if others and step is None:
        say(f"{plural(others, 'failed item')} within rows: --step {ROW}.STEP prints those of one step")


async def _failures(store: Store, run: RunRecord) -> AsyncIterator[NodeRecord]:
    after = ("", -1)
    while page := await store.failed_items(run.run_id, after=after, limit=PAGE):
        for node in page:
            yield node
        after = (page[-1].parent, page[-1].place or 0)


def _foreach(run: RunRecord, step: str | None) -> str:
    """Whose items are wanted, without the numbers of items; empty: everyone's. Raises UsageError."""
    kinds = step_kinds(run)
    if step is None:
        return ROW if ROW in kinds else ""
    path = step_path(step)
    top = path.partition(".")[0]
    if kinds and top not in kinds:
        known = nearest(top, kinds) or f"it has: {', '.join(kinds)}"
        raise UsageError(f"run {run.run_id} has no step `{step}`", hint=known)
    return path


def _name_of_rows(app: FlowLLM, run: RunRecord) -> Callable[[], str]:
    """Under which name a row that has no fields is taken by --over again: the one input that it can be."""

    @functools.cache
    def name() -> str:
        inputs = app.workflow_of(run).inputs
        required = [name for name, declared in inputs.items() if declared.required]
        alone = required if len(required) == 1 else list(inputs)
        return alone[0] if len(alone) == 1 else "item"

    return name


def _line(node: NodeRecord, name_of_rows: Callable[[], str]) -> dict[str, Json]:
    """One line: the item, where it was, and its error."""
    error = node.error or {}
    found = {"_node": node.node_id, "_error": {name: error.get(name) for name in ("type", "message")}}
    if isinstance(node.item, dict):
        return {**node.item, **found}
    name = name_of_rows() if node.parent == ROW else "item"
    return {name: node.item, **found}
