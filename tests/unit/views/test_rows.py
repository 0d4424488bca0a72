from __future__ import annotations

from dataclasses import replace

import pytest

from flowllm.core.errors import UsageError
from flowllm.core.types import NodeStatus
from flowllm.views.rows import AFTER, BEFORE, MOST_FIELDS, Columns, row_of
from tests.support.records import node

ITEM = {**dict.fromkeys(("place",), 3), "item": {"text": "tea", "_node": "row[3]", "_error": {}}}


def columns_of(*rows: dict[str, object]) -> Columns:
    found = Columns()
    for row in rows:
        found.see(row)
    return found


def test_a_row_is_flat_and_of_a_row_what_failed_added_is_left_out() -> None:
    row = row_of(replace(node("row[3]", "a", output={"score": 7, "tags": ["x"]}), **ITEM), going=False)
    assert {name: row[name] for name in ("index", "node", "item.text", "output.score", "output.tags", "status")} == {
        "index": 3,
        "node": "row[3]",
        "item.text": "tea",
        "output.score": 7,
        "output.tags": ["x"],
        "status": "succeeded",
    }
    assert "item._node" not in row
    assert (row["input_tokens"], row["output_tokens"], row["cost_usd"], row["took_s"]) == (20, 60, 0.0001, 1.0)
    assert row["started_at"] == "2023-11-14T22:13:21.000Z"
    assert "item._node" in row_of(replace(node("posts[3]", "a"), **ITEM), going=False), "an item's own field"


def test_what_ran_when_its_run_ended_was_cut_off() -> None:
    running = replace(node("a", "a", output=None, status=NodeStatus.RUNNING), finished_at=None)
    assert row_of(running, going=True)["status"] == "running"
    row = row_of(running, going=False)
    assert (row["status"], row["took_s"], "output" in row) == ("cancelled", None, False)


def test_columns_stand_in_groups_in_the_order_in_which_they_come_up() -> None:
    first = {"index": 0, "item": "x", "status": "failed"}
    second = {"index": 1, "item.b": 1, "item.a": 2, "status": "succeeded", "output.z": 1, "output.y": 2}
    columns = columns_of(first, second, first)
    own = ["item", "item.b", "item.a", "status", "output.z", "output.y"]
    names, cells = columns.table()
    assert names == [*BEFORE, *own, *AFTER]
    assert [cells(row)["item"] for row in (first, second)] == ["x", None], "its fields have columns of their own"
    names, cells = columns.table(["output", "index", "item", "index"])
    assert names == ["output", "index", "item"]
    assert cells({"index": 2, "item": 0, "output": ""}) == {"output": "", "index": 2, "item": 0}
    assert cells(first) == {"output": None, "index": 0, "item": "x"}
    assert cells(second) == {"output": {"z": 1, "y": 2}, "index": 1, "item": {"b": 1, "a": 2}}
    with pytest.raises(UsageError, match=r"no column `output\.zz`") as caught:
        columns.table(["output.zz"])
    assert caught.value.hint == "did you mean `output.z`?"


def test_fields_without_end_share_one_column() -> None:
    columns = columns_of(*({f"output.key{number}": 1, "item.a": 1} for number in range(MOST_FIELDS + 9)))
    names, cells = columns.table()
    assert names == [*BEFORE, "item.a", "status", "output", *AFTER]
    assert cells({"output.key1": 2})["output"] == {"key1": 2}
