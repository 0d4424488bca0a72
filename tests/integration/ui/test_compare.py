"""What the page reads of two runs, over the real server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.types import RunStatus
from flowllm.storage.open import open_store, this_process
from tests.support import records
from tests.support.items import foreach, item, write
from tests.support.page import page_of

pytestmark = pytest.mark.anyio
CLOCK = SystemClock()


async def test_two_runs_as_json(tmp_path: Path) -> None:
    store = await open_store(str(tmp_path / "x.db"), clock=CLOCK)
    for number, contents in enumerate(("abc", "cax")):
        run = await store.create_run(records.run(f"r{number}", owner=this_process(CLOCK)))
        lease = records.lease_of(run)
        rows = [item(place, content) for place, content in enumerate(contents)]
        rows[0] = replace(rows[0], output={"text": "long " * 20 + "\x1b[31m" + str(number), "score": number + 1})
        await write(store, lease, *(replace(one, run_id=run.run_id) for one in (*rows, foreach())))
        await store.finish_run(lease, status=RunStatus.SUCCEEDED, finished_at=CLOCK.now())
    await store.close()
    async with page_of(tmp_path / "x.db") as page:
        found = (await page.get("/api/compare")).json
        assert (found["base"]["run_id"], found["run"]["run_id"], found["changed"]) == ("r0", "r1", True)
        (step,) = found["steps"]
        assert (step["step"], step["differs"]) == ("posts", "2 of 2 items, 1 added, 1 removed")
        moved = next(change for change in found["changes"] if change["node"] == "posts[1]")
        assert (moved["base_node"], moved["item"], moved["verdict"]) == ("posts[0]", "a", "changed")
        lines = moved["fields"][0]["lines"]
        assert ["+", [["out a", True]]] in lines
        assert "\\u001b[31m0" in "".join(parts[0][0] for _, parts in lines)
        assert (await page.get("/api/compare?limit=1")).json["total_changes"] == 4
        assert len((await page.get("/api/compare?limit=1&base=r0&run=r1&step=posts")).json["changes"]) == 1
        first = (await page.get("/api/compare?run=r0")).json
        assert (first["base"], first["run"]["run_id"]) == (None, "r0")
        for query, status in (("base=none", 404), ("step=none", 400), ("limit=x", 400), ("limit=99999", 200)):
            assert (await page.get(f"/api/compare?{query}")).status == status, query
