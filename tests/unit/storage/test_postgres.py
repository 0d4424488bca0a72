"""Addresses, statements and errors of PostgreSQL, without a server."""

from __future__ import annotations

import asyncio
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import asyncpg
import pytest
from packaging.requirements import Requirement

from flowllm.core.clock import SystemClock
from flowllm.core.errors import DatabaseCorrupt, StorageFailed, UsageError
from flowllm.storage.address import dsn, is_postgres, name_of, place, shown
from flowllm.storage.open import exists, home_of, open_store
from flowllm.storage.postgres import faults
from flowllm.storage.postgres.translate import translated
from tests.support.process import ROOT

SECRET = "hunter2-%40-x"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg", "PostgreSQL"])
def test_every_way_to_write_the_scheme(scheme: str) -> None:
    url = f"{scheme}://me:{SECRET}@h1:5433,h2/flow?sslmode=require"
    assert is_postgres(url)
    assert dsn(url) == f"postgresql://me:{SECRET}@h1:5433,h2/flow?sslmode=require"


@pytest.mark.parametrize("url", ["x.db", "sqlite:///x.db", "memory:", "postgresql", "mysql://h/x", "/postgres://x"])
def test_other_addresses_are_not_of_a_server(url: str) -> None:
    assert not is_postgres(url)
    assert name_of(url) == url


def test_no_password_is_shown() -> None:
    url = f"postgres://me:{SECRET}@h/flow?password={SECRET}&sslmode=require&sslpassword={SECRET}"
    assert shown(url) == name_of(url) == "postgresql://me@h/flow?sslmode=require"
    assert SECRET not in str(place(url))


def test_files_of_this_machine_are_told_apart_by_the_database_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = place("postgresql://me:a@h/flow")
    assert one.parent == tmp_path / ".flowllm"
    assert one == place("postgres://you:b@h/flow") == home_of("postgresql+asyncpg://h/flow")
    assert one != place("postgresql://h/other")


@pytest.mark.parametrize("url", ["postgresql://h", "postgresql://me:x@h:5432/", f"postgresql://me:{SECRET}@h:5432"])
def test_an_address_without_a_database_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="names no database") as caught:
        dsn(url)
    assert SECRET not in caught.value.message


@pytest.mark.parametrize("sign", ["/", "#", "?", "@", ":", "["])
@pytest.mark.parametrize("secret", ["hunter{}2x", "117{}2x"])
def test_a_password_with_signs_that_are_not_escaped_is_not_repeated(sign: str, secret: str) -> None:
    url = f"postgresql://me:{secret.format(sign)}@h/flow"
    told = shown(url)
    try:
        dsn(url)
    except UsageError as error:
        told = f"{told} {error.message} {error.hint}"
    assert not any(part in told for part in ("hunter", "117", "2x")), told


def test_what_else_an_address_says_is_shown() -> None:
    for url in (
        "postgresql://h/flow",
        "postgresql://a@h1,h2:5/flow?sslmode=require",
        "postgresql://h/flow?user=me@corp",
    ):
        assert shown(url) == url
    assert shown("postgresql://h/flow?Pass%77ord=x&user=me") == "postgresql://h/flow?user=me"


@pytest.mark.anyio
async def test_options_that_the_driver_does_not_take_are_told_without_a_traceback() -> None:
    with pytest.raises(UsageError, match="cannot be used") as caught:
        await open_store(f"postgresql://me:{SECRET}@h/flow?sslmode=perhaps", clock=SystemClock())
    assert SECRET not in f"{caught.value.message} {caught.value.hint}"


def test_without_the_driver_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(UsageError, match="not installed") as caught:
        exists("postgresql://h/flow")
    assert 'pip install "flowllm[postgres]"' in caught.value.hint


def test_the_extra_has_all_that_migrations_import() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting, found = [Requirement(text) for text in project["optional-dependencies"]["postgres"]], set()
    while waiting:
        wanted = waiting.pop()
        if (known := (wanted.name, frozenset(wanted.extras))) in found:
            continue
        found.add(known)
        for text in requires(wanted.name) or ():
            needed = Requirement(text)
            extras = ["", *wanted.extras]
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)
    assert "greenlet" in {name for name, _ in found}


@pytest.mark.anyio
async def test_a_server_that_is_not_there_is_told_in_a_sentence() -> None:
    with pytest.raises(StorageFailed, match="cannot be reached") as caught:
        await open_store("postgresql://127.0.0.1:1/flow", clock=SystemClock())
    assert "Start it" in caught.value.hint


