"""What the page reads of items and of one node, over the real server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.types import Counts, NodeStatus, RunStatus
from flowllm.storage.base import NodeRecord
from flowllm.storage.open import open_store, this_process
from tests.support import records
from tests.support.items import foreach, item, write
from tests.support.page import page_of

pytestmark = pytest.mark.anyio
CLOCK = SystemClock()


def _items() -> list[NodeRecord]:
    good = [item(place, "abc"[place]) for place in range(3)]
    bad = replace(good[1], status=NodeStatus.FAILED, output=None, error={"type": "X", "message": "no"})
    open_one = replace(good[2], status=NodeStatus.RUNNING, output=None, finished_at=None)
    whole = replace(foreach(status=NodeStatus.FAILED), counts=Counts(total=3, succeeded=1, failed=1))
    return [replace(good[0], output="long " * 10_000), bad, open_one, whole]


async def test_items_and_nodes_as_json_and_as_files(tmp_path: Path) -> None:
    store = await open_store(str(tmp_path / "x.db"), clock=CLOCK)
    lease = records.lease_of(await store.create_run(records.run("r1", owner=this_process(CLOCK))))
    await write(store, lease, *_items())
    await store.finish_run(lease, status=RunStatus.INTERRUPTED, finished_at=CLOCK.now())
    await store.close()
    async with page_of(tmp_path / "x.db") as page:

        async def asked(what: str, **query: str) -> tuple[int, object]:
            text = "&".join(f"{name}={quote(value)}" for name, value in query.items())
            answer = await page.get(f"/api/runs/r1/{what}?{text}")
            return answer.status, answer.json if answer.header("content-type") == "application/json" else answer.body

        status, dots = await asked("dots", parent="posts")
        assert (status, dots["codes"], dots["moved"]) == (200, "sfc", False)  # what was running was cut off
        status, found = await asked("items", parent="posts", status="cancelled,failed", sort="failed")
        assert [(row["index"], row["status"]) for row in found["rows"]] == [(1, "failed"), (2, "cancelled")]
        assert (await asked("item", parent="posts", index="2")) == (200, {"id": "posts[2]"})
        assert (await asked("matrix", parent="posts"))[1]["axes"] == []
        status, node = await asked("node", id="posts[0]")
        assert (node["output"]["cut"], node["output"]["size"], node["next_failed"]) == (True, 50_000, "posts[1]")
        assert await asked("node/part", id="posts[0]", part="output") == (200, b"long " * 10_000)
        status, text = await asked("export", step="posts", format="csv", status="failed")
        assert (status, text.count(b"posts["), b"index,node,item.text,status" in text) == (200, 1, True)
        status, text = await asked("export", step="posts", format="jsonl", search="LONG long")
        assert (status, text.count(b'"node": "posts['), b'"node": "posts[0]"' in text) == (200, 1, True)
        found = (await asked("items", parent="posts", search="null"))[1]["rows"]
        assert (
            (await asked("export", step="posts", format="jsonl", search="null"))[1].count(b'"node": "posts[')
            == len(found)
            == 2
        )
        assert (await asked("export", step="posts", format="jsonl"))[1].count(b'"node": "posts[') == 3
        for what, query in (
            ("node", {"id": "nothing"}),
            ("node/part", {"id": "posts[9]", "part": "item"}),
            ("item", {"parent": "posts", "index": "9"}),
        ):
            status, found = await asked(what, **query)
            assert (status, bool(found["error"]), bool(found["hint"])) == (404, True, True), what
        for what, query in (
            ("node", {}),
            ("node/part", {"id": "posts[0]", "part": "../x"}),
            ("dots", {}),
            ("items", {"parent": "posts", "status": "odd"}),
            ("items", {"parent": "posts", "sort": "odd"}),
            ("items", {"parent": "posts", "after": "-1"}),
            ("export", {"step": "posts", "format": "exe"}),
            ("export", {"step": "nothing"}),
        ):
            status, found = await asked(what, **query)
            assert (status, bool(found["error"])) == (400, True), what
        for odd in ("\x00", "' OR 1=1 --", "posts[", "posts[99999999999999999999]", "x" * 3000, "\u202e"):
            for what, name in (
                ("node", "id"),
                ("dots", "parent"),
                ("items", "parent"),
                ("matrix", "parent"),
                ("export", "step"),
            ):
                assert (await asked(what, **{name: odd}))[0] in {200, 400, 404}, (what, odd[:20])
