"""Long texts of nodes and answers: each is kept once a run, compressed, and what repeats it leans on it.

What an item is goes into the requests made of it; an answer into the row of its node, the stored answer, the requests
of the steps behind it and the result of its graph. So a cell of such a row holds either its text, or, as bytes, the
numbers of kept texts and what is left of it for one who knows these: deflate with a preset dictionary (RFC 1950, 2.2),
or nothing if it is the kept text itself. No kept text leans on another, so any cell takes one look more to read.

Kept texts belong to a run and go with it, but for those that stored answers lean on: they go with these.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from flowllm.storage.sql.engine import Connection
from flowllm.storage.sql.rows import MemoRow, NodeRow

LONG: Final = 256
"""Characters from which on a text is kept so."""
SHARE: Final = 4
"""A text leans on others if they leave at most this part of it: a quarter."""
WINDOW: Final = 32_000
"""Bytes of a dictionary that deflate can look back on."""
HELD: Final = 8 << 20
"""Bytes of kept texts that the writer holds to compare with; one text may be longer."""
NEAR: Final = 16
"""Kept texts of one place that it holds at most."""
NAMES: Final = 10_000
"""Runs and steps of which it knows something at most."""
USES: Final = 1000
"""So many requests of one name lean on the first of them at most: as many are lost with it where it is damaged."""
PROBE: Final = 16
"""Bytes of a kept text that are looked for in another, at three places."""
USUAL: Final = (
    b',"model":"gpt-4o-mini","provider":"openai","usage":{"input_tokens":1,"output_tokens":1,"cached_input_tokens":0,'
    b'"reasoning_tokens":0,"cache_write_tokens":0},"cost_usd":0.0001,"cost_usd":null,"truncated":false}"}]}}'
    b'{"kind":"chat","provider":{"type":"openai","base_url":"https://api.openai.com/v1"},'
    b'"body":{"model":"gpt-4o-mini","messages":[{"role":"system","content":"{"role":"user","content":"'
)
"""What requests and stored answers have in common, as the text of number 0. Part of the format: never to be changed."""
LOST: Final = "\0"
"""Stands for a text that cannot be read any more: no hash matches it, so its row is found to be damaged."""

_OF_RUN: Final = "run_seq = (SELECT seq FROM runs WHERE run_id = :this)"
_IS_LEANT_ON: Final = "EXISTS (SELECT 1 FROM memo WHERE memo.text_id = texts.text_id)"
RELEASE: Final = (
    f"UPDATE texts SET run_seq = 0 WHERE {_OF_RUN} AND {_IS_LEANT_ON}",
    f"DELETE FROM texts WHERE {_OF_RUN}",
)
"""What becomes of the texts of a run before it is removed."""
SWEEP: Final = f"DELETE FROM texts WHERE run_seq = 0 AND NOT {_IS_LEANT_ON}"
"""Removes what only stored answers leaned on that are gone."""
NODE_TEXTS: Final = tuple(NodeRow._fields.index(name) for name in ("parts", "item", "output"))
"""Where such cells stand in a row of `nodes`."""
MEMO_TEXTS: Final = (MemoRow._fields.index("answer"),)

_BODIES: Final = (
    "SELECT text_id, body FROM texts WHERE text_id IN (SELECT CAST(value AS BIGINT) FROM json_each(:numbers))"
)
_RUN: Final = "SELECT seq FROM runs WHERE run_id = ?"
_PARTS, _ITEM, _OUTPUT = NODE_TEXTS
_PLACE, _PARENT, _KEY = (NodeRow._fields.index(name) for name in ("place", "parent", "key"))
_INDEX: Final = re.compile(r"\[\d+\]")
_RAW: Final = -15
_SMALL: Final = (8000, {"level": 1, "wbits": -13, "memLevel": 6})
"""Up to so many bytes in all: what deflate looks back with by default takes longer to make than a small text."""
_LARGE: Final = {"level": 1, "wbits": _RAW}

_Kept = tuple[int, bytes]
"""The number of a kept text, and the text."""
_COMMON: Final[_Kept] = (0, USUAL)
_Place = tuple[str, str]
"""A run, and what in it repeats itself: an item with all within it, or what has one name in all items."""


class Texts:
    """The long texts that one writer writes."""

    def __init__(self) -> None:
        self._held: OrderedDict[_Place, list[_Kept]] = OrderedDict()
        self._size = 0
        self._runs: dict[str, int] = {}
        self._uses: dict[_Place, int] = {}

    def forget(self) -> None:
        """A transaction was undone, or something was removed: what was held may not be there."""
        self._held.clear()
        self._size = 0
        self._runs.clear()
        self._uses.clear()

    def write(
        self, connection: Connection, nodes: Iterable[tuple[Any, ...]], answers: Iterable[tuple[Any, ...]]
    ) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Rows of nodes, and of answers with the number of the text that each leans on, as they are to be written; what
        they lean on is written here."""
        if len(self._runs) + len(self._uses) > NAMES:
            self._runs.clear()
            self._uses.clear()
        outputs: dict[str, _Kept] = {}
        written = [self._node(connection, row, outputs) for row in nodes]
        return written, [_answer(row, outputs.get(row[0])) for row in answers]

    def _node(self, connection: Connection, row: tuple[Any, ...], outputs: dict[str, _Kept]) -> tuple[Any, ...]:
        parts, item, output = row[_PARTS], row[_ITEM], row[_OUTPUT]
        if len(parts) < LONG and len(output) < LONG and (item is None or len(item) < LONG):
            return row
        run_id, node_id = row[0], row[1]
        run = self._run(connection, run_id)
        if run is None:
            return row
        here = (run_id, row[_PARENT] if row[_PLACE] is None else node_id)
        if item is not None:
            item = self._cell(connection, run, here, item)
        output = self._cell(connection, run, here, output)
        for kept in self._near(here) if isinstance(output, bytes) else ():
            if output == b"%d:" % kept[0]:
                outputs[row[_KEY]] = kept
        if len(parts) >= LONG:
            parts = self._leaning(connection, run, here, (run_id, "." + _INDEX.sub("[]", node_id)), parts.encode())
        values = list(row)
        values[_PARTS], values[_ITEM], values[_OUTPUT] = parts, item, output
        return tuple(values)

    def _cell(self, connection: Connection, run: int, here: _Place, text: str) -> str | bytes:
        """A text that others may lean on."""
        if len(text) < LONG:
            return text
        content, near = text.encode(), self._near(here)
        for number, known in near:
            if known == content:
                return b"%d:" % number
        found = [kept for kept in near if _repeats(content, kept[1])]
        if found and len(cell := _deflated(content, found)) * SHARE <= len(content):
            return cell
        return self._keep(connection, run, here, content)

    def _leaning(self, connection: Connection, run: int, here: _Place, named: _Place, content: bytes) -> str | bytes:
        """A text on which others lean only if they have its name in another item: one of so many of these is kept."""
        if "[]" in named[1]:
            uses = self._uses[named] = self._uses.get(named, -1) + 1
            if uses % USES == 0:
                return self._keep(connection, run, named, content)
        near = (kept for kept in self._near(here) if _repeats(content, kept[1]))
        return _deflated(content, [_COMMON, *self._near(named)[-1:], *near])

    def _keep(self, connection: Connection, run: int, here: _Place, content: bytes) -> bytes:
        number = connection.keep_text(run, _compressed(content))
        near = self._held.setdefault(here, [])
        near.append((number, content))
        self._size += len(content)
        if len(near) > NEAR:
            self._size -= len(near.pop(0)[1])
        while self._size > HELD and (len(self._held) > 1 or len(near) > 1):
            oldest = next(iter(self._held))
            self._size -= len(self._held[oldest].pop(0)[1])
            if not self._held[oldest]:
                del self._held[oldest]
        return b"%d:" % number

    def _near(self, here: _Place) -> Sequence[_Kept]:
        if here not in self._held:
            return ()
        self._held.move_to_end(here)
        return self._held[here]

    def _run(self, connection: Connection, run_id: str) -> int | None:
        if run_id not in self._runs:
            found = connection.execute(_RUN, (run_id,)).fetchone()
            if found is None:
                return None
            self._runs[run_id] = found[0]
        return self._runs[run_id]


