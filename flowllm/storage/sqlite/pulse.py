"""Whether somebody has written to a database since it was last looked at: cheap enough to be asked four times a second."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from flowllm.storage.sqlite.connection import connect, reading_mode
from flowllm.storage.sqlite.watch import identity

Beat = tuple[tuple[object, ...], object]
"""Which database it is and with which schema, and what changes with whatever is written to it: of SQLite its own count of
what others have written (PRAGMA data_version)."""

_ASKED = ("schema_version", "data_version")


class Pulse:
    """One connection that looks at nothing else. For one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._file: tuple[int, int] | None = None
        self._connection: sqlite3.Connection | None = None

    def beat(self) -> Beat | None:
        """Another value than before once anything was written, or another file is there; None while there is none, or it cannot
        be read."""
        found = identity(self._path)
        if found != self._file or found is None:
            self.close()
            self._file = found
        if found is None:
            return None
        try:
            if self._connection is None:
                self._connection = connect(self._path, mode=reading_mode(self._path), busy_timeout=0)
            schema, version = (self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in _ASKED)
        except sqlite3.Error:
            self.close()
            return None
        return (*found, schema), version

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._file = None
