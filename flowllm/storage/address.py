"""Addresses of databases, as far as they are of a PostgreSQL server, and how people are shown them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from flowllm.core.errors import UsageError
from flowllm.core.redact import without_passwords

SCHEMES: Final = ("postgresql", "postgres", "postgresql+asyncpg")
FOLDER: Final = Path(".flowllm")
"""In the working directory: where files of this machine are kept, as those of a database file are."""
_SECRET: Final = frozenset({"password", "sslpassword"})


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
    if "@" in parts.path or parts.fragment:
        raise _unescaped("it has a sign of the password that is not escaped")
    if not unquote(parts.path.removeprefix("/")) and "dbname=" not in parts.query and "database=" not in parts.query:
        raise _wrong(url, "it names no database")
    for host in parts.netloc.rpartition("@")[2].split(","):
        port = host.rpartition("]")[2].partition(":")[2]
        if port and not port.isdigit():
            raise _unescaped("its port is no number")
    return f"postgresql://{rest}"


def shown(url: str) -> str:
    """The address without its passwords: also one whose password has signs that are not escaped."""
    rest = url.partition("://")[2]
    begin, _, query = rest.partition("?")
    if "@" in query and "=" not in query.partition("@")[0]:  # that was a sign of the password
        begin, query = rest, ""
    user, at, place = begin.rpartition("@")
    options = (option for option in query.split("&") if "=" in option)
    kept = "&".join(option for option in options if unquote(option.partition("=")[0]).lower() not in _SECRET)
    return f"postgresql://{user.partition(':')[0]}{at}{place}{'?' if kept else ''}{kept}"


def name_of(url: str) -> str:
    """The address of any database as people are shown it: without passwords."""
    return shown(url) if is_postgres(url) else url


def place(url: str) -> Path:
    """Absolute: files of this machine that belong to the database have this name with something behind."""
    return (FOLDER / f"postgresql-{_digest(url)}").absolute()


def _digest(url: str) -> str:
    """What tells one database from others: hosts and name, whoever opens it."""
    begin, _, query = shown(url).partition("://")[2].partition("?")
    where = f"{begin.rpartition('@')[2]}?{query}"
    return hashlib.sha256(where.encode()).hexdigest()[:16]


def _unescaped(why: str) -> UsageError:
    return UsageError(
        f"The address of the PostgreSQL database cannot be read: {why}.",
        hint="In a password write %40 for @, %2F for /, %3A for :, %3F for ? and %23 for #.",
    )


def _wrong(url: str, why: str) -> UsageError:
    return UsageError(
        f"{without_passwords(url)!r} is no address of a PostgreSQL database: {why}.",
        hint="Write it like postgresql://USER@HOST:5432/NAME (the password may stand in PGPASSWORD or ~/.pgpass).",
    )
