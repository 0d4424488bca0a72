"""Addresses of databases, as far as they are of a PostgreSQL server, and how people are shown them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from flowllm.core.errors import UsageError
from flowllm.core.redact import without_passwords

SCHEMES: Final = ("postgresql", "postgres", "postgresql+asyncpg")
FOLDER: Final = Path(".flowllm")
"""In the working directory: where files of this machine are kept, as those of a database file are."""
_SECRET: Final = re.compile(r"(?:^|&)(?:password|sslpassword)=[^&]*")


def is_postgres(url: str) -> bool:
    """Whether it names a database of a PostgreSQL server."""
    return url.partition("://")[0].lower() in SCHEMES and "://" in url


def dsn(url: str) -> str:
    """The address as the driver takes it. Raises UsageError for one that is none."""
    _, _, rest = url.partition("://")
    try:
        parts = urlsplit(f"postgresql://{rest}")
    except ValueError as error:
        raise _wrong(url, f"{error}") from error
    if not unquote(parts.path.removeprefix("/")) and "dbname=" not in parts.query and "database=" not in parts.query:
        raise _wrong(url, "it names no database")
    for host in parts.netloc.rpartition("@")[2].split(","):
        port = host.rpartition("]")[2].partition(":")[2]
        if port and not port.isdigit():
            raise UsageError(
                "The address of the PostgreSQL database cannot be read: its port is no number.",
                hint="In a password write %40 for @, %2F for /, %3A for : and %23 for #.",
            )
    return f"postgresql://{rest}"


def shown(url: str) -> str:
    """The address without its passwords."""
    parts = urlsplit(f"postgresql://{url.partition('://')[2]}")
    user, at, hosts = parts.netloc.rpartition("@")
    query = _SECRET.sub("", parts.query).lstrip("&")
    return urlunsplit(("postgresql", f"{user.partition(':')[0]}{at}{hosts}", parts.path, query, ""))


def name_of(url: str) -> str:
    """The address of any database as people are shown it: without passwords."""
    return shown(url) if is_postgres(url) else url


def place(url: str) -> Path:
    """Absolute: files of this machine that belong to the database have this name with something behind."""
    return (FOLDER / f"postgresql-{_digest(url)}").absolute()


def _digest(url: str) -> str:
    """What tells one database from others: hosts and name, whoever opens it."""
    parts = urlsplit(shown(url))
    where = f"{parts.netloc.rpartition('@')[2]}{parts.path}?{parts.query}"
    return hashlib.sha256(where.encode()).hexdigest()[:16]


def _wrong(url: str, why: str) -> UsageError:
    return UsageError(
        f"{without_passwords(url)!r} is no address of a PostgreSQL database: {why}.",
        hint="Write it like postgresql://USER@HOST:5432/NAME (the password may stand in PGPASSWORD or ~/.pgpass).",
    )
