from __future__ import annotations

import sqlite3

import pytest

from flowllm.core.errors import DatabaseCorrupt, StorageFailed, UsageError
from flowllm.storage.sqlite.faults import concerns_data, explain, worth_one_by_one


def fault(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("details")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (sqlite3.SQLITE_FULL, StorageFailed, "disk is full"),
        (sqlite3.SQLITE_IOERR_WRITE, StorageFailed, "reading or writing"),
        (sqlite3.SQLITE_READONLY_DBMOVED, StorageFailed, "read-only"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StorageFailed, "locked"),
        (sqlite3.SQLITE_CANTOPEN, StorageFailed, "cannot be opened"),
        (sqlite3.SQLITE_CORRUPT_INDEX, DatabaseCorrupt, "damaged"),
        (sqlite3.SQLITE_NOTADB, DatabaseCorrupt, "damaged"),
    ],
)
def test_faults_of_the_storage(code: int, kind: type[Exception], words: str) -> None:
    error = explain(fault(code), "/x.db")
    assert type(error) is kind
    assert words in error.message
    assert "/x.db" in error.message
    assert error.hint
    assert not concerns_data(fault(code))


@pytest.mark.parametrize("error", [fault(sqlite3.SQLITE_CONSTRAINT_NOTNULL), OverflowError("too large")])
def test_faults_of_the_data_are_value_errors(error: Exception) -> None:
    assert type(explain(error, "/x.db")) is ValueError
    assert concerns_data(error)
    assert worth_one_by_one(error)


def test_a_full_disk_may_still_take_a_smaller_unit_but_a_lock_holds_for_all() -> None:
    assert worth_one_by_one(fault(sqlite3.SQLITE_FULL))
    assert not worth_one_by_one(fault(sqlite3.SQLITE_BUSY))


def test_errors_of_our_own_stay_as_they_are() -> None:
    mine = UsageError("no")
    assert explain(mine, "/x.db") is mine
