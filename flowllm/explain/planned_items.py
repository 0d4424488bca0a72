"""What would become of the items of a foreach: the first ones are looked at, the rest is reckoned from them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from flowllm.core.errors import StepError
from flowllm.core.types import Counts, Json, NodeId, NodeStatus, OnError, item_id
from flowllm.datasets.base import Row, Rows
from flowllm.datasets.files import STDIN
from flowllm.explain.estimate import Estimate, together, unknown, wrong
from flowllm.language.template import Template, ValueTemplate
from flowllm.language.workflow import DataFile, Foreach, Step, WorkflowBody
from flowllm.runtime.accept_policy import bound_policy
from flowllm.runtime.foreach_state import AcceptPolicy, Ended
from flowllm.runtime.item_sources import open_rows

One: TypeAlias = "Callable[[Step, Mapping[str, Json], str], Awaitable[Estimate]]"
"""Foresees a node by its step, the values of its templates and its name."""
LOOKED_AT = 1000
"""Items that are bound and looked up in the memo."""
COUNTED = 200_000
"""Rows of a stream that are counted; of a longer one nobody knows how many there are."""
AT_ONCE = 50
PAGE = 500


async def foresee_items(
    step: Step,
    values: Mapping[str, Json],
    name: str,
    *,
    waits: Sequence[str],
    one: One,
    limit: int | None,
    grant: Callable[[int], int],
) -> Estimate:
    """All items of a step with a foreach, as one. Standard input is never read.

    `waits` are the steps that it needs and whose outputs nobody knows, `one` foresees one item. `grant` says how many
    of so many items may still be looked at.
    """
    foreach = step.foreach
    assert foreach is not None  # noqa: S101 - asked for only then
    needed = [need for need in waits if need in _needs(foreach)]
    if needed:
        return unknown(step, f"once for each item of {', '.join(needed)}")
    try:
        if any(source.path.text(values) == STDIN for source in _files(foreach)):
            return unknown(step, "once for each item of standard input")
        first, count = await _read(open_rows(foreach, values, spool=None, limit=limit))
        if waits:
            return unknown(step, f"after {', '.join(waits)}", items=count)
        found: list[Estimate] = []
        while len(found) < len(first):
            granted = grant(min(AT_ONCE, len(first) - len(found)))
            if found and not granted:
                break
            batch = first[len(found) : len(found) + max(1, granted)]
            found += await asyncio.gather(*(_item(step, values, NodeId(name), row, one) for row in batch))
        return _summed(step, values, first[: len(found)], found, count)
    except StepError as error:
        return wrong(step, error.message)


def _needs(foreach: Foreach) -> set[str]:
    """The steps from whose outputs the items come."""
    return {reference.step for source in _sources(foreach) for reference in source.references}


def _sources(foreach: Foreach) -> Iterator[Template | ValueTemplate]:
    if foreach.items is not None:
        yield foreach.items
    for source in (foreach.matrix or {}).values():
        if not isinstance(source, DataFile):
            yield source
    for file in _files(foreach):
        yield file.path


def _files(foreach: Foreach) -> Iterator[DataFile]:
    if foreach.file is not None:
        yield foreach.file
    for source in (foreach.matrix or {}).values():
        if isinstance(source, DataFile):
            yield source


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


async def _item(step: Step, values: Mapping[str, Json], name: NodeId, row: Row, one: One) -> Estimate:
    if row.error is not None:
        return wrong(step, row.error.message)
    assert step.foreach is not None  # noqa: S101 - it has items
    scope = {**values, step.foreach.name: row.value, "index": row.index}
    return await one(replace(step, foreach=None), scope, item_id(name, row.index))


def _summed(
    step: Step, values: Mapping[str, Json], rows: Sequence[Row], found: Sequence[Estimate], count: int | None
) -> Estimate:
    """All items as one. Raises StepError for an `accept.count` that is none."""
    if not found:
        nothing = replace(together(step.kind, found), items=count, why="no items")
        return replace(nothing, output=[], rows=[], counts=Counts())
    assert step.foreach is not None  # noqa: S101 - it has items
    rule = bound_policy(step.foreach, values)
    if rule is not None and (chosen := _chosen(rule, rows, found, complete=len(found) == count)) is not None:
        last = chosen[-1] + 1 if len(chosen) == rule.count else len(found)
        whole = _with_output(together(step.kind, found[:last]), rows[:last], found[:last], chosen)
        return replace(whole, items=count, why=f"{len(chosen):,} accepted of the first {last:,} items")
    looked = len(found)
    whole = replace(together(step.kind, found), items=count)
    if count is None:
        whole = replace(whole, requests=None, cached=None, input_tokens=None, output_tokens=None, cost_usd=None)
    elif count > looked:
        whole = whole.times(count / looked)
    whole = replace(whole, why=_why(step, whole, found, complete=count == looked))
    failed = [one for one in found if one.status is NodeStatus.FAILED]
    if failed and rule is None and (step.on_error is not OnError.CONTINUE or len(failed) == looked):
        why = f"{len(failed):,} of {looked:,} items fail: {failed[0].why}"
        return replace(whole, state="error", why=why, status=NodeStatus.FAILED)
    if count != looked or rule is not None:
        return replace(whole, known=False)
    return _with_output(whole, rows, found)


def _chosen(rule: AcceptPolicy, rows: Sequence[Row], found: Sequence[Estimate], *, complete: bool) -> list[int] | None:
    """Which items `accept` chooses, in input order; None if that depends on what is not known yet."""
    chosen: list[int] = []
    for at, (row, one) in enumerate(zip(rows, found, strict=True)):
        if not one.known:
            return None
        if one.status is NodeStatus.SUCCEEDED and _accepts(rule, row, one, [found[i].output for i in chosen]):
            chosen.append(at)
            if len(chosen) == rule.count:
                return chosen
    return chosen if complete else None


def _accepts(rule: AcceptPolicy, row: Row, one: Estimate, accepted: Sequence[Json]) -> bool:
    ended = Ended(place=row.index, slot=row.index, status=one.status, item=row.value, output=one.output)
    try:
        return rule.judge(ended, accepted)
    except StepError:
        return False  # such an item counts as failed


def _with_output(
    whole: Estimate, rows: Sequence[Row], found: Sequence[Estimate], chosen: Sequence[int] | None = None
) -> Estimate:
    """What templates see of a foreach all of whose items are known; `chosen` are those that `accept` takes."""
    outputs = [one.output if one.status is NodeStatus.SUCCEEDED else None for one in found]
    ended = Counter(one.status for one in found)
    return replace(
        whole,
        output=outputs if chosen is None else [outputs[at] for at in chosen],
        rows=[
            {
                "index": row.index,
                "item": row.value,
                "status": one.status.value,
                "output": one.output,
                "error": {"message": one.why} if one.status is NodeStatus.FAILED else None,
            }
            for row, one in zip(rows, found, strict=True)
        ],
        counts=Counts(
            total=len(found),
            succeeded=ended[NodeStatus.SUCCEEDED],
            failed=ended[NodeStatus.FAILED],
            skipped=ended[NodeStatus.SKIPPED],
            accepted=len(chosen or ()),
        ),
    )


def _why(step: Step, whole: Estimate, found: Sequence[Estimate], *, complete: bool) -> str:
    """How many there are, how many of them the memo has, and why the first other one is asked."""
    looked = len(found)
    if whole.items is None:
        told = [f"more than {COUNTED:,} items"]
    else:
        told = [f"{whole.items:,} {'item' if whole.items == 1 else 'items'}"]
    if step.foreach is not None and step.foreach.accept is not None:
        told[0] = f"up to {told[0]}, until enough are accepted"
    among = "" if complete else f" of the first {looked:,}"
    cached = sum(one.state == "cached" for one in found)
    failed = sum(one.status is NodeStatus.FAILED for one in found)
    skipped = sum(one.status is NodeStatus.SKIPPED for one in found)
    within = isinstance(step.body, WorkflowBody)
    told += [
        f"{number:,}{among} {word}"
        for number, word in ((cached, "cached"), (skipped, "skipped"), (failed, "in error"))
        if number and not (word == "cached" and number == looked and not within)
    ]
    first = next((one.why for one in found if one.state in {"send", "maybe"} and one.why), "")
    return "; ".join([", ".join(told), *([first] if first else [])])
