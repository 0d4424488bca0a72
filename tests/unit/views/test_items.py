"""What the page's table says of an item."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.types import StepKind
from flowllm.storage.browsing import ItemQuery
from flowllm.storage.open import open_store
from flowllm.views.items import item_rows
from tests.support.items import POSTS, R1, foreach, item, write
from tests.support.records import ME, attempt_of_node, lease_of, run

pytestmark = pytest.mark.anyio


async def test_an_item_that_is_a_graph_has_the_sums_of_what_is_within_it(tmp_path: Path) -> None:
    store = await open_store(str(tmp_path / "x.db"), clock=SystemClock())
    begun = await store.create_run(run(R1, owner=ME))
    lease = lease_of(begun)
    within = attempt_of_node("posts[0].a", R1)
    await store.begin_attempt(lease, within)
    await store.commit(attempt=within, attempt_lease=lease)
    await write(store, lease, replace(item(0, "a"), kind=StepKind.WORKFLOW), item(1, "b"), foreach())
    first, second = (await item_rows(store, begun, POSTS, ItemQuery()))["rows"]
    assert (first["attempts"], first["tokens"], first["cost_usd"]) == (1, within.usage.total, within.cost_usd)
    assert second["tokens"] == item(1, "b").usage.total
    await store.close()
