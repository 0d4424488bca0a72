"""Drives the state machine of a foreach without doing anything: the first items are looked at and stand for the rest."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from flowllm.core.errors import StepError
from flowllm.core.types import Json, NodeId, NodeStatus, RunId, item_id
from flowllm.datasets.base import Row, Rows
from flowllm.datasets.files import STDIN
from flowllm.explain.estimate import Estimate, combined, failing, unknown
from flowllm.language.template import Template, ValueTemplate
from flowllm.language.workflow import DataFile, Foreach, Step, WorkflowBody
from flowllm.runtime.accept_policy import foreach_state
from flowllm.runtime.foreach_results import item_row
from flowllm.runtime.foreach_state import Ended, ForeachState
from flowllm.runtime.item_sources import open_rows

EstimateNode: TypeAlias = "Callable[[Step, Mapping[str, Json], NodeId], Awaitable[Estimate]]"
"""Estimates a node by its step, the values of its templates and its name."""
LOOKED_AT = 1000
"""Items that are bound and looked up in the cache."""
COUNTED = 200_000
"""Rows of a stream that are counted; of a longer one nobody knows how many there are."""
AT_ONCE = 50
PAGE = 500


async def estimate_items(
    step: Step,
    values: Mapping[str, Json],
    name: NodeId,
    *,
    waits: Sequence[str],
    estimate: EstimateNode,
    limit: int | None,
    grant: Callable[[int], int],
) -> Estimate:
    """All items of a step with a foreach, as one. Standard input is never read.

    `waits` are the steps that it needs and whose outputs nobody knows, `estimate` is for one item. `grant` says how many
    of so many items may still be looked at.
    """
    foreach = step.foreach
    assert foreach is not None  # noqa: S101 - called only then
    sources, files = _sources(foreach)
    named = {reference.step for source in sources for reference in source.references}
    needed = [need for need in waits if need in named]
    if needed:
        return unknown(step, f"once for each item of {', '.join(needed)}")
    try:
        if any(file.path.text(values) == STDIN for file in files):
            return unknown(step, "once for each item of standard input")
        rows, count = await _read(open_rows(foreach, values, spool=None, limit=limit))
        if waits:
            return unknown(step, f"after {', '.join(waits)}", items=count)
        found: list[Estimate] = []
        while len(found) < len(rows):
            granted = grant(min(AT_ONCE, len(rows) - len(found)))
            if found and not granted:
                break
            batch = rows[len(found) : len(found) + max(1, granted)]
            found += await asyncio.gather(*(_item(step, values, name, row, estimate) for row in batch))
        state = foreach_state(step, values, window=LOOKED_AT, total=count)
        pulled = _drive(state, step, rows[: len(found)], found, whole=count == len(found))
    except StepError as error:
        return failing(step, error.message)
    return _summed(step, name, state, list(zip(rows, found, strict=False)), pulled=pulled, count=count)


def _sources(foreach: Foreach) -> tuple[list[Template | ValueTemplate], list[DataFile]]:
    """The templates from which the items come, and the files."""
    sources = [one for one in (foreach.items, foreach.file, *(foreach.matrix or {}).values()) if one is not None]
    files = [source for source in sources if isinstance(source, DataFile)]
    return [source.path if isinstance(source, DataFile) else source for source in sources], files


async def _read(rows: Rows) -> tuple[list[Row], int | None]:
    """The first rows, and how many there are; None: more than anyone would count. Raises DataFailed."""
    first: list[Row] = []
    try:
        while len(first) < LOOKED_AT and (page := await rows.take(LOOKED_AT - len(first))):
            first += page
        count = rows.total
        if count is None:
            count = len(first)
            while len(first) == LOOKED_AT and count <= COUNTED and (page := await rows.take(PAGE)):
                count += len(page)
        return first, count if rows.total is not None or count <= COUNTED else None
    finally:
        await rows.close()


async def _item(step: Step, values: Mapping[str, Json], name: NodeId, row: Row, estimate: EstimateNode) -> Estimate:
    if row.error is not None:
        return failing(step, row.error.message)
    assert step.foreach is not None  # noqa: S101 - it has items
    scope = {**values, step.foreach.name: row.value, "index": row.index}
    return await estimate(replace(step, foreach=None), scope, item_id(name, row.index))


def _drive(state: ForeachState, step: Step, rows: Sequence[Row], found: list[Estimate], *, whole: bool) -> int:
    """Pull items as the state allows and end those of which everything is known; the others stay in flight. Gives how
    many were pulled. `whole`: there are no more items. An item whose `accept.when` fails is made a failing one."""
    pulled = 0
    while not state.over and (more := min(state.room(), len(rows) - pulled)):
        batch = range(pulled, pulled + more)
        pulled += more
        for at in batch:
            state.pulled(at)
        for at in batch:
            one = found[at]
            if not one.known:
                state.missed(at)
                continue
            ended = Ended(index=at, number=at, status=one.status, item=rows[at].value, output=one.output)
            for refused, error in state.ended(ended, one.why):
                found[refused.index] = failing(step, error.message)
    if whole and pulled == len(rows):
        state.drained()
    return pulled


def _summed(
    step: Step, name: NodeId, state: ForeachState, items: list[tuple[Row, Estimate]], *, pulled: int, count: int | None
) -> Estimate:
    """All items as one."""
    accepting = step.foreach is not None and step.foreach.accept is not None
    decided = accepting and (state.enough or state.over)  # no other items are pulled, whatever the open ones come to
    looked = len(items)
    items = items[:pulled] if decided else items
    found = [one for _, one in items]
    total = replace(combined(step.kind, found), items=count, known=state.over and count is not None)
    if not decided and count is None:
        total = replace(total, requests=None, cached=None, input_tokens=None, output_tokens=None, cost_usd=None)
    elif not decided and count is not None and count > looked:
        total = total.times(count / looked)
    counts = state.counts(not_pulled=max(0, (count or 0) - pulled))
    failure = state.verdict(name) if state.over or not accepting else None
    if failure is not None:
        return replace(total, state="error", why=failure.message, status=NodeStatus.FAILED, counts=counts)
    if decided and items:
        total = replace(total, why=f"{counts.accepted:,} accepted of the first {pulled:,} items")
    else:
        total = replace(total, why=_why(step, total, found, complete=count == looked))
    if not total.known:
        return total
    outputs = [one.output if one.status is NodeStatus.SUCCEEDED else None for one in found]
    records = [one.record(RunId(""), item_id(name, row.index), place=row.index, item=row.value) for row, one in items]
    return replace(
        total,
        output=state.chosen_outputs() if accepting else outputs,
        rows=[item_row(record) for record in records],
        counts=counts,
    )


def _why(step: Step, total: Estimate, found: Sequence[Estimate], *, complete: bool) -> str:
    """How many there are, how many of them are cached, and why the first other one is sent."""
    looked = len(found)
    if total.items == 0:
        return "no items"
    if total.items is None:
        told = f"more than {COUNTED:,} items"
    else:
        told = f"{total.items:,} {'item' if total.items == 1 else 'items'}"
    if step.foreach is not None and step.foreach.accept is not None:
        told = f"up to {told}, until enough are accepted"
    among = "" if complete else f" of the first {looked:,}"
    cached = sum(one.state == "cached" for one in found)
    if cached == looked and not isinstance(step.body, WorkflowBody):
        cached = 0  # its own state says so
    ended = Counter(one.status for one in found)
    numbers = ((cached, "cached"), (ended[NodeStatus.SKIPPED], "skipped"), (ended[NodeStatus.FAILED], "in error"))
    parts = [told, *(f"{number:,}{among} {word}" for number, word in numbers if number)]
    first = next((one.why for one in found if one.state in {"send", "maybe"} and one.why), "")
    return "; ".join([", ".join(parts), *([first] if first else [])])
