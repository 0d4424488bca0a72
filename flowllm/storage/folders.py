"""Folders and files of this machine that a database needs besides."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

PRIVATE: Final = 0o600
"""Only its owner reads what is in a database, or beside it."""


def make_folder(folder: Path) -> None:
    """The folder of a database, if it is not there. Raises OSError."""
    folder.mkdir(mode=0o700, exist_ok=True)
    ignore = folder / ".gitignore"
    if folder.name == ".flowllm" and not ignore.exists():
        ignore.write_text("*\n")


def temporary_folders() -> tuple[Path, ...]:
    """The temporary folder; none where all are full or read-only."""
    try:
        return (Path(tempfile.gettempdir()),)
    except OSError:
        return ()
