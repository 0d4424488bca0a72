"""Shares of limits on record: what several processes read and write of them, on both engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.errors import StorageFailed
from flowllm.core.shares import Balance, Grant, LearnedRate, Ledger, Report
from flowllm.limits.shares import balance
from flowllm.storage.base import Store
from flowllm.storage.open import open_store
from tests.support.postgres import database
from tests.support.records import ME, run

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["sqlite", "postgres"])
async def stores(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[list[Store]]:
    """Of four processes that each have a run."""
    with database() if request.param == "postgres" else nullcontext(str(tmp_path / "x.db")) as url:
        monkeypatch.chdir(tmp_path)
        opened = [await open_store(url, clock=SystemClock()) for _ in range(4)]
        for number, store in enumerate(opened):
            await store.create_run(run(f"r{number}", owner=ME))
        yield opened
        for store in opened:
            await store.close()


async def ask(store: Store, **said: object) -> Grant:
    report = Report(**{"need": 1.0, "most_slots": 8, "need_slots": 8, **said})
    return (await store.balance({"a": partial(balance, report)}))["a"]


async def test_one_alone_has_all_and_gives_up_what_others_need(stores: list[Store]) -> None:
    one, other, *_ = stores
    first = await ask(one)
    assert (first.fraction, first.slots, first.processes) == (1.0, 8, 1)
    second = await ask(other)
    assert (second.fraction, second.slots, second.processes, second.hungry) == (0.0, 0, 2, True)
    first = await ask(one, fraction=first.fraction, slots=first.slots)
    assert (first.fraction, first.slots, first.excess) == (0.5, 4, True)
    await ask(one, fraction=first.fraction, slots=first.slots)
    second = await ask(other, fraction=second.fraction, slots=second.slots)
    assert (second.fraction, second.slots) == (0.5, 4)


async def test_processes_that_ask_at_once_never_get_more_than_there_is(stores: list[Store]) -> None:
    held = [await ask(store) for store in stores]

    async def go_on(number: int) -> None:
        for turn in range(12):
            before = held[number]
            need = 1.0 if (turn + number) % 3 else 0.1
            held[number] = await ask(stores[number], fraction=before.fraction, slots=before.slots, need=need)
            await asyncio.sleep(0)
            assert sum(grant.fraction for grant in held) <= 1 + 1e-9
            assert sum(grant.slots for grant in held) <= 8

    await asyncio.gather(*(go_on(number) for number in range(len(stores))))
    assert sum(grant.fraction for grant in held) > 0.5


async def test_who_closes_its_store_leaves_its_share(stores: list[Store]) -> None:
    one, other, *_ = stores
    assert (await ask(one)).fraction == 1.0
    await one.close()
    assert (await ask(other)).fraction == 1.0


async def test_what_is_on_record_is_read_as_it_was_written(stores: list[Store]) -> None:
    one, other, *_ = stores
    learned = LearnedRate(top=9.5, floor=8.0, cut_at=12.5, guessed=True)
    await ask(one, most={"1.05": 9}, sent={"1.05": 3}, minimum=0.25, pace=4.5, learned=learned, changed=True)
    seen: list[Ledger] = []

    def look(ledger: Ledger) -> Balance:
        seen.append(ledger)
        return balance(Report(), ledger)

    await other.balance({"a": look, "b\0\ud800": look})
    (share,) = seen[0].shares
    assert (share.slots, share.windows, share.minimum, share.pace, share.need) == (8, {"1.05": 9}, 0.25, 4.5, 1.0)
    assert seen[0].pool.learned == learned
    assert seen[1].pool is None
    assert seen[1].shares == []
    assert abs(seen[0].now - SystemClock().now()) < 60


async def test_what_fails_to_decide_writes_nothing(stores: list[Store]) -> None:
    def fail(ledger: Ledger) -> Balance:
        raise StorageFailed("no")

    with pytest.raises(StorageFailed, match="no"):
        await stores[0].balance({"a": partial(balance, Report()), "b": fail})
    assert (await ask(stores[1])).processes == 1


async def test_a_store_without_a_run_has_no_share(tmp_path: Path) -> None:
    store = await open_store(str(tmp_path / "y.db"), clock=SystemClock())
    with pytest.raises(StorageFailed):
        await ask(store)
    await store.close()