def read(
    connection: Connection, query: str, values: Mapping[str, Any], columns: Iterable[int]
) -> list[tuple[Any, ...]]:
    """All rows of a query within one transaction, with their texts in these columns."""
    alone = not connection.in_transaction
    if alone:
        connection.begin_reading()
    try:
        rows = connection.fetch(query, values)
        cells = {cell for row in rows for at in columns if isinstance(cell := row[at], bytes)}
        return _in_full(connection, rows, cells, frozenset(columns)) if cells else rows
    finally:
        if alone and connection.in_transaction:  # some errors have ended it
            connection.commit()


def _in_full(
    connection: Connection, rows: Iterable[tuple[Any, ...]], cells: Iterable[bytes], columns: frozenset[int]
) -> list[tuple[Any, ...]]:
    leans = {cell: _numbers(cell) for cell in cells}
    numbers = sorted({number for found in leans.values() for number in found})
    found = connection.fetch(_BODIES, {"numbers": json.dumps(numbers)})
    kept = {0: USUAL, **{number: _inflated(body) for number, body in found}}
    texts = {cell: _text(cell, [kept.get(number) for number in found]) for cell, found in leans.items()}
    return [
        tuple(texts[cell] if at in columns and isinstance(cell, bytes) else cell for at, cell in enumerate(row))
        for row in rows
    ]


