"""What a database's address means."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from flowllm.core.errors import UsageError
from flowllm.core.redact import without_passwords

MEMORY: Final = frozenset({"memory:", ":memory:", "sqlite:///:memory:"})
SQLITE: Final = "sqlite:///"
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


def is_memory(url: str) -> bool:
    """Whether it names a store that lives and dies with the process."""
    return url in MEMORY


def database_path(url: str) -> Path:
    """The file of a database: a path, or `sqlite:///` and a path (an absolute one begins with a fourth
    slash). Raises UsageError for anything else."""
    name = url.removeprefix(SQLITE)
    if not name or "\0" in name or is_memory(url) or (name == url and ("://" in url or url == "sqlite:")):
        raise UsageError(
            f"{without_passwords(url)!r} is no database that flowllm knows.",
            hint="Give a path, sqlite:///PATH, or memory:",
        )
    return Path(os.path.expanduser(name))  # noqa: PTH111 - never raises
