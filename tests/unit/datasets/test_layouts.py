"""What stands in a file by its ending, and that it can be gone on with wherever it broke off."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from flowllm.core.errors import UsageError
from flowllm.core.file_endings import refused_ending
from flowllm.datasets.layouts import cell, content_of_file, layout_of
from flowllm.datasets.output import OutputFile

pytestmark = pytest.mark.anyio
COLUMNS = ["n", "a", "item.a", "index", "@id", "item", "_index"]
ROWS = [
    (3, {"n": "x", "a": 1, "item.a": 2, "index": 3, "@id": 4}, {"a": 'q"q,\r\n;\ttext', "b": {"k": [1, None]}}),
    (0, "y", {"a": "", "b": None}),
]


def read_back(path: Path) -> list[tuple[int, str, str]]:
    """Index and both outputs, as JSON where they are no text."""
    text = path.read_bytes().decode()
    if path.suffix in {".csv", ".tsv"}:
        found = csv.DictReader(io.StringIO(text, newline=""), delimiter="," if path.suffix == ".csv" else "\t")
        return [(int(row["index"]), row["a"], row["b"]) for row in found]
    rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    return [(row["index"], row["outputs"]["a"], cell(row["outputs"]["b"])) for row in rows]


@pytest.mark.parametrize("name", ["o.csv", "o.tsv", "o.json", "o.JSON", "o.jsonl", "o.out"])
async def test_a_file_is_whole_after_a_resume_from_any_mark(name: str, tmp_path: Path) -> None:
    path, layout = tmp_path / name.lower(), layout_of(name, ["a", "b"], COLUMNS)
    expected = [(index, outputs["a"], cell(outputs["b"])) for index, _, outputs in ROWS]
    file = OutputFile.begin(path, overwrite=False, layout=layout)
    marks = [0, await file.flush()]
    for row in ROWS:
        file.add(*row)
        file.add(*row)
        marks.append(await file.flush())
    file.close()
    assert read_back(path) == expected
    whole = path.read_bytes()
    for mark in marks:
        path.write_bytes(whole + b"torn")
        file = OutputFile.resume(path, mark, layout=layout_of(name, ["a", "b"], [] if mark else COLUMNS))
        for row in ROWS:
            file.add(*row)
        assert await file.flush() == marks[-1]
        file.close()
        assert path.read_bytes() == whole


def test_a_table_has_the_columns_of_the_rows_before_the_outputs() -> None:
    layout = layout_of("o.tsv", ["a", "b"], COLUMNS)
    assert layout.head.decode() == "index\tn\titem.a\titem.item.a\titem.index\t'@id\titem\t_index\ta\tb\n"
    lines = [layout.line(index, row, {"a": 0, "b": 1}, first=False).decode() for index, row, _ in ROWS]
    assert lines == ["3\tx\t1\t2\t3\t4\t\t\t0\t1\n", "0\t\t\t\t\t\ty\t\t0\t1\n"]


@pytest.mark.parametrize("name", ["o.csv", "o.json"])
async def test_no_rows_are_an_empty_table_and_an_empty_array(name: str, tmp_path: Path) -> None:
    file = OutputFile.begin(tmp_path / name, overwrite=False, layout=layout_of(name, ["index", "a"]))
    file.complete()
    await file.flush()
    file.close()
    text = (tmp_path / name).read_text()
    assert text == "_index,index,a\n" if name == "o.csv" else json.loads(text) == []


@pytest.mark.parametrize("name", ["o.csv", "o.json"])
@pytest.mark.parametrize(
    "change", [lambda d: b"#" + d, lambda d: d.replace(b"3", b"0", 1), lambda d: d.replace(b"3", b"x", 1)]
)
async def test_a_file_that_was_changed_is_left_alone(name: str, change: Any, tmp_path: Path) -> None:
    path, layout = tmp_path / name, layout_of(name, ["a", "b"])
    file = OutputFile.begin(path, overwrite=False, layout=layout)
    for row in ROWS:
        file.add(*row)
    size = await file.flush()
    file.close()
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UsageError, match="is not as this run has left it"):
        OutputFile.resume(path, size, layout=layout)
    with pytest.raises(UsageError, match="is shorter than this run has left it"):
        OutputFile.resume(path, size + 99, layout=layout)


async def test_a_run_of_an_earlier_version_goes_on_with_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    before = OutputFile.begin(path, overwrite=False)
    before.add(*ROWS[0])
    size = await before.flush()
    before.close()
    file = OutputFile.resume(path, size, layout=layout_of("o.csv", ["a", "b"]))
    file.add(*ROWS[1])
    await file.flush()
    file.close()
    assert [json.loads(line)["index"] for line in path.read_text().splitlines()] == [3, 0]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("=cmd()", "'=cmd()"),
        ("+1+1", "'+1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\uff1d1", "'\uff1d1"),
        ("- a point", "'- a point"),
        ("-5", "-5"),
        ("+1.5e3", "+1.5e3"),
        ("a=b", "a=b"),
        (-5, "-5"),
        (True, "true"),
        (None, ""),
        (["=x"], '["=x"]'),
    ],
)
def test_a_cell_is_no_formula(value: Any, shown: str) -> None:
    assert cell(value) == shown


@pytest.mark.parametrize(
    ("name", "value", "content"),
    [
        ("x.jsonl", [{"a": 1}, "é", None], '{"a": 1}\n"é"\nnull\n'),
        ("x.ndjson", {"a": [1]}, '{"a": [1]}\n'),
        ("x.jsonl", '{"a": 1}\n{"a": 2}\n', '{"a": 1}\n{"a": 2}\n'),
        ("x.jsonl", "two\nlines", '"two\\nlines"\n'),
        ("x.jsonl", [], ""),
        ("x.json", '{"a": 1}', '{"a": 1}'),
        ("x.json", "a text", '"a text"\n'),
        ("x.json", [1], "[\n  1\n]\n"),
        ("x.csv", [{"a": 1, "b": "x,y"}, None, {"c": [1]}], 'a,b,c\n1,"x,y",\n,,\n,,[1]\n'),
        ("x.csv", {"a": "=1"}, "a\n'=1\n"),
        ("x.csv", [["n", "m"], [1, None]], "n,m\n1,\n"),
        ("x.csv", ["x", None, 2], 'value\nx\n""\n2\n'),
        ("x.csv", [], ""),
        ("x.csv", "a;b\n1;2\n", "a;b\n1;2\n"),
        ("x.tsv", [{"a": 1, "b": "x\ty"}], 'a\tb\n1\t"x\ty"\n'),
        ("x.md", [1], "[\n  1\n]\n"),
    ],
)
def test_what_is_saved_is_what_the_ending_says(name: str, value: Any, content: str) -> None:
    assert content_of_file(name, value).decode() == content


def test_what_is_not_written() -> None:
    advice = "name x.csv or x.jsonl; afterwards there is `flowllm export last --output x.parquet`"
    assert refused_ending("a/x.PARQUET") == ("no .parquet is written while a run goes on", advice)
    assert refused_ending("a.b/x.xlsx") == (".xlsx is not written", "name x.csv, which spreadsheet programs open")
    assert refused_ending("x.jsonl.gz") == (".gz is not written", "name x.jsonl, and compress it afterwards")
    assert refused_ending("x.zip") == (".zip is not written", "name x.csv, and compress it afterwards")
    assert refused_ending("x.pdf") == (".pdf is not written", "end it with .jsonl, .csv, .tsv, .json")
    assert refused_ending("x.md", rows=True) == (".md is not written", "end it with .jsonl, .csv, .tsv, .json")
    for name in ("x.md", "x.log", "x", "-", ".csv", "x.CSV"):
        assert refused_ending(name) is None
    for name in ("x.txt", "x", "-", "x.TSV"):
        assert refused_ending(name, rows=True) is None
