"""Equal requests of several processes at one database: one of them is begun."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.types import AttemptStatus, RunId
from flowllm.storage.base import AttemptRecord, Elsewhere, RunLease
from flowllm.storage.sql.store import SqlStore
from tests.support.owners import Stranger, silence
from tests.support.records import ME, OTHER, answer, attempt_of_node, lease_of, run

pytestmark = pytest.mark.anyio
R1 = RunId("r1")


def attempt(name: str, run_id: str = "r1", key: str = "same") -> AttemptRecord:
    return replace(attempt_of_node(name, run_id, status=AttemptStatus.SENT), key=key)


@pytest.fixture
async def lease(store: SqlStore) -> RunLease:
    return lease_of(await store.create_run(run("r1", owner=ME)))


@pytest.fixture
async def other(store: SqlStore) -> AsyncIterator[SqlStore]:
    """A second store at the same database, with a run of its own."""
    opened = SqlStore(store._engine, owner=OTHER)
    await opened.create_run(run("r2", owner=OTHER))
    yield opened
    await opened.close()


async def test_what_another_process_has_on_its_way_is_not_begun_until_it_ends(
    store: SqlStore, other: SqlStore, lease: RunLease
) -> None:
    theirs = RunLease(run_id=RunId("r2"), epoch=1)
    assert await other.begin_attempt(theirs, attempt("b", "r2"), joins=True) is None
    assert await store.begin_attempt(lease, attempt("a"), joins=True) is Elsewhere.SENT
    assert await store.attempts(R1) == []
    assert list(await store.sent_elsewhere(["same", "another"])) == ["same"]
    assert await other.sent_elsewhere(["same"]) == {}, "its own is single flight's"
    assert await store.begin_attempt(lease, attempt("c", key="another"), joins=True) is None
    assert await store.begin_attempt(lease, attempt("d")) is None, "it wants an answer of its own"
    await other.commit(attempt=replace(attempt("b", "r2"), status=AttemptStatus.FAILED), attempt_lease=theirs)
    assert await store.sent_elsewhere(["same"]) == {}
    assert await store.begin_attempt(lease, attempt("a"), joins=True) is None


async def test_of_many_that_begin_the_same_at_once_in_two_processes_those_of_one_do(
    store: SqlStore, other: SqlStore, lease: RunLease
) -> None:
    theirs = RunLease(run_id=RunId("r2"), epoch=1)
    for number in range(20):
        key = f"k{number}"
        found = await asyncio.gather(
            store.begin_attempt(lease, attempt(f"a{number}", key=key), joins=True),
            other.begin_attempt(theirs, attempt(f"b{number}", "r2", key), joins=True),
        )
        assert sorted(map(str, found)) == ["None", "sent"]


async def test_a_process_that_has_just_registered_is_seen_and_one_that_is_dead_is_not(
    store: SqlStore, lease: RunLease
) -> None:
    assert await store.begin_attempt(lease, attempt("a", key="mine"), joins=True) is None
    stranger = Stranger(store._engine)
    stranger.sends("same")
    assert await store.begin_attempt(lease, attempt("b"), joins=True) is Elsewhere.SENT
    stranger.dies()
    assert await store.sent_elsewhere(["same"]) == {}
    assert await store.begin_attempt(lease, attempt("b"), joins=True) is None


async def test_one_of_which_nothing_more_is_heard_is_known_to_be_dead_without_a_word_of_its_own(
    store: SqlStore, lease: RunLease, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Stranger(store._engine)
    stranger.sends("same")
    assert await store.begin_attempt(lease, attempt("a"), joins=True) is Elsewhere.SENT
    silence(store._engine)
    monkeypatch.setattr(store._writer._flights, "_version", store._writer._watch.version)
    assert await store.begin_attempt(lease, attempt("a"), joins=True) is None


async def test_an_answer_that_was_stored_since_the_look_is_told(
    store: SqlStore, other: SqlStore, lease: RunLease
) -> None:
    await store.begin_attempt(lease, attempt("before", key="before"), joins=True, looked=1.0)
    await other.commit(memo=answer("same"))
    key = answer("same").key
    assert await store.begin_attempt(lease, attempt("a", key=key), joins=True, looked=1.0) is Elsewhere.ANSWERED
    assert await store.begin_attempt(lease, attempt("a", key=key), joins=True) is None, (
        "it was looked at, and will not do"
    )


async def test_who_is_alone_looks_for_nobody(lease: RunLease, store: SqlStore) -> None:
    if store._writer._watch.version is None:
        return
    asked: list[str] = []
    await store.begin_attempt(lease, attempt("first", key="first"), joins=True)
    store._writer._connection.set_trace_callback(asked.append)
    for number in range(10):
        await store.begin_attempt(lease, attempt(f"a{number}", key=f"k{number}"), joins=True, looked=1.0)
    assert not [query for query in asked if "processes WHERE ended_at" in query or "FROM memo" in query]


async def test_many_keys_at_once(store: SqlStore, other: SqlStore, lease: RunLease) -> None:
    theirs = RunLease(run_id=RunId("r2"), epoch=1)
    keys = [f"{number:064x}" for number in range(1500)]
    await asyncio.gather(
        *(other.begin_attempt(theirs, attempt(f"b{key}", "r2", key), joins=True) for key in keys[:1000])
    )
    found = await asyncio.gather(*(store.begin_attempt(lease, attempt(f"a{key}", key=key), joins=True) for key in keys))
    assert found == [Elsewhere.SENT] * 1000 + [None] * 500
    assert len(await store.sent_elsewhere(keys)) == 1000
    assert SystemClock().now() > 0
