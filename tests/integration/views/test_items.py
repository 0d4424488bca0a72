"""What the page shows of a node and of items, of real runs over a real database."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from flowllm.core.errors import RequestRejected, UsageError
from flowllm.core.request import Completion
from flowllm.core.types import NodeId, NodeStatus, Usage
from flowllm.explain.why import explain
from flowllm.storage.base import RunRecord
from flowllm.storage.browsing import ItemOrder, ItemQuery
from flowllm.views import matrix as matrices
from flowllm.views.items import dots, item_rows
from flowllm.views.matrix import matrix
from flowllm.views.node import node_detail, part_of
from tests.support.run_attempts import Stage
from tests.support.virtual import run_virtual

VARIANTS = NodeId("variants")
FLOW = """
    steps:
      variants:
        prompt: "{{ item.tone }} about {{ item.topic }}"
        system: be short
        foreach: {matrix: {tone: [kind, stern], topic: [tea, coffee, milk]}}
        max_concurrent: 1
        on_error: continue
    """


async def _ran(stage: Stage) -> RunRecord:
    stage.provider.script = ["a0", "a1", RequestRejected("no <b>milk</b>\x1b[31m", hint="try tea"), "a3", "a4", "a5"]
    await stage.run(FLOW)
    run = await stage.store.run("r1")
    return replace(run, status="succeeded")


def test_dots_rows_and_matrix() -> None:
    async def main() -> None:
        stage = Stage()
        run = await _ran(stage)
        found = await dots(stage.store, run, VARIANTS)
        assert (found["total"], found["codes"]) == (6, "ssfsss")
        assert found["changes"] == run.totals.changes > 0
        rows = await item_rows(stage.store, run, VARIANTS, ItemQuery(order=ItemOrder.FAILED, limit=2))
        assert [row["index"] for row in rows["rows"]] == [2, 0]
        assert (rows["total"], rows["more"], rows["cursor"]) == (6, True, 2)
        first = rows["rows"][0]
        assert first["error"] == "RequestRejected: no <b>milk</b>\\x1b[31m"
        assert first["item"] == "tone: kind, topic: milk"
        rows = await item_rows(stage.store, run, VARIANTS, ItemQuery(search="MILK", statuses={NodeStatus.SUCCEEDED}))
        assert [(row["index"], row["output"]) for row in rows["rows"]] == [(5, "a5")]
        assert (rows["total"], rows["more"]) == (None, False)
        grid = await matrix(stage.store, run, VARIANTS, ["tone", "topic"])
        assert grid["axes"] == [
            {"name": "tone", "values": ["kind", "stern"]},
            {"name": "topic", "values": ["tea", "coffee", "milk"]},
        ]
        assert [cell["at"] for cell in grid["cells"]] == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]

    run_virtual(main())


def test_the_cells_of_a_large_matrix_are_read_in_pages_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices, "_PAGE", 2)
    monkeypatch.setattr(matrices, "MOST_CELLS", 5)

    async def main() -> None:
        stage = Stage()
        run = await _ran(stage)
        grid = await matrix(stage.store, run, VARIANTS, ["tone", "topic"])
        assert [cell["id"] for cell in grid["cells"]] == [f"variants[{at}]" for at in range(5)]
        assert (grid["more"], grid["cells"][2]["error"]) == (1, "RequestRejected: no <b>milk</b>\\x1b[31m")
        grid = await matrix(stage.store, run, VARIANTS, ["tone", "left out where it was mended"])
        assert grid["axes"][1]["values"] == ["null"]

    run_virtual(main())


def test_a_node_with_all_that_is_on_record_of_it() -> None:
    async def main() -> None:
        stage = Stage()
        run = await _ran(stage)
        node = await stage.store.node("r1", NodeId("variants[2]"))
        why = await explain(stage.store, run, "variants[2]", ())
        found = (await node_detail(stage.store, run, node, why)).as_dict()
        assert [(one["role"], one["content"]["text"]) for one in found["messages"]] == [
            ("system", "be short"),
            ("user", "kind about milk"),
        ]
        assert found["settings"]["value"] == {"model": "m"}
        assert found["item"]["value"] == {"tone": "kind", "topic": "milk"}
        assert found["error"] == {
            "type": "RequestRejected",
            "message": "no <b>milk</b>\\x1b[31m",
            "hint": "try tea",
            "traceback": "",
            "answer": None,
        }
        assert [(one["number"], one["status"], one["took_s"]) for one in found["attempt_log"]] == [(1, "failed", 1.0)]
        assert (found["previous"], found["next"], found["previous_failed"]) == ("variants[1]", "variants[3]", None)
        assert found["command"] == "flowllm show r1 'variants[2]'"
        assert "variants[2] ran and failed" in found["why"]["text"]
        assert part_of(node, "message.1") == "kind about milk"
        assert part_of(node, "item") == {"tone": "kind", "topic": "milk"}
        for part in ("message.2", "message.x", "outputs", ""):
            with pytest.raises(UsageError):
                part_of(node, part)
        json.dumps(found)

    run_virtual(main())


def test_a_cached_answer_says_when_it_was_stored_and_vectors_are_short() -> None:
    async def main() -> None:
        stage = Stage()
        stage.provider.script = [Completion(text="x" * 30_000, model="m", usage=Usage(input_tokens=1, output_tokens=2))]
        flow = "steps:\n  a: {prompt: hello}\n  e: {embed: [one, two], model: e}\n"
        await stage.run(flow)
        await stage.run(flow, run_id="r2")
        run = await stage.store.run("r2")
        found = (await node_detail(stage.store, run, await stage.store.node("r2", NodeId("a")))).as_dict()
        assert (found["cached"], found["attempt_log"], found["output"]["cut"]) == (True, [], True)
        assert found["stored_at"] == 1.0 + (await stage.store.run("r1")).started_at
        assert (found["why"], found["next"]) == (None, None)
        node = await stage.store.node("r2", NodeId("e"))
        embedded = (await node_detail(stage.store, run, node)).as_dict()
        assert embedded["messages"] == [
            {"role": "texts", "content": {"text": None, "value": ["one", "two"], "size": 14, "cut": False}}
        ]

    run_virtual(main())
