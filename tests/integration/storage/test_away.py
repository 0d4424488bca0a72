"""A PostgreSQL server that ends connections, is started anew, or cannot be reached for a while."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.errors import StorageFailed
from flowllm.core.types import AttemptStatus, NodeId, NodeStatus, RunId, RunStatus
from flowllm.storage.base import ItemKey, NodeWrite, RunLease
from flowllm.storage.liveness import LEASE
from flowllm.storage.open import open_store
from flowllm.storage.postgres import connection as connections
from flowllm.storage.postgres.engine import PostgresEngine
from flowllm.storage.sql import patience
from flowllm.storage.sql.store import SqlStore
from tests.support.owners import execute
from tests.support.pooler import pooled
from tests.support.postgres import ask, database, named, restart, started
from tests.support.proxy import Proxy, proxied
from tests.support.records import ME, answer, attempt_of_node, lease_of, node, run

pytestmark = pytest.mark.anyio
R1 = RunId("r1")
KILL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid() AND application_name = 'flowllm'"
)


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    with database() as found:
        yield found


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    with tempfile.TemporaryDirectory() as folder, proxied(url, Path(folder)) as found:  # a socket's name must be short
        yield found


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlStore]:
    store = await open_store(url, clock=SystemClock())
    try:
        yield store
    finally:
        await store.close()


def once() -> Callable[[], bool]:
    left = [True]
    return lambda: bool(left) and left.pop()


async def writes(store: SqlStore, lease: RunLease, names: list[str]) -> None:
    async def one(name: str) -> None:
        attempt = attempt_of_node(name, lease.run_id, status=AttemptStatus.SENT)
        await store.begin_attempt(lease, attempt)
        ended = attempt_of_node(name, lease.run_id)
        write = NodeWrite(lease=lease, node=node(name, lease.run_id, output=name * 300))
        await store.commit(attempt=ended, attempt_lease=lease, memo=answer(name), nodes=[write])

    await asyncio.gather(*(one(name) for name in names))


async def is_whole(store: SqlStore, names: list[str]) -> None:
    found = {one.node_id: one for one in await store.nodes(R1)}
    assert {name: one.output for name, one in found.items()} == {name: name * 300 for name in names}
    assert len({one.change_no for one in found.values()}) == len(names)
    attempts = await store.attempts(R1)
    assert sorted(one.node_id for one in attempts) == sorted(names)
    totals = (await store.run(R1)).totals
    assert (totals.nodes, totals.spend.requests) == ({NodeStatus.SUCCEEDED: len(names)}, len(names))


async def test_what_is_written_while_backends_are_ended_is_there_once(url: str) -> None:
    draw, kills = random.Random(5), 20
    async with opened(url) as store:
        lease = lease_of(await store.create_run(run("r1", owner=ME)))
        names = [f"n{number}" for number in range(400)]
        for begin in range(0, len(names), len(names) // kills):
            task = asyncio.ensure_future(writes(store, lease, names[begin : begin + len(names) // kills]))
            await asyncio.sleep(draw.uniform(0, 0.02))
            await asyncio.to_thread(ask, url, KILL)
            await task
        await is_whole(store, names)
        await store.finish_run(lease, status=RunStatus.SUCCEEDED, finished_at=9.0)


@pytest.mark.parametrize("lost", ["before_commit", "after_commit"])
async def test_a_commit_whose_end_is_not_heard_of_counts_once(proxy: Proxy, lost: str) -> None:
    async with opened(proxy.url) as store:
        setattr(proxy, lost, once())
        lease = lease_of(await store.create_run(run("r1", owner=ME)))  # a second time it would be refused
        setattr(proxy, lost, once())
        await writes(store, lease, ["a", "b"])
        await is_whole(store, ["a", "b"])
        items = [ItemKey(place=place, content=f"c{place}") for place in range(3)]
        for place in range(3):
            record = replace(node(f"each[{place}]", "r1"), parent=NodeId("each"), place=place, content=f"c{place}")
            await store.commit(nodes=[NodeWrite(lease=lease, node=record)])
        await store.finish_run(lease, status=RunStatus.FAILED, finished_at=9.0)
        setattr(proxy, lost, once())
        again = await store.claim_run(R1, ME)
        assert again.epoch == 2
        setattr(proxy, lost, once())
        found = await store.adopt(lease_of(again), NodeId("each"), items[::-1])
        assert [one.number for one in found] == [2, 1, 0]
        assert all(one.node is not None for one in found)


async def test_a_server_that_is_gone_is_waited_for_and_that_is_told(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "QUIET", 0.05)
    told: list[str] = []
    is_told = asyncio.Event()
    async with opened(proxy.url) as store:
        lease = lease_of(await store.create_run(run("r1", owner=ME)))
        unheard = store.listen(lambda text: (told.append(text), is_told.set()))
        proxy.refuses.set()
        proxy.cut()
        begins = asyncio.ensure_future(store.begin_attempt(lease, attempt_of_node("a", "r1")))
        reads = asyncio.ensure_future(store.run(R1))
        await is_told.wait()
        assert not begins.done()  # so nothing is sent
        assert "cannot be reached" in told[0] or "connection" in told[0]
        assert "Waiting for it" in told[0]
        assert "resume" not in told[0]  # it goes on by itself
        proxy.refuses.clear()
        await begins
        assert (await reads).run_id == "r1"
        while len(told) < 2:
            await asyncio.sleep(0.01)
        assert "is back" in told[1]
        unheard()


async def test_who_is_stopped_meanwhile_keeps_results_beside_it(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(patience, "HURRIED", 0.1)
    async with opened(proxy.url) as store:
        lease = lease_of(await store.create_run(run("r1", owner=ME)))
        attempt = attempt_of_node("a", "r1", status=AttemptStatus.SENT)
        await store.begin_attempt(lease, attempt)
        proxy.refuses.set()
        proxy.cut()
        store.hurry()
        ended = attempt_of_node("a", "r1")
        write = NodeWrite(lease=lease, node=node("a", "r1", output="a" * 300))
        with pytest.raises(StorageFailed, match="are kept in") as caught:
            await store.commit(attempt=ended, attempt_lease=lease, nodes=[write])
        assert str(tmp_path / ".flowllm") in caught.value.hint
    proxy.refuses.clear()
    async with opened(proxy.url) as store:
        await store.commit(memo=answer("x"))  # the first that is written brings it in
        await is_whole(store, ["a"])


async def test_results_that_were_kept_do_not_come_over_what_was_written_behind_them(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were brought in by a transaction whose end was not heard of."""
    monkeypatch.setattr(patience, "LONGEST", 0.1)
    async with opened(proxy.url) as store:
        lease = lease_of(await store.create_run(run("r1", owner=ME)))
        writes = [NodeWrite(lease=lease, node=node("a", "r1", output=text)) for text in ("old", "new")]
        proxy.refuses.set()
        proxy.cut()
        with pytest.raises(StorageFailed, match="are kept in"):
            await store.commit(nodes=writes[:1])
        monkeypatch.setattr(patience, "LONGEST", 300.0)
        proxy.refuses.clear()
        commits = iter([False, True])  # the first one is of the connection
        proxy.after_commit = lambda: next(commits, False)
        await store.commit(nodes=writes[1:])
        await store.commit(memo=answer("x"))
        assert [one.output for one in await store.nodes(R1)] == ["new"]


