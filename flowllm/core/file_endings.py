"""Which files are written, by their endings."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

WRITTEN: Final = (".jsonl", ".csv", ".tsv", ".json")
"""Endings that say how a file is written; any other is that of a text."""
_PARQUET: Final = ".parquet"
_NOT_WRITTEN: Final = frozenset(
    (
        *(_PARQUET, ".arrow", ".feather", ".avro", ".orc", ".xlsx", ".xls", ".xlsm", ".ods", ".sqlite", ".db"),
        *(".gz", ".zip", ".zst", ".bz2", ".xz", ".7z", ".docx", ".pdf"),
    )
)


def refused_ending(name: str) -> str:
    """Why `save` and `--output` write no file of that name; empty if they do."""
    ending = PurePath(name).suffix.lower()
    if ending not in _NOT_WRITTEN:
        return ""
    others = "`flowllm export` writes it" if ending == _PARQUET else f"other programs make {ending} of those"
    return f"{ending} is not written, but {', '.join(WRITTEN)} and other texts are: {others}"
