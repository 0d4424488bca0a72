"""Where the items of a foreach come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from flowllm.core.errors import DataFailed, TemplateFailed
from flowllm.core.types import Json
from flowllm.datasets.base import Rows
from flowllm.datasets.file_registry import FileConflict, FileRegistry
from flowllm.datasets.files import STDIN, open_file
from flowllm.datasets.globs import GlobRows
from flowllm.datasets.lists import LimitedRows, ListRows
from flowllm.datasets.matrix import Axis, MatrixRows
from flowllm.datasets.spool import open_spool, standard_input
from flowllm.language.template import ValueTemplate
from flowllm.language.workflow import DataFile, Foreach
from flowllm.steps.lazy import LAZY


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
