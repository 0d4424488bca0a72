"""Asking before something is removed, and what is told of it afterwards."""

from __future__ import annotations

import sys

import click

from flowllm.core.errors import UsageError
from flowllm.reporting.text import plural
from flowllm.storage.base import Store

_KIBI = 1024

yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def confirm(what: str, *, yes: bool) -> None:
    """Ask whether to `what`, unless `yes`. Raises UsageError where nobody can be asked, click.Abort for a no."""
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(f"this would {what}", hint="add --yes if that is meant")
    click.confirm(f"{what[:1].upper()}{what[1:]}?", abort=True, err=True)


async def space_given_back(store: Store) -> str:
    """What becomes of the space of what was removed, to be put behind that."""
    freed = await store.compact()
    if freed is None:
        return " (the database is in use: its file stays as large, and the space is used again)"
    return f", {size(freed)} given back to the disk" if freed > 0 else ""


def size(count: int) -> str:
    """Bytes for people: 512 bytes, 1.5 KiB, 3.0 MiB."""
    if count < _KIBI:
        return plural(count, "byte")
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        amount /= _KIBI
        if amount < _KIBI:
            return f"{amount:.1f} {unit}"
    return f"{amount / _KIBI:.1f} TiB"
