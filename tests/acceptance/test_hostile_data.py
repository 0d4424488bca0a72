"""Data sets as they come (ragged, huge, broken, hostile): bad rows fail with file and line, all others finish."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from tests.support.project import Project, prompts
from tests.support.server import Server

HUGE = 17 * 1024 * 1024
CSV = (
    b"\xef\xbb\xbfid,text,__class__\r\n"
    b"1,good,x\r\n"
    b"2,ragged\r\n"
    b"\r\n"
    b"3,caf\xe9,x\r\n"
    b'4,"quote ""ok"", and\r\ntwo lines",x\r\n'
    b'5,"not closed,x\r\n'
    b"1,good,x\r\n"
    b"6," + b"h" * HUGE + b",x\r\n"
    b"7,{{ 7*7 }} <script>$(id)\x1b[31m\x00,=cmd()"
)
CSV_WRONG = {
    3: "2 cells, and the header has 3",
    5: "not UTF-8 (byte 6 of line 5)",
    8: "a quote is not closed",
    10: "over 16 MiB in one row",
}
GOOD = [
    {"id": "1", "text": "good"},
    {"id": "4", "text": 'quote "ok", and\r\ntwo lines'},
    {"id": "1", "text": "good"},
    {"id": "7", "text": "{{ 7*7 }} <script>$(id)\x1b[31m\x00"},
]
JSONL = b"\n".join(
    [
        b'{"id": "1", "text": "good", "__class__": "x"}',
        b"{broken",
        b"",
        b'{"id": NaN, "text": "x"}',
        b'{"id": "4", "text": "quote \\"ok\\", and\\r\\ntwo lines", "__class__": "x"}\r',
        b'{"id": "caf\xe9"}',
        b"[" * 100_000,
        b"9" * 5000,
        b'{"id": "1", "text": "good", "__class__": "x"}',
        b'{"id": "' + b"h" * HUGE + b'"}',
        b'{"id": "7", "text": "{{ 7*7 }} <script>$(id)\\u001b[31m\\u0000", "__class__": "x"}',
    ]
)
JSONL_WRONG = {
    2: "not JSON: ",
    4: "NaN is not JSON",
    6: "not UTF-8 (byte 12)",
    7: "nested more than 200 deep",
    8: "a number with too many digits",
    10: "over 16 MiB in one row",
}


class Case(NamedTuple):
    name: str
    data: bytes
    wrong: dict[int, str]


BOTH = pytest.mark.parametrize(
    "case", [Case("rows.csv", CSV, CSV_WRONG), Case("rows.jsonl", JSONL, JSONL_WRONG)], ids=["csv", "jsonl"]
)


def _lines(project: Project, name: str = "out.jsonl") -> list[dict[str, Any]]:
    text = (project.folder / name).read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def _told(project: Project) -> dict[int, str]:
    """Of the last run, each dead letter's line and message."""
    outcome = project.cli("failed", "last")
    letters = [json.loads(line) for line in outcome.out.splitlines()]
    return {letter["_line"]: letter["_error"]["message"] for letter in letters}


def _is_told(told: dict[int, str], name: str, wrong: dict[int, str]) -> None:
    assert sorted(told) == sorted(wrong)
    for line, why in wrong.items():
        assert told[line].startswith(f"{name}:{line}: {why}")


@BOTH
def test_over_the_rows_that_are_good(case: Case, project: Project, server: Server) -> None:
    (project.folder / case.name).write_bytes(case.data)
    file = project.flow(
        inputs={"id": {"type": "string"}, "text": {"type": "string"}},
        steps=prompts(a="say {{ inputs.id }} {{ inputs.text }}"),
        outputs={"id": "{{ inputs.id }}", "text": "{{ inputs.text }}"},
    )
    outcome = project.cli("run", file, "--over", case.name, "--output", "out.jsonl", "--ordered")
    assert outcome.code == 1, outcome.said
    assert "Traceback" not in outcome.err
    assert "\x1b" not in outcome.err
    assert f"{len(case.wrong)} failed" in outcome.err
    assert [line["outputs"] for line in _lines(project)] == GOOD
    assert len(server.requests) == 3  # two rows are equal
    _is_told(_told(project), case.name, case.wrong)


