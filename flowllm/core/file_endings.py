"""Which files are written, by their endings."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

WRITTEN: Final = (".jsonl", ".csv", ".tsv", ".json")
"""Endings that say how a file is written; any other is that of a text."""
_PARQUET: Final = frozenset((".parquet", ".arrow", ".feather", ".avro", ".orc"))
_SHEETS: Final = frozenset((".xlsx", ".xls", ".xlsm", ".ods"))
_PACKED: Final = frozenset((".gz", ".zip", ".zst", ".bz2", ".xz", ".7z"))
_OTHERS: Final = frozenset((".sqlite", ".db", ".docx", ".pdf"))
_TEXTS: Final = frozenset((".yaml", ".yml", ".toml", ".xml", ".html", ".htm", ".md"))
"""What a model writes, and is saved as it is; rows are none of these."""


def refused_ending(name: str, *, rows: bool = False) -> tuple[str, str] | None:
    """Why no file of that name is written, and what to do; None if it is. `rows`: of many results, not of one."""
    path = PurePath(name)
    ending, stem = path.suffix.lower(), path.stem
    if ending in _PARQUET:
        export = f"`flowllm export last --output {stem}.parquet`"
        return (
            f"no {ending} is written while a run goes on",
            f"name {stem}.csv or {stem}.jsonl; afterwards there is {export}",
        )
    if ending in _SHEETS:
        return f"{ending} is not written", f"name {stem}.csv, which spreadsheet programs open"
    if ending in _PACKED:
        return (
            f"{ending} is not written",
            f"name {stem if PurePath(stem).suffix else f'{stem}.csv'}, and compress it afterwards",
        )
    if ending in _OTHERS or (rows and ending in _TEXTS):
        return f"{ending} is not written", f"end it with {', '.join(WRITTEN)}"
    return None
