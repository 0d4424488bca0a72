"""Rows of results to a file, in the form that is wanted, in memory that does not depend on how many there are."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import IO, Final

from flowllm.core.errors import StorageFailed, StoreError
from flowllm.core.types import Json
from flowllm.datasets import parquet
from flowllm.datasets.layouts import json_line
from flowllm.datasets.row_files import TABLES, ByteSink, JsonArrayWriter, JsonLinesWriter, RowWriter, TableWriter
from flowllm.views.rows import ACCEPTED, AFTER, BEFORE, TIMES, Columns

_Row = Mapping[str, Json]
_KINDS: Final = {
    **dict.fromkeys((*BEFORE, *AFTER, "status"), parquet.TEXT),
    **dict.fromkeys(("index", "input_tokens", "output_tokens", "cached_input_tokens", "attempts"), parquet.WHOLE),
    **dict.fromkeys(("cost_usd", "took_s"), parquet.NUMBER),
    **dict.fromkeys(TIMES, parquet.TIME),
    **dict.fromkeys(("cached", ACCEPTED), parquet.BOOLEAN),
}
"""Columns whose types do not depend on the data."""


def export_rows(rows: Iterable[_Row], file: ByteSink, form: str, columns: Sequence[str] = ()) -> int:
    """Write rows in one of `FORMATS`, with these columns alone if any are named; how many rows there were.

    Where the columns must be known first, all rows are read once, into a temporary file, and written from there: what a run
    that goes on changes meanwhile cannot come between. Raises UsageError for a column that there is not, PackageMissing for Parquet
    without pyarrow; StorageFailed where the temporary file cannot be written, other StoreErrors, OSError.
    """
    if form == "parquet":
        parquet.pyarrow()
    if form not in TABLES and not columns:
        return _written(rows, JsonLinesWriter(file) if form == "jsonl" else JsonArrayWriter(file))
    found = Columns()
    with _gathered(rows, found) as spool:
        names, cells = found.table(columns)

        def again() -> Iterator[_Row]:
            spool.seek(0)
            yield from map(cells, map(json.loads, spool))

        return _written(again(), _writer(file, form, names, again))


def _gathered(rows: Iterable[_Row], columns: Columns) -> IO[bytes]:
    """All rows in a temporary file, their columns taken in."""
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - it is the caller's
    try:
        for row in rows:
            columns.see(row)
            spool.write(json_line(dict(row)))
        spool.flush()
    except BaseException as error:
        with suppress(OSError):  # it tries once more to write
            spool.close()
        if isinstance(error, StoreError) or not isinstance(error, OSError):
            raise
        raise StorageFailed(
            f"rows cannot be gathered in {tempfile.gettempdir()}: {error.strerror}",
            hint="make room there, or name another folder in TMPDIR; JSON Lines need none",
        ) from None
    return spool


def _writer(file: ByteSink, form: str, names: Sequence[str], rows: Callable[[], Iterator[_Row]]) -> RowWriter:
    if form == "jsonl":
        return JsonLinesWriter(file)
    if form == "json":
        return JsonArrayWriter(file)
    if form != "parquet":
        return TableWriter(file, names, form)
    kinds = parquet.ColumnKinds(_KINDS)
    for row in rows():
        kinds.see(row)
    return parquet.ParquetWriter(file, kinds.of(names))


def _written(rows: Iterable[_Row], writer: RowWriter) -> int:
    count = 0
    for row in rows:
        writer.write(row)
        count += 1
    writer.end()
    return count