@BOTH
@pytest.mark.parametrize("on_error", ["fail", "continue"])
def test_a_foreach_over_the_rows_that_are_good(case: Case, on_error: str, project: Project, server: Server) -> None:
    (project.folder / case.name).write_bytes(case.data)
    step = {"foreach": {"file": case.name}, "prompt": "say {{ item.id }} {{ item.text }}", "on_error": on_error}
    file = project.flow(steps={"a": step}, outputs={"all": "{{ a }}"})
    outcome = project.cli("run", file, "--json")
    assert outcome.code == (1 if on_error == "fail" else 0), outcome.said
    assert "Traceback" not in outcome.err
    counts = outcome.json["steps"]["a"]["counts"]
    assert (counts["succeeded"], counts["failed"]) == (4, len(case.wrong))
    if on_error == "continue":
        assert [answer is None for answer in outcome.json["outputs"]["all"]].count(True) == len(case.wrong)
    assert len(server.requests) == 3
    _is_told(_told(project), case.name, case.wrong)


def test_a_json_array_goes_on_behind_its_bad_elements(project: Project) -> None:
    (project.folder / "rows.json").write_bytes(
        b'[{"id": 1},\n {"id": oops},\n {"id": 1e999},\n {"id": 2.0}, ' + b"[" * 1000 + b"]" * 1000 + b',\n"\\ud800"]'
    )
    file = project.flow(
        steps={"a": {"foreach": {"file": "rows.json"}, "value": "{{ item }}", "on_error": "continue"}},
        outputs={"all": "{{ a }}"},
    )
    assert project.json("run", file)["outputs"]["all"] == [{"id": 1}, None, None, {"id": 2.0}, None, "\ud800"]
    _is_told(
        _told(project),
        "rows.json",
        {2: "not JSON: ", 3: "the number 1e999 is too large", 4: "nested more than 200 deep"},
    )


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("missing.csv", None, "there is no file missing.csv"),
        ("rows.csv", b"a,b,a\n1,2,3\n", "rows.csv:1: the header names a twice"),
        ("rows.json", b'{"rows": []}', "rows.json is no array, but an object"),
        ("rows.jsonl", b"PAR1\x15\x04\n", "rows.jsonl is Parquet"),
    ],
)
def test_data_that_cannot_be_read_at_all(
    name: str, data: bytes | None, told: str, project: Project, server: Server
) -> None:
    if data is not None:
        (project.folder / name).write_bytes(data)
    step = {"foreach": {"file": name}, "prompt": "say {{ item }}"}
    outcome = project.cli("run", project.flow(steps={"a": step}))
    assert outcome.code == 1, outcome.said
    assert told in outcome.err
    assert "Traceback" not in outcome.err
    file = project.flow(name="row.yaml", inputs={"a": {"type": "string"}}, steps=prompts(a="say {{ inputs.a }}"))
    outcome = project.cli("run", file, "--over", name, "--output", "out.jsonl")
    assert outcome.code == 2, outcome.said
    assert told.rpartition("file ")[2] in outcome.err
    assert server.requests == []


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.json", "rows.txt"])
def test_an_empty_file_is_no_rows(name: str, project: Project) -> None:
    project.write(name, "")
    file = project.flow(steps={"a": {"foreach": {"file": name}, "value": "{{ item }}"}}, outputs={"all": "{{ a }}"})
    assert project.json("run", file)["outputs"] == {"all": []}


def test_columns_that_are_missing_are_told_row_by_row(project: Project, server: Server) -> None:
    project.write("rows.jsonl", '{"id": "1", "text": "a"}\n{"id": "2"}\n[3]\n"four"\n{"id": "5", "text": "b"}\n')
    step = {"foreach": {"file": "rows.jsonl"}, "prompt": "say {{ item.text }}", "on_error": "continue"}
    result = project.json("run", project.flow(steps={"a": step}))
    assert result["steps"]["a"]["counts"]["failed"] == 3
    assert len(server.requests) == 2


def test_a_column_of_pythons_own_is_data(project: Project) -> None:
    project.write("rows.csv", "__class__,__init__\nx,y\n")
    file = project.flow(
        steps={"a": {"foreach": {"file": "rows.csv"}, "value": "{{ item }}"}}, outputs={"all": "{{ a }}"}
    )
    assert project.json("run", file)["outputs"]["all"] == [{"__class__": "x", "__init__": "y"}]


def test_an_output_that_is_no_file(project: Project, server: Server) -> None:
    project.write("rows.jsonl", '{"a": "1"}\n')
    file = project.flow(inputs={"a": {"type": "string"}}, steps=prompts(a="say {{ inputs.a }}"))
    for name in ("/dev/null", str(project.folder), "no/out.jsonl"):
        outcome = project.cli("run", file, "--over", "rows.jsonl", "--output", name)
        assert outcome.code == 2, outcome.said
        assert "Traceback" not in outcome.err
    project.write("out.jsonl", "mine")
    assert project.cli("run", file, "--over", "rows.jsonl", "--output", "out.jsonl").code == 2
    assert (project.folder / "out.jsonl").read_text() == "mine"
    assert server.requests == []
