"""Portions of budgets on record, on both engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.portions import Portion
from flowllm.core.types import AttemptStatus, Budget, RunId
from flowllm.storage.base import Store
from flowllm.storage.open import open_store
from tests.support.postgres import database
from tests.support.records import ME, attempt_of_node, lease_of, run

pytestmark = pytest.mark.anyio
R1, BUDGET = RunId("r1"), Budget(tokens=1000, usd=1.0)


@pytest.fixture(params=["sqlite", "postgres"])
async def stores(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[list[Store]]:
    """Of three processes at one run, each with a run of its own, too."""
    with database() if request.param == "postgres" else nullcontext(str(tmp_path / "x.db")) as url:
        monkeypatch.chdir(tmp_path)
        opened = [await open_store(url, clock=SystemClock()) for _ in range(3)]
        for number, store in enumerate(opened, 1):
            await store.create_run(run(f"r{number}", owner=ME))
        yield opened
        for store in opened:
            await store.close()


async def test_a_portion_leaves_something_for_others_and_what_is_spent_counts(stores: list[Store]) -> None:
    one, other, *_ = stores
    first = await one.take_portion(R1, BUDGET, Portion(), Portion(tokens=10, usd=0.01))
    assert (first.portion, first.others) == (Portion(tokens=500, usd=0.5), False)
    second = await other.take_portion(R1, BUDGET, Portion(), Portion(tokens=10, usd=0.01))
    assert (second.portion, second.others) == (Portion(tokens=125, usd=0.125), True)
    assert (await other.take_portion(R1, BUDGET, second.portion, Portion(tokens=376))).portion is None
    sent = attempt_of_node("a", "r1", status=AttemptStatus.SENT)
    await one.begin_attempt(lease_of(await one.run(R1)), sent)
    third = await other.take_portion(R1, BUDGET, Portion(), None)
    assert third.portion is None
    assert third.spend.tokens == sent.reserved_tokens
    await one.take_portion(R1, BUDGET, Portion(), None)
    left = 1000 - sent.reserved_tokens
    assert (await other.take_portion(R1, BUDGET, Portion(), Portion(tokens=left + 1))).portion is None
    assert (await other.take_portion(R1, BUDGET, Portion(), Portion(tokens=left))).portion.tokens == left


async def test_many_at_once_get_no_more_than_there_is(stores: list[Store]) -> None:
    async def take(store: Store) -> Portion:
        held = Portion()
        for _ in range(8):
            grant = await store.take_portion(R1, BUDGET, held, Portion(tokens=40, usd=0.01))
            held += grant.portion or Portion()
        return held

    held = await asyncio.gather(*(take(store) for store in stores))
    assert 1000 - 40 < sum(one.tokens for one in held) <= 1000 + 1e-6


async def test_the_portion_of_one_that_is_gone_is_free(stores: list[Store]) -> None:
    one, other, *_ = stores
    await one.take_portion(R1, BUDGET, Portion(), Portion(tokens=900))
    assert (await other.take_portion(R1, BUDGET, Portion(), Portion(tokens=900))).portion is None
    await one.close()
    assert (await other.take_portion(R1, BUDGET, Portion(), Portion(tokens=900))).portion is not None
