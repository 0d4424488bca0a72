from __future__ import annotations

from dataclasses import replace

import pytest

from flowllm.errors import DatabaseCorrupt
from flowllm.store import rows, tables
from flowllm.types import NodeStatus, RunStatus, Usage
from tests.support.records import ME, answer, attempt_of_node, node, run


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (tables.runs, rows.RunRow),
        (tables.nodes, rows.NodeRow),
        (tables.attempts, rows.AttemptRow),
        (tables.memo, rows.MemoRow),
        (tables.rates, rows.RateRow),
    ],
)
def test_rows_name_the_columns_of_their_table_in_order(table: object, row: object) -> None:
    columns = [column.name for column in table.columns if column.autoincrement is not True]
    assert columns == list(row._fields)


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
    assert rows.run_of(row, seq=7, snapshot=row.snapshot) == record


def test_a_node_comes_back_equal() -> None:
    record = replace(
        node("n", "r", output={"a": [1, None, "\0"]}),
        error={"answer": "\udfff"},
        cached=True,
        reused=True,
        truncated=True,
        usage=Usage(input_tokens=2**70, cached_input_tokens=3),
        cost_usd=None,
    )
    assert rows.node_of(rows.node_row(record)) == record


def test_usage_without_input_and_output_tokens_is_kept() -> None:
    record = replace(node("n", "r"), usage=Usage(cached_input_tokens=5, reasoning_tokens=6))
    assert rows.node_of(rows.node_row(record)).usage == record.usage


def test_an_attempt_and_an_answer_come_back_equal() -> None:
    attempt = replace(attempt_of_node("n", "r"), error={"message": "no"}, cost_usd=None, reserved_usd=None)
    assert rows.attempt_of(rows.attempt_row(attempt)) == attempt
    kept = answer("k", value="\ud800")
    assert rows.memo_of(rows.memo_row(kept)) == kept


@pytest.mark.parametrize("change", [{"output": '"another"'}, {"key": "other"}, {"status": "skipped"}])
def test_a_node_that_does_not_match_its_hash_is_given_as_failed(change: dict[str, str]) -> None:
    damaged = rows.node_of(rows.node_row(node("n", "r"))._replace(**change))
    assert (damaged.status, damaged.key, damaged.output) == (NodeStatus.FAILED, "", None)
    assert damaged.error is not None
    assert damaged.error["type"] == "DatabaseCorrupt"


@pytest.mark.parametrize("change", [{"outputs": '{"a":2}'}, {"outputs": None}, {"outputs_hash": None}])
def test_outputs_of_a_run_that_do_not_match_their_hash_are_not_given(change: dict[str, str | None]) -> None:
    row = rows.run_row(replace(run("r1"), outputs={"a": 1}))
    assert rows.run_of(row, seq=1).outputs == {"a": 1}
    damaged = rows.run_of(row._replace(**change), seq=1)
    assert damaged.outputs is None
    assert damaged.error is not None
    assert damaged.error["type"] == "DatabaseCorrupt"


def test_an_answer_that_does_not_match_its_hash_is_not_given() -> None:
    assert rows.memo_of(rows.memo_row(answer("k"))._replace(answer='{"value":"forged"}')) is None


@pytest.mark.parametrize(
    "change", [{"status": "nonsense"}, {"inputs": "{"}, {"path": "\\x"}, {"stats": None}]
)
def test_a_run_that_cannot_be_read_is_said_to_be_damaged(change: dict[str, str]) -> None:
    row = rows.run_row(run("r1"))._replace(**change)
    with pytest.raises(DatabaseCorrupt, match="r1"):
        rows.run_of(row, seq=1)


@pytest.mark.parametrize("change", [{"usage": '{"x":1}'}, {"status": "gone"}])
def test_an_attempt_that_cannot_be_read_is_said_to_be_damaged(change: dict[str, str]) -> None:
    with pytest.raises(DatabaseCorrupt, match="step n of run r"):
        rows.attempt_of(rows.attempt_row(attempt_of_node("n", "r"))._replace(**change))