def _numbers(cell: bytes) -> list[int]:
    """The numbers of the texts that it leans on; none where they cannot be read."""
    try:
        return [int(number) for number in cell[: cell.index(b":")].split(b",") if number]
    except ValueError:
        return []


def _text(cell: bytes, leans_on: Sequence[bytes | None]) -> str:
    rest = cell[cell.find(b":") + 1 :]
    known = [content for content in leans_on if content is not None]
    content = None
    if len(known) == len(leans_on):
        content = _inflated(rest, b"".join(known)[-WINDOW:]) if rest or not known else known[0]
    try:
        return LOST if content is None else content.decode()
    except UnicodeDecodeError:
        return LOST


def _answer(row: tuple[Any, ...], output: _Kept | None) -> tuple[Any, ...]:
    """The answer leans on the output of the node that it was given to, which it mostly is."""
    answer = row[MEMO_TEXTS[0]]
    if output is None and len(answer) < 2 * LONG:  # most of it says what else is known of the answer
        return (*row, None)
    cell = _deflated(answer.encode(), [_COMMON] if output is None else [_COMMON, output])
    return (*row[: MEMO_TEXTS[0]], cell, *row[MEMO_TEXTS[0] + 1 :], output and output[0])


def _repeats(content: bytes, known: bytes) -> bool:
    """Whether a part of the known one is likely to be in it."""
    quarter = len(known) // 4
    return any(known[at : at + PROBE] in content for at in (quarter, 2 * quarter, 3 * quarter))


def _deflated(content: bytes, kept: Sequence[_Kept]) -> bytes:
    """The cell of a text that leans on these."""
    dictionary = b"".join(known for _, known in kept)[-WINDOW:]
    head = b",".join(b"%d" % number for number, _ in kept)
    return b"%b:%b" % (head, _compressed(content, dictionary))


def _compressed(content: bytes, dictionary: bytes = b"") -> bytes:
    how: dict[str, Any] = dict(_SMALL[1] if len(content) + len(dictionary) <= _SMALL[0] else _LARGE)
    if dictionary:
        how["zdict"] = dictionary
    made = zlib.compressobj(**how)
    return made.compress(content) + made.flush()


def _inflated(body: bytes, dictionary: bytes = b"") -> bytes | None:
    """What was compressed; None if that is damaged."""
    made = zlib.decompressobj(_RAW, **({"zdict": dictionary} if dictionary else {}))
    try:
        content = made.decompress(body)
    except (zlib.error, TypeError):
        return None
    return content if made.eof else None
