"""Failed items that a person has mended, on their way back into their run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flowllm.core.errors import UsageError
from flowllm.core.redact import Redactor
from flowllm.core.types import Json, NodeId
from flowllm.language.columns import LETTER, NODE
from flowllm.language.inputs import UNREAD
from flowllm.storage.base import NodeRecord, RunRecord, Store


async def mended_items(
    store: Store, run: RunRecord, letters: Sequence[Json], redactor: Redactor
) -> dict[str, Mapping[str, Json]]:
    """The run's mended items with those of these lines of `flowllm failed`; see `RunOptions.mended`.

    An item that is as it was is left out. Raises UsageError for a line that names no item of the run.
    """
    found: dict[str, dict[str, Json]] = {name: dict(items) for name, items in run.options.get("mended", {}).items()}
    for number, letter in enumerate(letters, 1):
        node = letter.get(NODE) if isinstance(letter, dict) else None
        record = await store.node(run.run_id, NodeId(node)) if isinstance(node, str) else None
        if record is None or record.place is None:
            raise UsageError(
                f"line {number} of what was mended names no item of run {run.run_id}",
                hint=f"each line is one of `flowllm failed {run.run_id}`, mended, with its `{NODE}`",
            )
        item = _item(letter, record, number)
        if item != record.item:
            found.setdefault(record.parent, {})[str(record.place)] = [record.content, redactor.value(item)]
    return dict(found)


def _item(letter: Mapping[str, Json], record: NodeRecord, number: int) -> Json:
    """The item of a line, in the shape in which the data has it."""
    own = {name: value for name, value in letter.items() if name not in LETTER}
    if not isinstance(record.item, dict):
        if len(own) != 1:
            raise UsageError(
                f"line {number} of what was mended has {len(own)} fields, and the item {record.node_id} is one value",
                hint="`flowllm failed` prints such an item under one name: keep that, and mend the value",
            )
        return next(iter(own.values()))
    said = {name: value for name, value in own.items() if name not in UNREAD}
    return said if said and record.item.keys() == UNREAD else own  # a line that could not be read
