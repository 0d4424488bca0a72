"""The items of a foreach on their way from their data: read a batch at a time, and found again by a resume."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flowllm.core.errors import DataFailed, StepError, TemplateFailed
from flowllm.core.records import dataclass, replace
from flowllm.core.tasks import start_task
from flowllm.core.types import Json, NodeId, NodeStatus, StepKind, item_index
from flowllm.datasets.base import Row, Rows, content_of
from flowllm.datasets.file_writes import FileConflict, FileRegistry
from flowllm.datasets.files import STDIN, open_file
from flowllm.datasets.globs import GlobRows
from flowllm.datasets.rows import Axis, LimitedRows, ListRows, MatrixRows
from flowllm.datasets.spool import open_spool, standard_input
from flowllm.language.template import ValueTemplate
from flowllm.language.workflow import DataFile, Foreach
from flowllm.runtime.invocation import Earlier, NodeInvocation
from flowllm.runtime.run_context import RunContext
from flowllm.steps.base import LAZY
from flowllm.storage.base import ItemKey, MatchedItem, NodeRecord

BATCH = 256
"""Items that are read, and looked up by a resume, at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item that was read and is still to be started."""

    row: Row
    content: str
    number: int
    before: Earlier | None = None


class ItemReader:
    """The items of one foreach, in input order."""

    def __init__(self, context: RunContext, invocation: NodeInvocation, rows: Rows) -> None:
        self._context = context
        self._invocation = invocation
        self._rows = rows
        earlier = invocation.earlier
        self._repeats = earlier is not None and earlier.epoch == context.lease.epoch
        """This attempt has executed the foreach already, and all its items were ended or suspended."""
        self._resumes = earlier is not None and (context.resumed or self._repeats)
        self._buffer: deque[Item] = deque()
        self._reading: asyncio.Task[bool] | None = None
        self.broken: StepError | None = None
        """Why the data could not be read any further."""

    def more(self, wake: Callable[[], None]) -> bool | None:
        """Whether there is a next item. None: that is being found out, since data may come slowly; `wake` is called
        when it is time to ask again. Raises StoreError."""
        reading = self._reading
        if reading is not None and reading.done():
            self._reading = None
            if not reading.result():
                return False
        if self._buffer:
            return True
        if self._reading is None:
            self._reading = start_task(self._read_on())
            self._reading.add_done_callback(_heard)
            self._reading.add_done_callback(lambda _: wake())
        return None

    def next(self) -> Item:
        """It; only after `more` has said that there is one."""
        return self._buffer.popleft()

    async def left(self) -> int:
        """How many there still are; of a live source only those that have come."""
        if self._reading is not None and not self._rows.live:
            await asyncio.wait([self._reading])
        self.stop()
        return len(self._buffer) + await self._rows.count_rest()

    def stop(self) -> None:
        """No more is wanted."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    async def _read_on(self) -> bool:
        """As `_read`; data that cannot be read any further ends there."""
        try:
            return await self._read()
        except StepError as error:
            self.broken = error
            return False

    async def _read(self) -> bool:
        """More items into the buffer; false at the end of the data. Raises DataFailed."""
        await self._context.writes.wait()
        await asyncio.sleep(0)  # others want their turn too
        rows = await self._rows.take(BATCH)
        if not rows:
            return False
        contents = [content_of(row.value) for row in rows]
        mended = self._context.options.mended.get(self._invocation.node_id)
        if mended is not None:
            pairs = [_mended(row, content, mended) for row, content in zip(rows, contents, strict=True)]
            rows, contents = [row for row, _ in pairs], [content for _, content in pairs]
        if self._resumes:
            self._buffer.extend(await self._found_again(rows, contents))
        else:
            self._buffer.extend(
                Item(row=row, content=content, number=row.index) for row, content in zip(rows, contents, strict=True)
            )
        return True

    async def _found_again(self, rows: Sequence[Row], contents: Sequence[str]) -> list[Item]:
        """The items with what earlier attempts left of them."""
        context = self._context
        keys = [ItemKey(place=row.index, content=content) for row, content in zip(rows, contents, strict=True)]
        matched = await (self._repeated(keys) if self._repeats else self._matched(keys))
        within: dict[NodeId, Sequence[NodeRecord]] = {}
        if self._invocation.step.kind is StepKind.WORKFLOW:  # those of graphs that succeeded are hardly ever wanted
            ids = [
                one.node.node_id
                for one in matched
                if one.node is not None and (one.node.status is not NodeStatus.SUCCEEDED or context.retry_failed)
            ]
            within = dict.fromkeys(ids, ())
            within |= await context.store.nodes_within(context.run.run_id, ids) if ids else {}
        return [
            Item(
                row=row,
                content=content,
                number=one.number,
                before=None if one.node is None else Earlier(record=one.node, within=within.get(one.node.node_id)),
            )
            for row, content, one in zip(rows, contents, matched, strict=True)
        ]

    async def _matched(self, keys: Sequence[ItemKey]) -> list[MatchedItem]:
        return await self._context.store.adopt(self._context.lease, self._invocation.node_id, keys)

    async def _repeated(self, keys: Sequence[ItemKey]) -> list[MatchedItem]:
        """By their indexes; what this attempt did not come to before is looked for as in any."""
        await self._context.writes.wait(most=0)
        run, first = self._context.run.run_id, keys[0].place
        rows = await self._context.store.items(run, self._invocation.node_id, after=first - 1, limit=len(keys))
        epoch = self._context.lease.epoch
        found = {row.place: MatchedItem(number=item_index(row.node_id), node=row) for row in rows if row.epoch == epoch}
        missing = [key for key in keys if key.place not in found]
        matched = await self._matched(missing) if missing else []
        found |= {key.place: one for key, one in zip(missing, matched, strict=True)}
        for key in keys:  # data that has changed meanwhile
            node = found[key.place].node
            if node is not None and node.content != key.content:
                found[key.place] = replace(found[key.place], node=None)
        return [found[key.place] for key in keys]