@pytest.mark.parametrize(
    ("error", "kind", "words", "passes"),
    [
        (asyncpg.InvalidPasswordError("password authentication failed"), UsageError, "user and password", False),
        (asyncpg.InvalidCatalogNameError('database "x" does not exist'), UsageError, "createdb", False),
        (asyncpg.InsufficientPrivilegeError("permission denied"), StorageFailed, "GRANT", False),
        (asyncpg.DiskFullError("no space"), StorageFailed, "Free some space", False),
        (asyncpg.UndefinedTableError("no table"), StorageFailed, "backup", False),
        (asyncpg.DataCorruptedError("invalid page"), DatabaseCorrupt, "backup", False),
        (asyncpg.UniqueViolationError("duplicate"), ValueError, "", False),
        (asyncpg.DataError("out of range"), ValueError, "", False),
        (asyncpg.AdminShutdownError("terminating"), StorageFailed, "resume", True),
        (asyncpg.CannotConnectNowError("starting up"), StorageFailed, "resume", True),
        (asyncpg.ReadOnlySQLTransactionError("read-only"), StorageFailed, "takes writes", True),
        (asyncpg.TooManyConnectionsError("too many"), StorageFailed, "pooler", True),
        (asyncpg.DeadlockDetectedError("deadlock"), StorageFailed, "Resume", True),
        (asyncpg.SerializationError("serialize"), StorageFailed, "Resume", True),
        (asyncpg.ConnectionDoesNotExistError("was closed in the middle"), StorageFailed, "resume", True),
        (asyncpg.InterfaceError("cannot perform operation: connection is closed"), StorageFailed, "resume", True),
        (ConnectionRefusedError(111, "refused"), StorageFailed, "Start it", True),
        (TimeoutError(), StorageFailed, "Start it", True),
        (KeyError("ours"), StorageFailed, "doctor", False),
    ],
)
def test_what_an_error_means(error: Exception, kind: type[Exception], words: str, passes: bool) -> None:
    found = faults.explain(error, "postgresql://h/flow")
    assert type(found) is kind
    assert words in getattr(found, "hint", "")
    assert faults.passes(error) is passes
    assert faults.concerns_data(error) is (kind is ValueError or isinstance(error, KeyError))


def test_errors_of_our_own_stay() -> None:
    own = UsageError("no")
    assert faults.explain(own, "x") is own
    assert not faults.passes(own)


def test_places_are_numbered_by_name_or_by_order() -> None:
    by_name = translated("SELECT ':no', x::text FROM t WHERE a = :one AND b > :two OR c = :one")
    assert by_name.sql == "SELECT ':no', x::text FROM t WHERE a = $1 AND b > $2 OR c = $1"
    assert by_name.order is not None
    assert tuple(by_name.order({"two": 2, "one": 1, "three": 3})) == (1, 2)
    by_order = translated("INSERT INTO t VALUES (?, '?', ?)")
    assert (by_order.sql, by_order.order) == ("INSERT INTO t VALUES ($1, '?', $2)", None)
    one = translated("SELECT :x").order
    assert one is not None
    assert tuple(one({"x": 5})) == (5,)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            "x IN (SELECT value FROM json_each(:n))",
            "x IN (SELECT value FROM json_array_elements_text(cast($1 AS json)))",
        ),
        ("instr(parent, '[') = 0", "strpos(parent, '[') = 0"),
        ("CAST((a - (:b)) / :c AS INTEGER)", "CAST(trunc((a - ($1)) / $2) AS BIGINT)"),
        (
            "30 * CAST(at / 30 AS INTEGER), CAST(b AS INTEGER)",
            "30 * CAST(trunc(at / 30) AS BIGINT), CAST(trunc(b) AS BIGINT)",
        ),
        ("node_id GLOB :like", "node_id LIKE replace(replace($1, '_', '\\_'), '*', '%')"),
        ("database_now() + 10", "cast(extract(epoch FROM clock_timestamp()) AS float8) + 10"),
    ],
)
def test_words_that_differ(ours: str, theirs: str) -> None:
    assert translated(ours).sql == theirs


def test_the_driver_is_not_imported_without_need() -> None:
    async def work() -> None:
        store = await open_store("memory:", clock=SystemClock())
        await store.close()

    kept = sys.modules.pop("asyncpg")
    try:
        asyncio.run(work())
        assert "asyncpg" not in sys.modules
    finally:
        sys.modules["asyncpg"] = kept
