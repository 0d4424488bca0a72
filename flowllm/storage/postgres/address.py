"""The address of a PostgreSQL database."""

from __future__ import annotations

import hashlib
import re
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from flowllm.core.errors import UsageError
from flowllm.core.redact import without_passwords

SCHEMES: Final = ("postgresql", "postgres", "postgresql+asyncpg")
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
    return f"postgresql://{rest}"


def shown(url: str) -> str:
    """The address without its passwords."""
    parts = urlsplit(f"postgresql://{url.partition('://')[2]}")
    user, at, hosts = parts.netloc.rpartition("@")
    query = _SECRET.sub("", parts.query).lstrip("&")
    return urlunsplit(("postgresql", f"{user.partition(':')[0]}{at}{hosts}", parts.path, query, ""))


def digest(url: str) -> str:
    """What tells one database from others: hosts and name, whoever opens it."""
    parts = urlsplit(shown(url))
    where = f"{parts.netloc.rpartition('@')[2]}{parts.path}?{parts.query}"
    return hashlib.sha256(where.encode()).hexdigest()[:16]


def _wrong(url: str, why: str) -> UsageError:
    return UsageError(
        f"{without_passwords(url)!r} is no address of a PostgreSQL database: {why}.",
        hint="Write it like postgresql://USER@HOST:5432/NAME (the password may stand in PGPASSWORD or ~/.pgpass).",
    )
