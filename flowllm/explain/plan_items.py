"""The items of a foreach, or the rows of `--over`, as one: the first ones are looked at and stand for the rest."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from flowllm.core.errors import StepError
from flowllm.core.records import replace
from flowllm.core.types import Json, NodeId, NodeStatus, RunId, item_id, step_path
from flowllm.datasets.base import Row, Rows
from flowllm.datasets.files import STDIN
from flowllm.explain.estimate import Estimate, combined, failing
from flowllm.explain.past import Past
from flowllm.explain.span import ANY, Span, Takes
from flowllm.explain.stand_in import LIKELY_ITEMS, Case, StandIns, only_names
from flowllm.explain.timing import IDLE, Load, Many
from flowllm.explain.views import Views
from flowllm.language.template import Template, ValueTemplate
from flowllm.language.workflow import DataFile, Foreach, Step, WorkflowBody
from flowllm.runtime.foreach_results import item_row
from flowllm.runtime.foreach_state import Ended, ForeachState, foreach_state
from flowllm.runtime.item_reader import open_rows

LOOKED_AT = 1000
"""Items that are bound and looked up in the cache."""
COUNTED = 200_000
"""Rows of a stream that are counted; of a longer one nobody knows how many there are."""
AT_ONCE = 50
PAGE = 500


class Nodes(Protocol):
    """Who estimates single nodes."""

    @property
    def stand_ins(self) -> StandIns:
        """What stands for outputs that nobody knows."""
        ...

    @property
    def past(self) -> Past | None:
        """Earlier runs, where there is a database."""
        ...

    async def node(self, step: Step, views: Views, name: NodeId) -> Estimate:
        """One node; of a foreach, one item."""
        ...

    def grant(self, wanted: int) -> int:
        """How many of so many items may still be looked at."""
        ...


class PlannedItems:
    """All items of one step, as one. Standard input is never read."""

    def __init__(self, step: Step, views: Views, name: NodeId, nodes: Nodes) -> None:
        """`step` has a foreach, or stands for the graph that each row of a data set goes through."""
        self._step = step
        self._views = views
        self._name = name
        self._nodes = nodes

    async def estimate(self, *, limit: int | None) -> Estimate:
        """Those of a foreach, of which only the first `limit` are carried out."""
        step, views = self._step, self._views
        foreach = step.foreach
        assert foreach is not None  # noqa: S101 - called only then
        sources, files = _sources(foreach)
        vague = [source for source in sources if views.unsure(source)]
        if vague:
            steps = [need for need in views.waits if any(need in _named(source) for source in vague)]
            return await self._unseen(foreach, vague, ", ".join(steps or views.waits), limit)
        try:
            if any(file.path.text(views.likely) == STDIN for file in files):
                return await self.unread("standard input")
            return await self.rows(open_rows(foreach, views.likely, spool=None, limit=limit))
        except StepError as error:
            return failing(step, error.message)

    async def unread(self, source: str) -> Estimate:
        """Of items that nobody can count, each of which may be anything."""
        text = self._nodes.stand_ins.text(f"{step_path(self._name)} item")
        views = self._views
        if self._step.foreach is None:
            views = replace(views, row=(None,))
        return await self._each(text, views, ANY, f"once for each item of {source}")

    async def rows(self, rows: Rows) -> Estimate:
        """Of items that can be read. Raises StepError where they cannot."""
        step = self._step
        read, count = await _read(rows)
        found: list[Estimate] = []
        while len(found) < len(read):
            granted = self._nodes.grant(min(AT_ONCE, len(read) - len(found)))
            if found and not granted:
                break
            batch = read[len(found) : len(found) + max(1, granted)]
            found += await asyncio.gather(*map(self._item, batch))
        state = foreach_state(step, self._views.likely, window=LOOKED_AT, total=count)
        pulled = _drive(state, step, read[: len(found)], found, whole=count == len(found))
        return await self._summed(state, list(zip(read, found, strict=False)), pulled=pulled, count=count)

    async def _item(self, row: Row) -> Estimate:
        if row.error is not None:
            return failing(self._step, row.error.message)
        name = item_id(self._name, row.index)
        if self._step.foreach is None:
            return await self._nodes.node(self._step, replace(self._views, row=(row.value,)), name)
        views = self._views.item(self._step.foreach.name, (row.value,) * 3, row.index)
        return await self._nodes.node(replace(self._step, foreach=None), views, name)

    async def _unseen(
        self, foreach: Foreach, vague: Sequence[Template | ValueTemplate], names: str, limit: int | None
    ) -> Estimate:
        """Of items that a step gives which is not known yet."""
        why = f"once for each item of {names}"
        lists: list[tuple[list[Row], int | None]] = []
        try:
            lists = [await _read(open_rows(foreach, values, spool=None, limit=limit)) for values in self._views.cases]
        except StepError:  # what stands in is no list
            return await self.unread(names)
        counts = ANY
        if all(map(only_names, vague)) and not any(map(_is_text, vague)):
            (_, least), (_, likely), (rows, most) = lists
            shown = json.dumps([row.value for row in rows], ensure_ascii=False)
            stretch = self._nodes.stand_ins.measured(shown).stretch
            high = None if most is None else most * stretch
            counts = Span(low=least or 0, expected=likely if least == high else None, high=high)
        if counts.expected is None and self._nodes.past is not None:
            before = await self._nodes.past.items(self._name)
            if before is not None:
                counts = replace(counts, expected=float(before[1]))
        first = [next((row.value for row in found), None) for found, _ in lists]
        if None in first[Case.LEAST :]:
            first = [first[Case.MOST]] * 3
        return await self._each((first[0], first[1], first[2]), self._views, counts, why)

    async def _each(self, item: tuple[Json, Json, Json], views: Views, counts: Span, why: str) -> Estimate:
        """So many items, each of which is like that one."""
        step = self._step
        if step.foreach is not None:
            views = views.item(step.foreach.name, item, 0, vague=True)
        if not views.waits:
            views = replace(views, waits=("its items",))
        one = await self._nodes.node(replace(step, foreach=None), views, item_id(self._name, 0))
        load: Load = Many(items=(one.load,), count=counts.expected or 0.0, window=_window(step))
        total = one.times(counts, load=load)
        exact = int(counts.low) if counts.low == counts.high else None
        likely_count = LIKELY_ITEMS if counts.high is None else min(LIKELY_ITEMS, counts.high)
        numbers = (counts.low, likely_count if counts.expected is None else counts.expected, counts.high or 1)
        least, likely, most = ([one.output_in(case)] * int(number) for case, number in zip(Case, numbers, strict=True))
        known = one.known or one.cases is not None
        return replace(
            total,
            state=one.state if one.state == "error" else "maybe",
            known=False,
            cached=None if one.cached is None or counts.high is None else 0,
            why=why,
            items=exact,
            output=None,
            cases=(least, likely, most) if known else None,
            per_item=one.takes if counts.expected is None else None,
        )

    async def _summed(
        self, state: ForeachState, items: list[tuple[Row, Estimate]], *, pulled: int, count: int | None
    ) -> Estimate:
        """All items as one."""
        step = self._step
        accepting = step.foreach is not None and step.foreach.accept is not None
        decided = accepting and (
            state.enough or state.over
        )  # no other items are pulled, whatever the open ones come to
        looked = len(items)
        items = items[:pulled] if decided else items
        found = [one for _, one in items]
        whole = len(items) if decided or count is None else count
        total = replace(combined(step.kind, found, alike=True), items=count, known=state.over and count is not None)
        share = await self._share(count) if accepting and not decided else Span.of(1)
        load = Many(items=[one.load for one in found], count=whole * (share.expected or 0.0), window=_window(step))
        times = share.times(Span.of(count / looked if count and not decided else 1.0))
        total = total.times(times, load=IDLE if total.idle else load)
        if not decided and count is None:
            low = replace(total.takes.requests, expected=None, high=None)
            cost = None if total.takes.cost_usd is None else ANY
            total = replace(
                total,
                takes=Takes(requests=low, input_tokens=ANY, output_tokens=ANY, cost_usd=cost),
                cached=None,
                per_item=combined(step.kind, found).takes.times(Span.of(1 / looked)) if looked else None,
            )
        counts = state.counts(not_pulled=max(0, (count or 0) - pulled))
        failure = state.verdict(self._name, RunId("")) if state.over or not accepting else None
        if failure is not None:
            of = f"of the first {pulled:,} of {count:,} items, " if count is not None and pulled < count else ""
            return replace(total, state="error", why=of + failure.message, status=NodeStatus.FAILED, counts=counts)
        if decided and items:
            total = replace(total, why=f"{counts.accepted:,} accepted of the first {pulled:,} items")
        else:
            total = replace(total, why=_why(step, total, found, complete=count == looked))
        if not total.known:
            most = self._accepted() if accepting else count
            return replace(total, counts=counts, cases=_cases(found, count, most))
        outputs = [one.output if one.status is NodeStatus.SUCCEEDED else None for one in found]
        records = [
            one.record(RunId(""), item_id(self._name, row.index), place=row.index, item=row.value) for row, one in items
        ]
        return replace(
            total,
            output=state.chosen_outputs() if accepting else outputs,
            rows=[item_row(record) for record in records],
            counts=counts,
        )

    def _accepted(self) -> int:
        """How many items are wanted."""
        foreach = self._step.foreach
        assert foreach is not None  # noqa: S101 - with `accept`
        assert foreach.accept is not None  # noqa: S101 - the same
        return int(foreach.accept.count.render(self._views.likely))

    async def _share(self, count: int | None) -> Span:
        """How much of the items is carried out until enough are accepted."""
        before = None if self._nodes.past is None else await self._nodes.past.items(self._name)
        likely = 1.0 if before is None or not before[0] else before[1] / before[0]
        least = min(1.0, self._accepted() / count) if count else 1.0
        return Span(low=min(least, likely), expected=likely, high=1.0)


def _cases(found: Sequence[Estimate], count: int | None, most: int | None) -> tuple[Json, Json, Json] | None:
    """What stands in for the outputs of items, of which there are `count`, and in its output `most`."""
    if not found or count is None or most is None or any(not one.known and one.cases is None for one in found):
        return None
    size = min(count, most)

    def outputs(case: Case) -> list[Json]:
        outputs = [one.output_in(case) for one in found[:size]]
        return outputs + [outputs[-1]] * (size - len(outputs)) if outputs else []

    return outputs(Case.LEAST), outputs(Case.LIKELY), outputs(Case.MOST)


def _window(step: Step) -> int | None:
    return None if step.foreach is None else step.foreach.max_concurrent


def _is_text(source: Template | ValueTemplate) -> bool:
    return isinstance(source, Template)


def _named(source: Template | ValueTemplate) -> set[str]:
    return {reference.step for reference in source.references}


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


def _drive(state: ForeachState, step: Step, rows: Sequence[Row], found: list[Estimate], *, whole: bool) -> int:
    """Pull items as the state allows and end those of which everything is known; the others stay in flight. Gives how
    many were pulled. `whole`: there are no more items. An item whose `accept.when` fails is made a failing one."""
    pulled = 0
    while not state.over and (more := min(state.may_pull(), len(rows) - pulled)):
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


def _why(step: Step, total: Estimate, found: Sequence[Estimate], *, complete: bool) -> str:
    """How many there are, how many of them are cached, and why the first other one is sent."""
    looked = len(found)
    if total.items == 0:
        return "no items"
    if total.items is None:
        text = f"more than {COUNTED:,} items"
    else:
        text = f"{total.items:,} {'item' if total.items == 1 else 'items'}"
    if step.foreach is not None and step.foreach.accept is not None:
        text = f"up to {text}, until enough are accepted"
    among = "" if complete else f" of the first {looked:,}"
    cached = sum(one.state == "cached" for one in found)
    if cached == looked and not isinstance(step.body, WorkflowBody):
        cached = 0  # its own state says so
    ended = Counter(one.status for one in found)
    numbers = ((cached, "cached"), (ended[NodeStatus.SKIPPED], "skipped"), (ended[NodeStatus.FAILED], "in error"))
    parts = [text, *(f"{number:,}{among} {word}" for number, word in numbers if number)]
    first = next((one.why for one in found if one.state in {"send", "maybe"} and one.why), "")
    return "; ".join([", ".join(parts), *([first] if first else [])])
