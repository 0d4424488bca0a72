"""What every store promises of deleting, of the memo and of closing."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from flowllm.core.errors import RunOwned
from flowllm.core.types import RunId, RunStatus
from flowllm.storage.base import NodeWrite, RunRecord, Store
from tests.support.records import ME, answer, attempt_of_node, lease_of, node, run

pytestmark = pytest.mark.anyio


async def finish(store: Store, record: RunRecord, status: RunStatus = RunStatus.SUCCEEDED) -> None:
    await store.finish_run(lease_of(record), status=status, finished_at=1_700_000_009.0)


# deleting


async def test_deleting_runs_takes_their_rows_and_leaves_the_memo(store: Store) -> None:
    for name in ("r1", "r2", "r3"):
        made = await store.create_run(run(name, owner=ME))
        await store.commit(
            attempt=attempt_of_node("a", name),
            attempt_lease=lease_of(made),
            memo=answer(name),
            nodes=[NodeWrite(lease=lease_of(made), node=node("a", name))],
        )
        await finish(store, made)
    gone = [RunId("r1"), RunId("r2"), RunId("r1"), RunId("unknown")]
    assert await store.delete_runs(gone) == 2
    assert [record.run_id for record in await store.runs()] == ["r3"]
    for run_id in gone:
        assert await store.nodes(run_id) == []
        assert await store.attempts(run_id) == []
    assert len(await store.nodes(RunId("r3"))) == 1
    assert (await store.memo_stats()).entries == 3
    assert await store.delete_runs([]) == 0


async def test_an_owned_run_is_not_deleted_nor_are_those_named_with_it(store: Store) -> None:
    await finish(store, await store.create_run(run("r1", owner=ME)))
    await store.create_run(run("r2", owner=ME))
    with pytest.raises(RunOwned, match="r2"):
        await store.delete_runs([RunId("r1"), RunId("r2")])
    assert len(await store.runs()) == 2


async def test_a_run_whose_owner_died_can_be_deleted(store: Store) -> None:
    await store.create_run(run("r1"))
    assert await store.delete_runs([RunId("r1")]) == 1


# memo


async def test_the_memo_gives_what_it_was_given_and_the_newest(store: Store) -> None:
    assert await store.memo("nothing") is None
    await store.commit(memo=answer("a", value={"old": 1}))
    await store.commit(memo=answer("a", value={"new": [1]}, created_at=2_000_000_000.0))
    found = await store.memo(answer("a").key)
    assert found == answer("a", value={"new": [1]}, created_at=2_000_000_000.0)


async def test_many_lookups_at_once(store: Store) -> None:
    await asyncio.gather(*(store.commit(memo=answer(f"k{n}", value=n)) for n in range(0, 1200, 2)))
    keys = [answer(f"k{n}").key for n in range(1200)]
    found = await asyncio.gather(*(store.memo(key) for key in [*keys, *keys]))
    values = [record and record.answer["value"] for record in found]
    assert values == [n if n % 2 == 0 else None for n in range(1200)] * 2


async def test_memo_stats_prune_and_clear(store: Store) -> None:
    assert (await store.memo_stats()).oldest is None
    for number in range(4):
        record = answer(f"k{number}", created_at=float(number))
        await store.commit(memo=replace(record, model="m" if number else "n\ud800"))
    stats = await store.memo_stats()
    assert (stats.entries, stats.oldest, stats.newest) == (4, 0.0, 3.0)
    assert stats.models == {"m": 3, "n\ud800": 1}
    assert stats.bytes > 4 * 100
    assert await store.prune_memo(older_than=2.0) == 2
    assert await store.memo(answer("k1").key) is None
    assert await store.memo(answer("k2").key) is not None
    assert await store.clear_memo() == 2
    assert (await store.memo_stats()).entries == 0


# closing


async def test_what_waits_is_written_before_it_closes(store: Store) -> None:
    tasks = [asyncio.ensure_future(store.commit(memo=answer(f"k{n}"))) for n in range(50)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*tasks)
    await store.close()
