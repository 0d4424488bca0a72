"""`flowllm export`: the results of a run, in the form that other programs read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.over import over, rows, two_steps
from tests.support.project import Outcome, Project

ITEMS = [{"text": "=SUM(A1)", "n": 1}, {"text": "bad [status=400]", "n": 2}, {"text": 'a "b"\nc', "n": None}]


def flow(project: Project, **steps: Any) -> str:
    rate = {"foreach": "{{ inputs.items }}", "prompt": "Rate {{ item.text }}", "on_error": "continue"}
    return project.flow(
        inputs={"items": {"type": "array", "default": ITEMS}}, steps={"rate": rate, **steps}, outputs={}
    )


def table(outcome: Outcome) -> list[dict[str, str]]:
    assert outcome.code == 0, outcome.said
    return list(csv.DictReader(io.StringIO(outcome.out)))


def test_every_format_has_the_same_rows(project: Project) -> None:
    assert project.cli("run", flow(project), "--quiet").code == 0
    as_csv = table(project.cli("export", "last"))
    assert [row["status"] for row in as_csv] == ["succeeded", "failed", "succeeded"]
    assert [row["item.text"] for row in as_csv] == ["'=SUM(A1)", "bad [status=400]", 'a "b"\nc']
    assert [row["item.n"] for row in as_csv] == ["1", "2", ""]
    assert as_csv[1]["error_type"] == "RequestRejected"
    assert as_csv[0]["output"]
    assert as_csv[0]["cost_usd"] == "", "a price that is not known is never 0"
    for name in ("out.csv", "out.tsv", "out.jsonl", "out.json", "out.parquet"):
        outcome = project.cli("export", "last", "rate", "--output", name)
        assert (outcome.code, outcome.err) == (0, f"wrote 3 rows to {name}\n"), outcome.said
    folder = project.folder
    assert (folder / "out.csv").read_text() == project.cli("export", "last").out
    assert len((folder / "out.tsv").read_text().splitlines()[0].split("\t")) == len(as_csv[0])
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert json.loads((folder / "out.json").read_text()) == lines
    assert [line["item.text"] for line in lines] == [item["text"] for item in ITEMS], "only tables have the mark"
    parquet = pq.read_table(folder / "out.parquet")
    assert parquet.column_names == list(as_csv[0])
    assert parquet.select(["index", "item.n", "status"]).to_pylist() == [
        {"index": line["index"], "item.n": line["item.n"], "status": line["status"]} for line in lines
    ]


def test_rows_and_columns_are_chosen(project: Project) -> None:
    assert project.cli("run", flow(project), "--quiet").code == 0
    outcome = project.cli("export", "last", "--status", "failed", "--columns", "item,index", "--format", "jsonl")
    assert [json.loads(line) for line in outcome.out.splitlines()] == [{"item": ITEMS[1], "index": 1}]
    outcome = project.cli("export", "last", "--columns", "index,itm.n")
    assert (outcome.code, outcome.out) == (2, "")
    assert "no column `itm.n`\n  did you mean `item.n`?" in outcome.err
    assert table(project.cli("export", "last", "--status", "cancelled")) == []


def test_which_step_is_meant(project: Project) -> None:
    inner = {
        "inputs": {"x": {"type": "integer"}},
        "steps": {"deep": {"value": {"twice": "{{ inputs.x * 2 }}"}}},
        "outputs": {},
    }
    steps = {
        "other": {"foreach": "{{ [1, 2] }}", "workflow": inner, "with": {"x": "{{ item }}"}},
        "alone": {"value": {"a": 1}},
        "even": {
            "foreach": "{{ [1, 2, 3] }}",
            "value": "{{ item }}",
            "accept": {"when": "{{ output % 2 == 0 }}", "count": 1},
        },
    }
    assert project.cli("run", flow(project, **steps), "--quiet").code == 0
    outcome = project.cli("export", "last")
    assert outcome.code == 2
    assert (
        "has 3 steps with a foreach\n  say of which step the rows are wanted: `rate`, `other` and `even`" in outcome.err
    )
    found = table(project.cli("export", "last", "other.deep"))
    assert [(row["node"], row["index"], row["item"], row["output.twice"]) for row in found] == [
        ("other[0].deep", "0", "1", "2"),
        ("other[1].deep", "1", "2", "4"),
    ]
    assert [row["output.twice"] for row in table(project.cli("export", "last", "other[1].deep"))] == ["4"]
    assert [row["output.a"] for row in table(project.cli("export", "last", "alone"))] == ["1"]
    even = table(project.cli("export", "last", "even"))
    assert [(row["output"], row["accepted"]) for row in even] == [("1", "false"), ("2", "true")]
    assert "accepted" not in found[0]
    assert "did you mean `alone`?" in project.cli("export", "last", "aline").err
    outcome = project.cli("export", "last", "other.dep")
    assert "has a record of a step `dep`\n  did you mean `deep`?" in outcome.err


def test_of_a_data_set_the_rows_and_the_steps_within(project: Project) -> None:
    rows(project, *({"text": f"row {index}"} for index in range(3)), {"text": "bad [status=400]"})
    assert over(project, two_steps(project)).code == 1
    found = table(project.cli("export", "last"))
    assert [row["item.text"] for row in found] == ["row 0", "row 1", "row 2", "bad [status=400]"]
    assert [bool(row["output.answer"]) for row in found] == [True, True, True, False]
    assert int(found[0]["attempts"]) == 2
    inner = table(project.cli("export", "last", "second"))
    assert [row["output"] for row in inner[:3]] == [row["output.answer"] for row in found[:3]]
    assert {row["status"] for row in table(project.cli("export", "last", "first"))} == {"succeeded", "failed"}


def test_a_file_is_whole_or_not_there(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project.cli("run", flow(project), "--quiet").code == 0
    file = project.write("out.csv", "mine")
    outcome = project.cli("export", "last", "--output", file.name)
    assert (outcome.code, file.read_text()) == (2, "mine")
    assert "--overwrite" in outcome.err
    monkeypatch.setattr("flowllm.datasets.row_files.TableWriter.write", lambda *_: 1 / 0)
    assert project.cli("export", "last", "--output", file.name, "--overwrite").code == 1
    assert file.read_text() == "mine"
    assert [path.name for path in project.folder.iterdir() if path.name.endswith(".tmp")] == []
    monkeypatch.undo()
    assert project.cli("export", "last", "--output", file.name, "--overwrite").code == 0
    assert file.read_text().startswith("index,node,")
    with Path("/dev/full").open("wb") as full, monkeypatch.context() as patched:
        patched.setattr("flowllm.app.export.tempfile.TemporaryFile", lambda: full)
        outcome = project.cli("export", "last", "--output", "full.csv")
    assert (outcome.code, Path(project.folder, "full.csv").exists()) == (1, False), outcome.said
    assert "error: rows cannot be gathered in" in outcome.err
    assert "No space left on device\n  make room there" in outcome.err
    outcome = project.cli("export", "last", "--output", "out.xls")
    assert (outcome.code, Path(project.folder, "out.xls").exists()) == (2, False)
    assert ".csv, .tsv, .jsonl, .json, .parquet" in outcome.err