@pytest.mark.parametrize("hidden", [False, True])
async def test_behind_a_pooler_that_spreads_transactions_over_its_connections(url: str, hidden: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, pooled(url, Path(folder), hidden=hidden) as pooler:
        async with opened(pooler.url) as store, opened(pooler.url) as other:
            lease = lease_of(await store.create_run(run("r1", owner=ME)))
            second = lease_of(await other.create_run(run("r2", owner=ME)))
            names = [f"n{number}" for number in range(30)]
            for begin in range(0, 30, 10):
                part = names[begin : begin + 10]
                await asyncio.gather(writes(store, lease, part), writes(other, second, [f"{name}x" for name in part]))
                await asyncio.gather(*(store.memo(answer(name).key) for name in names))
            assert (await store.memo_stats()).entries == 60
            await is_whole(store, names)
            assert list(store.outputs(R1, NodeId("each"))) == []
    assert pooler.transactions > 20


async def test_a_server_that_is_started_anew_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with tempfile.TemporaryDirectory(prefix="flowllm-pg-") as folder:
        server = await asyncio.to_thread(started, Path(folder, "data"))
        try:
            async with opened(named(server.get_uri(), "postgres")) as store:
                lease = lease_of(await store.create_run(run("r1", owner=ME)))
                names = [f"n{number}" for number in range(60)]
                for begin, how in ((0, "fast"), (30, "immediate")):
                    anew = asyncio.ensure_future(asyncio.to_thread(restart, server, how))
                    await writes(store, lease, names[begin : begin + 30])
                    await anew
                await is_whole(store, names)
        finally:
            await asyncio.to_thread(server.cleanup)


async def test_of_what_was_given_up_nothing_is_taken_for_what_is_written_next(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heartbeat was committed, and that was not heard; then the first try of a group fails."""
    monkeypatch.setattr(patience, "QUIET", 0.05)
    is_told = asyncio.Event()
    async with opened(proxy.url) as store:
        await store.create_run(run("r1", owner=ME))
        store.listen(lambda _: is_told.set())
        proxy.after_commit = once()
        store.presence._due = 0.0
        store._writer._queue.put([])
        while store._engine._unheard is None:
            await asyncio.sleep(0.01)
        proxy.refuses.set()
        writing = asyncio.ensure_future(store.commit(memo=answer("a")))
        await is_told.wait()
        proxy.refuses.clear()
        await writing
        assert await store.memo(answer("a").key) is not None


async def test_what_is_to_be_settled_is_asked_until_the_server_has_answered(url: str) -> None:
    engine = PostgresEngine(url)
    with closing(engine.writer()) as connection:
        assert not engine.settled(connection)
        connection.begin()
        xid = connection.execute("SELECT pg_current_xact_id()::text").fetchone()[0]
        connection.commit()
        engine._note(xid)
        with closing(engine.reader()) as lost:
            lost._raw.terminate()
            with pytest.raises(asyncpg.InterfaceError):
                engine.settled(lost)
        assert engine.settled(connection)
        assert not engine.settled(connection)
        assert not connection.ended(str(int(xid) + 10**9)), "a server that was behind took over"


async def test_transactions_do_not_depend_on_the_defaults_of_the_server(url: str) -> None:
    ask(url, f"ALTER DATABASE {urlsplit(url).path[1:]} SET default_transaction_isolation = 'serializable'")
    with closing(PostgresEngine(url).writer()) as connection:
        connection.begin()
        assert connection.execute("SHOW transaction_isolation").fetchone() == ("read committed",)
        connection.commit()
        assert connection.execute("SHOW transaction_isolation").fetchone() == ("serializable",)


async def test_what_is_locked_by_a_process_that_stands_still_is_free_before_long(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"'{LEASE:.0f}s'" in connections.WRITES
    monkeypatch.setattr(connections, "WRITES", connections.WRITES.replace(f"'{LEASE:.0f}s'", "'50ms'"))
    engine = PostgresEngine(url)
    async with opened(url) as store:
        await store.create_run(run("r1", owner=ME))
        with closing(engine.writer()) as stopped:
            stopped.begin()
            stopped.execute("SELECT * FROM runs FOR UPDATE")
            monkeypatch.undo()
            execute(engine, "UPDATE runs SET path = 'x'")
            with pytest.raises(engine.errors) as caught:
                stopped.execute("UPDATE runs SET path = 'y'")
            assert engine.passes(caught.value)
            with suppress(*engine.errors):
                stopped.rollback()
