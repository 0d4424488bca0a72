"""What PostgreSQL's errors mean to a person, and which of them pass."""

from __future__ import annotations

from typing import Final

from flowllm.core.errors import DatabaseCorrupt, FlowLLMError, StorageFailed, UsageError

RESTORE: Final = "Restore it from a backup, or name another database with --db."
_AWAY: Final = "Start it, or check the address (host, port, network, sslmode), then resume the run."
_RIGHTS: Final = (
    "GRANT what is missing to this user (docs/postgresql.md lists it), or name another user or database with --db."
)
_WORDS: Final[tuple[tuple[str, str, str], ...]] = (
    (
        "28",
        "it does not let this user in",
        "Check user and password (in --db, PGPASSWORD or ~/.pgpass) and the server's pg_hba.conf.",
    ),
    ("3D000", "there is no database of that name", "Make it (createdb NAME), or correct the name in --db."),
    ("42501", "this user has too few rights", _RIGHTS),
    ("53100", "the server's disk is full", "Free some space there, then resume the run."),
    (
        "53300",
        "the server has no connection left",
        "Raise max_connections, or put a pooler between, then resume the run.",
    ),
    ("53", "the server has too little memory or space", "Give it more, then resume the run."),
    ("25006", "it is read-only", "Name the server that takes writes, then resume the run."),
    ("25P0", "the server ended a transaction that stood still", "Resume the run."),
    ("57P03", "the server is starting or stopping", _AWAY),
    ("57", "the server ended the connection", _AWAY),
    ("08", "the connection was lost", _AWAY),
    ("40", "other transactions were in the way for too long", "Resume the run."),
    (
        "55P03",
        "another process has kept it locked for too long",
        "Find the process that holds the lock, end it, then resume the run.",
    ),
    ("58", "the server cannot read or write its files", "Check its disk, then resume the run."),
    ("42", "its tables are not as flowllm made them", RESTORE),
)
"""By the beginning of SQLSTATE."""
_AWAY_STATES: Final = ("08", "57P0", "25P03", "25P04")
_PASSES: Final = (*_AWAY_STATES, "40001", "40P01", "25006", "53300", "55P03", "26000", "57014", "55006")
NO_STATEMENT: Final = "26000"
"""A pooler has sent a prepared statement to another server process."""
_DATA: Final = ("22", "23")
_DAMAGE: Final = ("XX001", "XX002")


def state_of(error: BaseException) -> str:
    """SQLSTATE; "" for an error that is not the server's."""
    return str(getattr(error, "sqlstate", None) or "")


def is_away(error: BaseException) -> bool:
    """Whether there is no connection to the server any more."""
    return state_of(error).startswith(_AWAY_STATES) or (
        not state_of(error) and isinstance(error, OSError | TimeoutError)
    )


def passes(error: BaseException) -> bool:
    """Whether it is worth trying again."""
    return is_away(error) or state_of(error).startswith(_PASSES) or _is_closed(error)


def concerns_data(error: BaseException) -> bool:
    """Whether the values of one write are to blame."""
    if isinstance(error, FlowLLMError | ValueError | TypeError | LookupError):
        return True
    return state_of(error).startswith(_DATA) or _is_unsendable(error)


def explain(error: BaseException, name: str) -> Exception:
    """The error to raise: UsageError, StorageFailed, DatabaseCorrupt, or ValueError for a value that it cannot hold."""
    if isinstance(error, FlowLLMError | ValueError) and not _is_closed(error):
        return error
    state, said = state_of(error), _said(error)
    if state.startswith(_DATA) or _is_unsendable(error):
        return ValueError(f"The database cannot hold a value: {said}")
    if state in _DAMAGE:
        return DatabaseCorrupt(f"The database {name} is damaged: {said}.", hint=RESTORE)
    for begin, what, hint in _WORDS:
        if state.startswith(begin):
            kind = UsageError if begin in {"28", "3D000"} else StorageFailed
            return kind(f"The database {name} cannot be used: {what} ({said}).", hint=hint)
    if isinstance(error, OSError | TimeoutError) or _is_closed(error):
        return StorageFailed(f"The database {name} cannot be reached: {said}.", hint=_AWAY)
    return StorageFailed(f"The database {name} cannot be used: {said}.", hint="Run `flowllm doctor`.")


def _is_closed(error: BaseException) -> bool:
    """The driver's own word on a connection that is no longer there, or was lost in the middle of something."""
    name = type(error).__name__
    return name == "InternalClientError" or (
        name == "InterfaceError" and ("closed" in str(error) or "progress" in str(error))
    )


def _is_unsendable(error: BaseException) -> bool:
    """The driver's own word on a value that does not fit."""
    return type(error).__name__ == "DataError"


def _said(error: BaseException) -> str:
    words = str(error).strip().rstrip(".")
    return words.splitlines()[0] if words else type(error).__name__
