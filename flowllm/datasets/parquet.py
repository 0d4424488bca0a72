"""Rows as Parquet, with types that are found in the data. The only module that knows pyarrow, and imports it when used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

from flowllm.core.errors import PackageMissing
from flowllm.core.types import Json
from flowllm.datasets.layouts import json_text
from flowllm.datasets.row_files import ByteSink

if TYPE_CHECKING:
    from types import ModuleType

GROUP: Final = 20_000
"""Rows of a row group at most."""
GROUP_BYTES: Final = 32 << 20
"""Bytes of texts, about, after which a row group is full too."""
_LARGEST: Final = 2**63
NOTHING, BOOLEAN, WHOLE, NUMBER, TEXT, TIME, OTHER = "nothing", "boolean", "whole", "number", "text", "time", "other"
"""Kinds of columns. OTHER is JSON as text, but for what is text already; `list of …` are lists of one simple kind."""
_LIST: Final = "list of "
_SIMPLE: Final = frozenset({NOTHING, BOOLEAN, WHOLE, NUMBER, TEXT})
_KINDS: Final = {NoneType: NOTHING, bool: BOOLEAN, int: WHOLE, float: NUMBER, str: TEXT}


def kind_of(value: Json) -> str:
    """What a column of such values alone would be."""
    if isinstance(value, list):
        inner = NOTHING
        for one in value:
            inner = joined(inner, kind_of(one))
        return _LIST + inner if inner in _SIMPLE else OTHER
    if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        return OTHER
    return _KINDS.get(type(value), OTHER)


def joined(one: str, other: str) -> str:
    """The kind of a column that has values of both."""
    if other in {one, NOTHING}:
        return one
    if one == NOTHING:
        return other
    if {one, other} == {WHOLE, NUMBER}:
        return NUMBER
    if one.startswith(_LIST) and other.startswith(_LIST):
        inner = joined(one.removeprefix(_LIST), other.removeprefix(_LIST))
        return _LIST + inner if inner in _SIMPLE else OTHER
    return OTHER


class ColumnKinds:
    """The kinds of columns, once all rows were seen."""

    def __init__(self, known: Mapping[str, str]) -> None:
        """`known` are those that do not depend on the rows."""
        self._known = known
        self._kinds: dict[str, str] = {}

    def see(self, row: Mapping[str, Json]) -> None:
        """Take a row's values in."""
        for name, value in row.items():
            if name not in self._known and self._kinds.get(name) != OTHER:
                self._kinds[name] = joined(self._kinds.get(name, NOTHING), kind_of(value))

    def of(self, columns: Sequence[str]) -> dict[str, str]:
        """Of each column, in order."""
        return {name: self._known.get(name) or self._kinds.get(name, NOTHING) for name in columns}


class ParquetWriter:
    """A row group at a time. See `RowWriter`."""

    def __init__(self, file: ByteSink, kinds: Mapping[str, str]) -> None:
        """Raises PackageMissing without pyarrow."""
        self._arrow = pyarrow()
        from pyarrow.parquet import ParquetWriter as Writer  # noqa: PLC0415 - as below

        self._kinds = kinds
        self._schema = self._arrow.schema([(name, self._type(kind)) for name, kind in kinds.items()])
        self._writer = Writer(file, self._schema, compression="zstd")
        self._columns: dict[str, list[Any]] = {name: [] for name in kinds}
        self._rows = self._bytes = 0

    def write(self, row: Mapping[str, Json]) -> None:
        for name, values in self._columns.items():
            value = _converted(row.get(name), self._kinds[name])
            values.append(value)
            self._bytes += len(value) if isinstance(value, (str, list)) else 0
        self._rows += 1
        if self._rows >= GROUP or self._bytes >= GROUP_BYTES:
            self._flush()

    def end(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._arrow.table(self._columns, schema=self._schema))
        self._columns = {name: [] for name in self._columns}
        self._rows = self._bytes = 0

    def _type(self, kind: str) -> Any:
        if kind.startswith(_LIST):
            return self._arrow.list_(self._type(kind.removeprefix(_LIST)))
        make = {BOOLEAN: self._arrow.bool_, WHOLE: self._arrow.int64, NUMBER: self._arrow.float64}.get(kind)
        if kind == TIME:
            return self._arrow.timestamp("ms", tz="UTC")
        return self._arrow.string() if make is None else make()


def pyarrow() -> ModuleType:
    """Raises PackageMissing where it is not installed."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - takes a fifth of a second, and is not installed everywhere
    except ImportError:
        raise PackageMissing("Parquet needs pyarrow", hint="pip install 'flowllm[parquet]'") from None
    module: ModuleType = pa
    return module


def _converted(value: Json, kind: str) -> Any:
    match value:
        case None:
            return None
        case str() if kind == TIME:
            return datetime.fromisoformat(value)
        case str():
            return _whole(value)
        case list() if kind.startswith(_LIST):
            return [_whole(one) if isinstance(one, str) else one for one in value]
    return json_text(value) if kind == OTHER else value


def _whole(text: str) -> str:
    """Half a character, which UTF-8 cannot write, stands there as an escape."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
