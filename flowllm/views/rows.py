"""Results as flat rows, one for each item of a foreach, or one for a step: what `export`, tables and the library give."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, overload

from flowllm.core.clock import timestamp
from flowllm.core.errors import UsageError
from flowllm.core.records import dataclass
from flowllm.core.types import ROW, Json, NodeId, NodeStatus, RunId, item_index
from flowllm.language.inputs import own_fields
from flowllm.language.problems import listing, nearest
from flowllm.storage.base import NodeRecord
from flowllm.storage.browsing import as_searched
from flowllm.storage.results import Results
from flowllm.views.standing import standing, stored

ITEM: Final = "item"
OUTPUT: Final = "output"
ACCEPTED: Final = "accepted"
BEFORE: Final = ("index", "node")
TIMES: Final = ("started_at", "finished_at")
AFTER: Final = (
    *("error_type", "error_message", "model", "input_tokens", "output_tokens", "cached_input_tokens", "cost_usd"),
    *("attempts", "cached", *TIMES, "took_s"),
)
MOST_FIELDS: Final = 500
"""Fields of items, or of outputs, that have a column each; where there are more, all of them share one."""


def row_of(node: NodeRecord, *, going: bool, accepted: bool | None = None) -> dict[str, Json]:
    """A node as one flat row; `going`: its run is under way, so that what runs is not known to be cut off; `accepted`: of an
    item whose foreach ends with enough of them.

    The fields of a mapping, of an item or of an output, are columns of their own, `item.text` and `output.score`; what is
    no mapping is `item` or `output`. `took_s` is in seconds, with what it waited; times are UTC.
    """
    error = node.error or {}
    took = None if node.started_at is None or node.finished_at is None else node.finished_at - node.started_at
    item = own_fields(node.item) if node.node_id.startswith(f"{ROW}[") else node.item
    return {
        "index": node.place,
        "node": node.node_id,
        **_fields(ITEM, item),
        "status": standing(node.status, going=going).value,
        **({} if accepted is None else {ACCEPTED: accepted}),
        **_fields(OUTPUT, node.output),
        "error_type": error.get("type"),
        "error_message": error.get("message"),
        "model": node.model or None,
        "input_tokens": node.usage.input_tokens,
        "output_tokens": node.usage.output_tokens,
        "cached_input_tokens": node.usage.cached_input_tokens,
        "cost_usd": node.cost_usd,
        "attempts": node.attempts,
        "cached": node.cached,
        "started_at": timestamp(node.started_at),
        "finished_at": timestamp(node.finished_at),
        "took_s": None if took is None else round(took, 3),
    }


def _fields(name: str, value: Json) -> dict[str, Json]:
    if isinstance(value, dict) and value:
        return {f"{name}.{key}": one for key, one in value.items()}
    return {} if value is None else {name: value}


class Columns:
    """The columns of rows, once all of them were seen: those of items and of outputs in the order in which they first come
    up, around them those that every row has."""

    def __init__(self) -> None:
        self._fields: dict[str, dict[str, None]] = {ITEM: {}, ACCEPTED: {}, OUTPUT: {}}

    def see(self, row: Mapping[str, Json]) -> None:
        """Take its columns in."""
        for name in row:
            found = self._fields.get(name.partition(".")[0])
            if found is not None and len(found) <= MOST_FIELDS:
                found[name] = None

    @property
    def names(self) -> list[str]:
        """All of them, in their order."""
        return [*BEFORE, *self._of(ITEM), "status", *self._of(ACCEPTED), *self._of(OUTPUT), *AFTER]

    def _of(self, group: str) -> list[str]:
        found = self._fields[group]
        return [group] if len(found) > MOST_FIELDS else list(found)

    def table(self, wanted: Sequence[str] = ()) -> tuple[list[str], Callable[[Mapping[str, Json]], dict[str, Json]]]:
        """The names of all columns, or of those that are wanted, in that order, and what gives a row's cells by them: null where
        it has no such column. `item` and `output` are the whole of it where they are wanted, or have no columns for their
        fields. Raises UsageError for a column that there is not."""
        names = self._chosen(wanted) if wanted else self.names
        whole = {name for name in (ITEM, OUTPUT) if name in names and (wanted or len(self._fields[name]) > MOST_FIELDS)}
        return names, lambda row: {name: _cell_of(row, name) if name in whole else row.get(name) for name in names}

    def _chosen(self, wanted: Sequence[str]) -> list[str]:
        known = dict.fromkeys((*self.names, ITEM, OUTPUT))
        for name in wanted:
            if name not in known:
                raise UsageError(
                    f"there is no column `{name}`", hint=nearest(name, known) or f"it has {listing(known)}"
                )
        return list(dict.fromkeys(wanted))


def _cell_of(row: Mapping[str, Json], group: str) -> Json:
    """`item` or `output`, put together again from its fields; null where there is none."""
    begin = f"{group}."
    return (
        row[group]
        if group in row
        else {name.removeprefix(begin): row[name] for name in row if name.startswith(begin)} or None
    )


class Rows(Sequence[dict[str, Json]]):
    """Rows that are read from the database, a page at a time, as they are looked at."""

    def __init__(self, nodes: Sequence[NodeRecord], *, going: bool, accepted: Collection[int] | None = None) -> None:
        """`accepted` are the numbers in the names of items that were; None: all count."""
        self._nodes = nodes
        self._going = going
        self._accepted = accepted

    def __len__(self) -> int:
        return len(self._nodes)

    @overload
    def __getitem__(self, index: int) -> dict[str, Json]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Json]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Json] | list[dict[str, Json]]:
        if isinstance(index, slice):
            return [self._row(node) for node in self._nodes[index]]
        return self._row(self._nodes[index])

    def __iter__(self) -> Iterator[dict[str, Json]]:
        return map(self._row, self._nodes)

    def having(self, search: str) -> Iterator[dict[str, Json]]:
        """Those with that text in their item, output or error, as `Store.browse` finds them."""
        needle = as_searched(search)[1:-1].casefold()
        for node in self._nodes:
            known = (node.output, *(value for value in (node.item, node.error) if value is not None))
            if any(needle in as_searched(value).casefold() for value in known):
                yield self._row(node)

    def _row(self, node: NodeRecord) -> dict[str, Json]:
        accepted = None if self._accepted is None else item_index(node.node_id) in self._accepted
        return row_of(node, going=self._going, accepted=accepted)

    def __repr__(self) -> str:
        return f"<{len(self)} rows, read as they are looked at; list(…) holds them all>"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRows:
    """The rows of one run."""

    run_id: RunId
    going: bool
    """It is under way."""
    steps: Collection[str]
    """All steps of its workflow, also those that are not on record yet."""
    results: Results

    def of(self, step: str | None = None, statuses: Collection[NodeStatus] = ()) -> Rows:
        """The rows of a step: of its items, if it has a foreach; those of `posts.title`, a step within the items of `posts`, or
        of one item, `posts[3]`. Without `step` those of `--over`, or of the one foreach that the run has.

        `statuses`: only those. Raises UsageError if there is no such step, or several may be meant; StoreError.
        """
        node, within = self._found(step) if step else (self._only(), "")
        if node.counts is None:
            rows: Sequence[NodeRecord] = (
                [node] if not statuses or standing(node.status, going=self.going) in statuses else []
            )
        else:
            rows = self.results.items(node.node_id, step=within, statuses=stored(statuses, going=self.going))
            self._check_within(node, within)
        chosen = None if within else node.parts.get("chosen")
        return Rows(rows, going=self.going, accepted=None if chosen is None else frozenset(chosen))

    def _only(self) -> NodeRecord:
        nodes = [node for node in self.results.nodes() if node.counts is not None]
        if len(nodes) == 1:
            return nodes[0]
        what = f"{len(nodes)} steps with a foreach" if nodes else "no step with a foreach on record"
        found = {node.node_id for node in nodes}
        names = [name for name in self.steps if name in found] or self.steps
        raise UsageError(
            f"run {self.run_id} has {what}", hint=f"say of which step the rows are wanted: {listing(names)}"
        )

    def _found(self, step: str) -> tuple[NodeRecord, str]:
        """The node, or the foreach and the step within its items."""
        for name in (step, f"{ROW}.{step}") if ROW in self.steps else (step,):
            node = self.results.node(NodeId(name))
            if node is not None:
                return node, ""
            around = name
            while "." in around:
                around = around.rpartition(".")[0]
                node = self.results.node(NodeId(around))
                if node is not None and node.counts is not None:
                    return node, name.removeprefix(f"{around}.")
        if step in self.steps:
            raise UsageError(f"run {self.run_id} has not come to `{step}` yet")
        raise UsageError(
            f"run {self.run_id} has no record of a step `{step}`",
            hint=nearest(step, self.steps) or f"it has {listing(self.steps)}",
        )

    def _check_within(self, foreach: NodeRecord, step: str) -> None:
        """Raises UsageError if items have no such step, or it has items itself."""
        if not step:
            return
        first = next(iter(self.results.items(foreach.node_id, step=step)), None)
        if first is None:
            items = self.results.items(foreach.node_id)
            names = [node.node_id.rpartition(".")[2] for node in self.results.nodes(items[0].node_id)] if items else []
            raise UsageError(
                f"no item of `{foreach.node_id}` has a record of a step `{step}`", hint=nearest(step, names)
            )
        if first.counts is not None:
            raise UsageError(
                f"`{foreach.node_id}.{step}` has items within each item", hint=f"name the item, as in '{first.node_id}'"
            )
