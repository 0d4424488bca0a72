"""Ranges of items: put up, leased by one worker each, reported, withdrawn, and free again when a worker is dead."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from flowllm.core.errors import OwnershipLost
from flowllm.core.types import AttemptStatus, NodeId, RunStatus
from flowllm.storage.base import RunLease, Store
from flowllm.storage.ranges import ItemEnd, OfferedRange, RangeItem, RangeReport
from flowllm.storage.sql import presence
from flowllm.storage.sql.store import SqlStore
from tests.support.owners import Stranger, execute
from tests.support.records import ME, attempt_of_node, lease_of, run

pytestmark = pytest.mark.anyio
ROW, EACH = NodeId("row"), NodeId("each")
STRANGE = {"text": "Café \ud800 \0", "n": 2**70, "none": None}


def offered(number: int, *values: object, foreach: NodeId = ROW) -> OfferedRange:
    items = [RangeItem(10 * number + at, 10 * number + at, f"c{at}", value) for at, value in enumerate(values)]
    return OfferedRange(number=number, foreach=foreach, items=items, terms={"until": None})


async def begun(store: Store) -> RunLease:
    return lease_of(await store.create_run(run("r1", owner=ME)))


async def test_a_range_is_leased_by_one_worker_as_it_was_put_up(store: Store) -> None:
    lease = await begun(store)
    assert await store.work() == []
    await store.offer_ranges(lease, [offered(1, STRANGE, "b"), offered(2, "c")])
    assert await store.work() == ["r1"]
    first, second, third = [await store.lease_range(lease.run_id) for _ in range(3)]
    assert first is not None
    assert second is not None
    assert third is None
    assert [list(item) for item in first.items] == [[10, 10, "c0", STRANGE], [11, 11, "c1", "b"]]
    assert (first.number, first.foreach, first.lease, first.leases, first.terms) == (1, ROW, lease, 1, {"until": None})
    assert second.number == 2
    news = await store.range_news(lease.run_id)
    assert (news.free, len(news.workers), news.reports) == (frozenset(), 1, [])


async def test_a_worker_takes_no_range_of_a_foreach_that_is_busy(store: Store) -> None:
    lease = await begun(store)
    await store.offer_ranges(lease, [offered(1, "a"), offered(2, "b", foreach=EACH)])
    leased = await store.lease_range(lease.run_id, busy=[ROW])
    assert leased is not None
    assert leased.foreach == EACH
    assert await store.lease_range(lease.run_id, busy=[ROW, EACH]) is None


async def test_what_a_worker_says_is_there_until_it_was_heard(store: Store) -> None:
    lease = await begun(store)
    await store.offer_ranges(lease, [offered(1, "a", "b")])
    await store.lease_range(lease.run_id)
    some = RangeReport(number=1, ended=[(10, ItemEnd.ENDED)], figures={"n": 1})
    rest = RangeReport(number=1, ended=[(11, ItemEnd.REUSED)], over=True, stopped={"status": "failed", "error": None})
    assert await store.report_range(lease, some)
    assert await store.report_range(lease, rest)
    assert not await store.report_range(lease, rest), "it is over"
    news = await store.range_news(lease.run_id)
    assert [report.ended for report in news.reports] == [[(10, ItemEnd.ENDED)], [(11, ItemEnd.REUSED)]]
    assert (news.reports[0].figures, news.reports[1].over) == ({"n": 1}, True)
    assert news.reports[1].stopped == {"status": "failed", "error": None}
    await store.offer_ranges(lease, [], heard=[news.reports[0].report_id])
    assert [report.number for report in (await store.range_news(lease.run_id)).reports] == [1]
    await store.clear_ranges(lease)
    assert (await store.range_news(lease.run_id)).reports == []


async def test_what_is_given_back_is_for_another_worker(store: Store) -> None:
    lease = await begun(store)
    await store.offer_ranges(lease, [offered(1, "a", "b")])
    await store.lease_range(lease.run_id)
    assert await store.report_range(lease, RangeReport(number=1, given_back=True))
    again = await store.lease_range(lease.run_id)
    assert again is not None
    assert (again.number, again.leases) == (1, 2)


async def test_what_is_withdrawn_is_told_to_who_has_it_and_gone_where_nobody_has(store: Store) -> None:
    lease = await begun(store)
    await store.offer_ranges(lease, [offered(1, "a"), offered(2, "b"), offered(3, "c", foreach=EACH)])
    await store.lease_range(lease.run_id)
    assert await store.withdraw_ranges(lease, ROW) == [2]
    orders = await store.range_orders(lease)
    assert (orders.going, orders.withdrawn, orders.cancelled) == (True, {ROW}, False)
    await store.withdraw_ranges(lease, ROW, cancel=True)
    assert (await store.range_orders(lease)).cancelled
    assert await store.report_range(lease, RangeReport(number=1, given_back=True))
    left = await store.lease_range(lease.run_id)
    assert left is not None
    assert left.foreach == EACH, "what was withdrawn is for nobody"


async def test_a_worker_hears_that_its_run_has_ended_or_has_begun_anew(store: Store) -> None:
    lease = await begun(store)
    assert (await store.range_orders(lease)).going
    await store.finish_run(lease, status=RunStatus.INTERRUPTED, finished_at=1.0)
    assert not (await store.range_orders(lease)).going
    claimed = lease_of(await store.claim_run(lease.run_id, ME))
    assert not (await store.range_orders(lease)).going
    assert (await store.range_orders(claimed)).going


async def test_ranges_of_an_earlier_attempt_are_for_nobody(store: Store) -> None:
    lease = await begun(store)
    await store.offer_ranges(lease, [offered(1, "a")])
    await store.finish_run(lease, status=RunStatus.INTERRUPTED, finished_at=1.0)
    claimed = lease_of(await store.claim_run(lease.run_id, ME))
    assert await store.work() == []
    assert await store.lease_range(lease.run_id) is None
    with pytest.raises(OwnershipLost):
        await store.offer_ranges(lease, [offered(2, "a")])
    await store.clear_ranges(claimed)
    await store.offer_ranges(claimed, [offered(1, "a")])
    assert await store.work() == ["r1"]


async def test_two_workers_never_get_the_same_range(store: Store) -> None:
    lease = await begun(store)
    await store.offer_ranges(lease, [offered(number, "a") for number in range(1, 21)])
    leased = await asyncio.gather(*(store.lease_range(lease.run_id) for _ in range(30)))
    numbers = [one.number for one in leased if one is not None]
    assert sorted(numbers) == list(range(1, 21))


async def test_the_ranges_of_a_dead_worker_are_free_and_what_it_sent_is_in_doubt(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "SECOND_LOOK", 0.0)
    lease = await begun(store)
    await store.offer_ranges(lease, [offered(1, "a"), offered(2, "b"), offered(3, "c", foreach=EACH)])
    await store.begin_attempt(lease, replace(attempt_of_node("row[10].a", "r1"), status=AttemptStatus.SENT))
    stranger = Stranger(store._engine)
    for statement in ("UPDATE ranges SET status = 'leased', process = ?", "UPDATE attempts SET process = ?"):
        execute(store._engine, statement, stranger.number)
    assert await store.free_ranges(lease) == []
    assert (await store.range_news(lease.run_id)).workers == {stranger.number}, "it is alive"
    await store.withdraw_ranges(lease, EACH)
    stranger.dies()
    assert await store.free_ranges(lease) == [3], "nobody will say that it is over"
    news = await store.range_news(lease.run_id)
    assert (news.free, news.workers) == ({1, 2}, set())
    assert [attempt.status for attempt in await store.attempts(lease.run_id)] == [AttemptStatus.UNKNOWN]
