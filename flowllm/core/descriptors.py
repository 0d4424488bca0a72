"""How many files this process may have open; a connection is one of them."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path
from typing import Final

RESERVE: Final = 32
"""Kept for the database, locks, imports and results."""
ENOUGH: Final = 65_536
"""More than that is not asked of the system, whatever it allows."""


def raise_limit() -> None:
    """As far as the system allows; for a process that is ours alone, as its children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def limit() -> int:
    """How many files may be open at once."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if soft == resource.RLIM_INFINITY else soft


def left() -> int:
    """How many more connections and files may be opened, at least one."""
    try:
        open_now = sum(1 for _ in Path("/dev/fd").iterdir())
    except OSError:
        open_now = 0
    return max(1, limit() - open_now - RESERVE)