def _mended(row: Row, content: str, mended: Mapping[str, Json]) -> tuple[Row, str]:
    """The row that a person has put instead of this one, if it still is what was mended; under the content of that,
    also where the data has been mended alike since."""
    wanted, value = mended.get(str(row.index), (None, None))
    if wanted is None or content not in {wanted, content_of(value)}:
        return row, content
    return replace(row, value=value, error=None), wanted


def _heard(reading: asyncio.Task[bool]) -> None:
    """Its failure counts as heard, also if nobody asks for more: then the run ends for another reason."""
    if not reading.cancelled():
        reading.exception()


def open_rows(
    foreach: Foreach,
    values: Mapping[str, Json],
    *,
    spool: Path | None,
    limit: int | None,
    claims: FileRegistry | None = None,
) -> Rows:
    """The items, none of them read yet. Raises StepError: TemplateFailed, DataFailed.

    `spool` is where standard input is kept; `limit` cuts what the foreach gives; `claims` gets the files.
    """
    claims = claims or FileRegistry()
    if foreach.matrix is not None:
        rows: Rows = MatrixRows({name: _axis(source, values, spool, claims) for name, source in foreach.matrix.items()})
    elif foreach.file is not None:
        rows = _file(foreach.file, values, spool, claims)
    elif foreach.items is not None:
        rows = ListRows(_items(foreach.items, values))
    else:
        raise AssertionError("a foreach has one source")
    return rows if limit is None else LimitedRows(rows, limit)


def _axis(
    source: ValueTemplate | DataFile, values: Mapping[str, Json], spool: Path | None, claims: FileRegistry
) -> Axis:
    if isinstance(source, DataFile):
        return Axis(opened=lambda: _file(source, values, spool, claims))
    items = _items(source, values)
    return Axis(opened=lambda: ListRows(items), total=len(items))


def _file(source: DataFile, values: Mapping[str, Json], spool: Path | None, claims: FileRegistry) -> Rows:
    name = source.path.text(values)
    kind, delimiter = source.format, source.delimiter
    rows: Rows
    if source.many:
        rows = GlobRows(Path(source.folder), name)
    elif name != STDIN:
        try:
            claims.reads(Path(source.folder) / name, f"the data set {name}")
        except FileConflict as error:
            raise DataFailed(str(error), hint="write to another file") from None
        rows = open_file(Path(source.folder) / name, kind=kind, delimiter=delimiter, name=name)
    elif spool is None:
        raise DataFailed("standard input cannot be read here", hint="name a file")
    else:
        rows = open_spool(standard_input, spool, kind=kind, delimiter=delimiter)
    return rows if source.limit is None else LimitedRows(rows, source.limit)


def _items(source: ValueTemplate, values: Mapping[str, Json]) -> Sequence[Json]:
    """Raises TemplateFailed."""
    bare = getattr(source.tree, "bare", None)
    lazy = values.get(LAZY, {}).get(bare) if bare is not None else None
    if lazy is not None:
        sequence: Sequence[Json] = lazy.sequence
        return sequence
    found = source.render(values)
    if not isinstance(found, list):
        kind = "a mapping" if isinstance(found, dict) else f"{found!r:.80}"
        raise TemplateFailed(
            f"`foreach` wants a list, and this is {kind}", hint="for a mapping write `{{ x.items() | list }}`"
        )
    return found
