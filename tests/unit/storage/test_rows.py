from __future__ import annotations

import math
from dataclasses import replace

import pytest

from flowllm.core.errors import DatabaseCorrupt
from flowllm.core.types import Counts, NodeStatus, RunStatus, Usage
from flowllm.storage.sql import records, rows, tables
from flowllm.storage.sql.rows import to_json
from tests.support.records import ME, answer, attempt_of_node, node, run


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (tables.runs, rows.RunRow),
        (tables.nodes, rows.NodeRow),
        (tables.attempts, rows.AttemptRow),
        (tables.memo, rows.MemoRow),
        (tables.learned, rows.LearnedRow),
    ],
)
def test_rows_name_the_columns_of_their_table_in_order(table: object, row: object) -> None:
    columns = [column.name for column in table.columns if column.autoincrement is not True]
    assert [name for name in columns if name not in {"change_no", "text_id"}] == list(
        row._fields
    )  # which the writer gives


def test_a_run_comes_back_equal() -> None:
    record = replace(
        run("r\udc80", owner=ME),
        seq=7,
        status=RunStatus.FAILED,
        outputs={"big": 2**80, "text": "\ud800\0é"},
        error={"type": "X"},
        tenant="acme\\",
        finished_at=3.5,
    )
    row = rows.run_row(record)
    assert records.run_of(row, seq=7, snapshot=row.snapshot) == record


def test_a_node_comes_back_equal() -> None:
    record = replace(
        node("n", "r", output={"a": [1, None, "\0"]}),
        error={"answer": "\udfff"},
        cached=True,
        reused=True,
        truncated=True,
        usage=Usage(input_tokens=2**70, cached_input_tokens=3),
        cost_usd=None,
        parent="p\ud800\\",
        place=2**40,
        item=["\udfff", None],
        content="c\0",
        counts=Counts(total=5, succeeded=1, failed=1, skipped=1, accepted=1, not_sent=2),
        epoch=3,
    )
    assert records.node_of(rows.node_row(record)) == record


@pytest.mark.parametrize("item", [None, 0, "", [], {"a": None}])
def test_an_item_that_is_null_is_kept_apart_from_none(item: object) -> None:
    record = replace(node("n", "r"), place=0, item=item)
    assert records.node_of(rows.node_row(record)) == record


def test_usage_is_written_as_json_would() -> None:
    usage = Usage(input_tokens=2**70, output_tokens=-1, cached_input_tokens=True)
    text = rows.attempt_row(replace(attempt_of_node("n", "r"), usage=usage)).usage
    assert text == to_json(list(usage.as_dict().values())).replace("true", "1")
    with pytest.raises(ValueError):
        rows.attempt_row(replace(attempt_of_node("n", "r"), usage=Usage(input_tokens=math.nan)))


def test_usage_without_input_and_output_tokens_is_kept() -> None:
    record = replace(node("n", "r"), usage=Usage(cached_input_tokens=5, reasoning_tokens=6))
    assert records.node_of(rows.node_row(record)).usage == record.usage


def test_an_attempt_and_an_answer_come_back_equal() -> None:
    attempt = replace(attempt_of_node("n", "r"), error={"message": "no"}, cost_usd=None, reserved_usd=None)
    assert records.attempt_of(rows.attempt_row(attempt)) == attempt
    kept = answer("k", value="\ud800")
    assert records.memo_of(rows.memo_row(kept)) == kept


@pytest.mark.parametrize("change", [{"output": '"another"'}, {"key": "other"}, {"status": "skipped"}])
def test_a_node_that_does_not_match_its_hash_is_given_as_failed(change: dict[str, str]) -> None:
    damaged = records.node_of(rows.node_row(node("n", "r"))._replace(**change))
    assert (damaged.status, damaged.key, damaged.output) == (NodeStatus.FAILED, "", None)
    assert damaged.error is not None
    assert damaged.error["type"] == "DatabaseCorrupt"


@pytest.mark.parametrize("change", [{"outputs": '{"a":2}'}, {"outputs": None}])
def test_outputs_of_a_run_that_do_not_match_their_hash_are_not_given(change: dict[str, str | None]) -> None:
    row = rows.run_row(replace(run("r1"), outputs={"a": 1}))
    assert records.run_of(row, seq=1).outputs == {"a": 1}
    damaged = records.run_of(row._replace(**change), seq=1)
    assert damaged.outputs is None
    assert damaged.error is not None
    assert damaged.error["type"] == "DatabaseCorrupt"


