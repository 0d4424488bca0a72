"""The items of a foreach, or the rows of `--over`, as one: the first ones are looked at and stand for the rest."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from flowllm.core.errors import StepError
from flowllm.core.records import replace
from flowllm.core.types import Json, NodeId, NodeStatus, RunId, StepKind, item_id, step_path
from flowllm.datasets.base import Row, Rows
from flowllm.datasets.files import STDIN
from flowllm.explain.estimate import Estimate, combined, failing
from flowllm.explain.load import IDLE, Accepts, Load, Many, calls_in
from flowllm.explain.past import Past
from flowllm.explain.rest import Sizes, at_least, with_rest
from flowllm.explain.seen_values import SeenValues
from flowllm.explain.span import ANY, NOTHING, Span, Takes
from flowllm.explain.stand_in import LIKELY_ITEMS, Case, StandIns, only_names
from flowllm.language.template import Template, ValueTemplate
from flowllm.language.workflow import Accept, DataFile, Foreach, Step, WorkflowBody
from flowllm.runtime.foreach_results import item_row
from flowllm.runtime.foreach_state import Ended, ForeachState, foreach_state
from flowllm.runtime.item_reader import open_rows

LOOKED_AT = 1000
"""Items that are bound and looked up in the cache."""
COUNTED = 1_000_000
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

    async def node(self, step: Step, seen: SeenValues, name: NodeId) -> Estimate:
        """One node; of a foreach, one item."""
        ...

    async def anew(self, step: Step, seen: SeenValues, name: NodeId) -> Estimate:
        """As `node`, as if nothing were stored."""
        ...

    def grant(self, wanted: int) -> int:
        """How many of so many items may still be looked at."""
        ...


class PlannedItems:
    """All items of one step, as one. Standard input is never read."""

    def __init__(self, step: Step, seen: SeenValues, name: NodeId, nodes: Nodes) -> None:
        """`step` has a foreach, or stands for the graph that each row of a data set goes through."""
        self._step = step
        self._seen = seen
        self._name = name
        self._nodes = nodes

    async def estimate(self, *, limit: int | None) -> Estimate:
        """Those of a foreach, of which only the first `limit` are carried out."""
        step, seen = self._step, self._seen
        foreach = step.foreach
        assert foreach is not None  # noqa: S101 - called only then
        sources, files = _sources(foreach)
        vague = [source for source in sources if seen.unsure(source)]
        if vague:
            steps = [need for need in seen.waits if any(need in _named(source) for source in vague)]
            return await self._unseen(foreach, vague, ", ".join(steps or seen.waits), limit)
        try:
            if any(file.path.text(seen.likely) == STDIN for file in files):
                return await self.unread("standard input")
            return await self.rows(open_rows(foreach, seen.likely, spool=None, limit=limit))
        except StepError as error:
            return failing(step, error.message)

    async def unread(self, source: str) -> Estimate:
        """Of items that nobody can count, each of which may be anything."""
        text = self._nodes.stand_ins.text(f"{step_path(self._name)} item")
        seen = self._seen
        if self._step.foreach is None:
            seen = replace(seen, row=(None,))
        return await self._each(text, seen, ANY, f"once for each item of {source}")

    async def rows(self, rows: Rows) -> Estimate:
        """Of items that can be read. Raises StepError where they cannot."""
        read, count, sizes = await _read(rows)
        found: list[Estimate] = []
        while len(found) < len(read):
            granted = self._nodes.grant(min(AT_ONCE, len(read) - len(found)))
            if found and not granted:
                break
            batch = read[len(found) : len(found) + max(1, granted)]
            found += await asyncio.gather(*map(self._item, batch))
        sizes.leave([row.value for row in read[len(found) :]])
        state = foreach_state(self._step, self._seen.likely, window=LOOKED_AT, total=count)
        pulled = _drive(state, self._step, read[: len(found)], found, whole=count == len(found))
        items = list(zip(read, found, strict=False))
        if sizes.count and any(one.cached != 0 for one in found):  # of the others none may be stored
            sizes.likely_most = await self._item(read[sizes.largest_at], anew=True)
        return await self._summed(state, items, sizes, pulled=pulled, count=count)

    async def _item(self, row: Row, *, anew: bool = False) -> Estimate:
        if row.error is not None:
            return failing(self._step, row.error.message)
        name, ask = item_id(self._name, row.index), self._nodes.anew if anew else self._nodes.node
        if self._step.foreach is None:
            return await ask(self._step, replace(self._seen, row=(row.value,)), name)
        seen = self._seen.item(self._step.foreach.name, (row.value,) * 3, row.index)
        return await ask(replace(self._step, foreach=None), seen, name)

    async def _unseen(
        self, foreach: Foreach, vague: Sequence[Template | ValueTemplate], names: str, limit: int | None
    ) -> Estimate:
        """Of items that a step gives which is not known yet."""
        why = f"once for each item of {names}"
        lists: list[tuple[list[Row], int | None]] = []
        try:
            for values in self._seen.cases:
                rows, number, _ = await _read(open_rows(foreach, values, spool=None, limit=limit))
                lists.append((rows, number))
        except StepError:  # what stands in is no list
            return await self.unread(names)
        counts = ANY
        if all(map(only_names, vague)) and not any(map(_is_text, vague)):
            (_, least), (_, likely), (rows, most) = lists
            shown = json.dumps([row.value for row in rows], ensure_ascii=False)
            stretch = self._nodes.stand_ins.measured(shown).stretch
            high = None if most is None or stretch == math.inf else most * stretch
            counts = Span.between(least or 0, likely if least == high else None, high)
        if counts.expected is None and self._nodes.past is not None:
            before = await self._nodes.past.items(self._name)
            if before is not None:
                counts = replace(counts, expected=float(before.total - before.not_sent))
        first = [next((row.value for row in found), None) for found, _ in lists]
        if None in first[Case.LEAST :]:
            first = [first[Case.MOST]] * 3
        return await self._each((first[0], first[1], first[2]), self._seen, counts, why)

    async def _each(self, item: tuple[Json, Json, Json], seen: SeenValues, counts: Span, why: str) -> Estimate:
        """So many items, each of which is like that one."""
        step = self._step
        if step.foreach is not None:
            seen = seen.item(step.foreach.name, item, 0, vague=True)
        if not seen.waits:
            seen = replace(seen, waits=("its items",))
        one = await self._nodes.node(replace(step, foreach=None), seen, item_id(self._name, 0))
        load: Load = Many(items=(one.load,), count=counts.expected or 0.0, window=_window(step))
        # items may be equal, and equal requests are sent once
        total = one.times(replace(counts, low=min(counts.low, 1.0)), load=load)
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
        self, state: ForeachState, items: list[tuple[Row, Estimate]], sizes: Sizes, *, pulled: int, count: int | None
    ) -> Estimate:
        """All items as one."""
        step = self._step
        accept = None if step.foreach is None else step.foreach.accept
        accepting = accept is not None
        decided = accepting and (state.enough or state.over)  # whatever the open items come to, no others are pulled
        looked = len(items)
        items = items[:pulled] if decided else items
        found = [one for _, one in items]
        known = state.over and count is not None and (bool(found) or not self._seen.waits)
        total = replace(combined(step.kind, found, alike=True), items=count, known=known)
        if not decided and count is None:
            total = _uncounted(total, looked)
        elif not decided:
            total = await self._whole(total, found, sizes, accept)
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

    async def _whole(self, total: Estimate, found: Sequence[Estimate], sizes: Sizes, accept: Accept | None) -> Estimate:
        """With those that were not looked into, as far as they are carried out until enough are accepted."""
        total = with_rest(total, found, sizes)
        count = len(found) + sizes.count
        load = Many(items=[one.load for one in found], count=count, window=_window(self._step))
        if accept is not None and count:
            wanted, share = self._accepted(), await self._accepted_share(count)
            load = replace(
                load,
                count=min(count, wanted / share),
                accepts=Accepts(wanted=wanted, share=share, overshoot=accept.overshoot, total=count),
            )
            total = total.times(Span.between(0.0, load.count / count, 1.0))
            open_ones = [one.takes for one in found if not one.known] or [NOTHING]
            needed = max(1, wanted - sum(one.known for one in found))
            total = replace(total, takes=at_least(total.takes, open_ones, min(needed, len(open_ones))))
        if self._step.kind is StepKind.EMBED:
            return _shared(total, found)
        return replace(total, load=IDLE if total.idle else load)

    async def _accepted_share(self, count: int) -> float:
        """How much of the items is accepted: what was, of those that were carried out; at first so much that all are needed."""
        before = None if self._nodes.past is None else await self._nodes.past.items(self._name)
        if before is None or not before.accepted:
            return min(1.0, self._accepted() / count)
        return before.accepted / (before.total - before.not_sent)

    def _accepted(self) -> int:
        """How many items are wanted."""
        foreach = self._step.foreach
        assert foreach is not None  # noqa: S101 - with `accept`
        assert foreach.accept is not None  # noqa: S101 - the same
        return int(foreach.accept.count.render(self._seen.likely))


def _uncounted(total: Estimate, looked: int) -> Estimate:
    """Of more items than anyone would count: the least, and what one takes."""
    takes = total.takes

    def least(get: Callable[[Takes], Span | None]) -> Span | None:
        return None if (span := get(takes)) is None else replace(ANY, low=span.low)

    return replace(
        total,
        takes=Takes.made(least),
        cached=None,
        load=IDLE,
        per_item=takes.times(Span.of(1 / looked)) if looked else None,
    )


def _shared(total: Estimate, found: Sequence[Estimate]) -> Estimate:
    """Texts of items to embed share requests."""
    requests = total.takes.requests
    expected = math.ceil(requests.low if requests.expected else 0.0)
    calls = next((one for item in found for one in calls_in(item.load) if one.count), IDLE)
    tokens = (total.takes.input_tokens.expected or 0.0) / max(1, expected)
    load = replace(calls, count=expected, tokens=tokens, reserved=tokens)
    return replace(total, takes=replace(total.takes, requests=replace(requests, expected=expected)), load=load)


def _cases(found: Sequence[Estimate], count: int | None, most: int | None) -> tuple[Json, Json, Json] | None:
    """What stands in for the outputs of items, of which there are `count`, and in its output `most`."""
    if count == 0:
        return [], [], []
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


async def _read(rows: Rows) -> tuple[list[Row], int | None, Sizes]:
    """The first rows, how many there are, and the sizes of the others; None: more than anyone would count. Raises
    DataFailed."""
    first: list[Row] = []
    sizes = Sizes()
    try:
        while len(first) < LOOKED_AT and (page := await rows.take(LOOKED_AT - len(first))):
            first += page
        sizes.look(row.value for row in first)
        while len(first) == LOOKED_AT and sizes.count <= COUNTED and (page := await rows.take(PAGE)):
            sizes.add(row.value for row in page)
        count = len(first) + sizes.count
        if rows.total is not None:
            sizes.like(rows.total - count)
        return first, rows.total if rows.total is not None else count if sizes.count <= COUNTED else None, sizes
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