def test_an_answer_that_does_not_match_its_hash_is_not_given() -> None:
    assert records.memo_of(rows.memo_row(answer("k"))._replace(answer='{"value":"forged"}')) is None


@pytest.mark.parametrize("change", [{"status": "nonsense"}, {"inputs": "{"}, {"path": "\\x"}, {"stats": None}])
def test_a_run_that_cannot_be_read_is_said_to_be_damaged(change: dict[str, str]) -> None:
    row = rows.run_row(run("r1"))._replace(**change)
    with pytest.raises(DatabaseCorrupt, match="r1"):
        records.run_of(row, seq=1)


@pytest.mark.parametrize("change", [{"usage": '{"x":1}'}, {"status": "gone"}])
def test_an_attempt_that_cannot_be_read_is_said_to_be_damaged(change: dict[str, str]) -> None:
    with pytest.raises(DatabaseCorrupt, match="step n of run r"):
        records.attempt_of(rows.attempt_row(attempt_of_node("n", "r"))._replace(**change))


def changed(value: object) -> object:
    """Another value that could stand in its column."""
    if isinstance(value, str):
        return f"{value}x" if value else "x"
    return 7 if value is None else value + 1


OUTSIDE = {"row_hash", "snapshot", "outputs", "output", "content_hash", "output_offset", "process"}
"""Hashed by themselves, checked against the file that they are of, or no part of what is kept."""


@pytest.mark.parametrize("field", [name for name in rows.RunRow._fields if name not in OUTSIDE])
def test_a_run_of_which_anything_changed_is_refused(field: str) -> None:
    row = rows.run_row(replace(run("r1"), outputs={"a": 1}))
    damaged = row._replace(**{field: changed(getattr(row, field))})
    with pytest.raises(DatabaseCorrupt):
        records.run_of(damaged, seq=1, snapshot=row.snapshot)
    if field != "started_at":
        assert records.listed_run(damaged, seq=1).status is RunStatus.FAILED


def test_a_run_with_another_snapshot_is_refused() -> None:
    row = rows.run_row(run("r1"))
    with pytest.raises(DatabaseCorrupt):
        records.run_of(row, seq=1, snapshot='{"other":"text"}')


@pytest.mark.parametrize("field", [name for name in rows.NodeRow._fields if name not in OUTSIDE])
def test_a_node_of_which_anything_changed_is_given_as_failed(field: str) -> None:
    row = rows.node_row(replace(node("n", "r"), item={"a": 1}, place=3))
    damaged = row._replace(**{field: changed(getattr(row, field))})
    try:
        found = records.node_of(damaged)
    except DatabaseCorrupt:
        return
    assert (found.status, found.key, found.output, found.item) == (NodeStatus.FAILED, "", None, None)


@pytest.mark.parametrize("field", [name for name in rows.AttemptRow._fields if name not in OUTSIDE])
def test_an_attempt_of_which_anything_changed_is_refused(field: str) -> None:
    row = rows.attempt_row(attempt_of_node("n", "r"))
    with pytest.raises(DatabaseCorrupt):
        records.attempt_of(row._replace(**{field: changed(getattr(row, field))}))


@pytest.mark.parametrize("field", ["key", "provider", "model", "created_at", "answer", "content_hash"])
def test_a_stored_answer_of_which_anything_changed_is_not_given(field: str) -> None:
    row = rows.memo_row(answer("k"))
    assert records.memo_of(row._replace(**{field: changed(getattr(row, field))})) is None


def test_rows_that_were_written_without_hashes_are_believed() -> None:
    row = rows.run_row(run("r1"))._replace(row_hash=None, snapshot_hash=None)
    assert records.run_of(row, seq=1, snapshot=row.snapshot).snapshot == run("r1").snapshot
    assert records.node_of(rows.node_row(node("n", "r"))._replace(row_hash=None)) == node("n", "r")
    old = rows.memo_row(answer("k"))
    old = old._replace(content_hash=rows.content_hash(old.answer))
    assert records.memo_of(old) == answer("k")
