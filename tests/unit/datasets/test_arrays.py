"""JSON arrays as a stream."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowllm.core.errors import DataFailed
from flowllm.datasets.base import MAX_ROW
from tests.support.data import Repeated, Trickle, read, values
from tests.unit.datasets.test_formats import JSONS


@settings(max_examples=80, deadline=None)
@given(st.lists(JSONS, max_size=6), st.integers(0, 99), st.sampled_from([None, 0, 1]), st.integers(1, 30))
def test_elements_come_back_as_json_reads_them(rows: list[object], seed: int, indent: int | None, most: int) -> None:
    text = json.dumps(rows, indent=indent)
    found = read(Trickle(f"\n {text}\n ".encode(), seed, most), "json")
    assert json.dumps([value for _, value, _ in found]) == json.dumps(json.loads(text))
    assert not any(error for _, _, error in found)
    lines = text.splitlines()
    for line, value, _ in found:
        if indent == 1 and not isinstance(value, dict | list):
            assert json.dumps(value) == lines[line - 2].strip().removesuffix(",")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*'[]{},"\\ \n', "1", "a", '"x"', "\\\\", '\\"', "é"]), max_size=30), st.integers(0, 9))
def test_anything_ends_in_rows_or_an_error(parts: list[str], seed: int) -> None:
    """Where the whole is an array, elements are what json reads; else a bad row or DataFailed says so."""
    text = "[" + "".join(parts)
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None
    try:
        found = read(Trickle(text.encode(), seed, 3), "json")
    except DataFailed:
        assert expected is None
        return
    if expected is None:
        assert any(error for _, _, error in found)
    else:
        assert [value for _, value, _ in found] == expected


def test_bad_elements_are_told_with_their_lines() -> None:
    found = read(b'[1,\n {"a": tru},\n\n {"b": 2} {"c": 3},,\n "caf\xe9", \n 4,\n]', "json")
    assert [(line, bool(error)) for line, _, error in found] == [
        (1, False), (2, True), (4, True), (4, True), (5, True), (6, False), (7, True),
    ]  # fmt: skip
    assert found[2][2] == "data:4: not JSON: Extra data (character 10)"
    assert found[3][2] == "data:4: not JSON: an element is missing"
    assert found[6][2] == "data:7: not JSON: an element is missing"


@pytest.mark.parametrize(
    ("data", "told", "rows"),
    [
        (b'{"rows": [1]}', "data is no array, but an object", 0),
        (b"12", "data is no array, but something else", 0),
        (b'[1,\n2]\n\n["more"]', "data:4: something stands behind the end of the array", 2),
        (b'[1,\n2,\n {"a": [3', "data:3: the array breaks off; its last element begins here", 2),
        (b"[1, 2", "data:1: the array breaks off; its last element begins here", 1),
        (b'[1, "open, 2]', "data:1: the array breaks off; its last element begins here", 1),
    ],
)
def test_what_ends_a_file_is_told_behind_the_rows_before_it(data: bytes, told: str, rows: int) -> None:
    from flowllm.datasets.files import json_rows

    found = json_rows(Trickle(data), "data")  # type: ignore[arg-type]
    assert [next(found)[3] for _ in range(rows)] == [None] * rows
    with pytest.raises(DataFailed) as caught:
        next(found)
    assert caught.value.message == told


def test_blanks_behind_the_array_are_no_harm() -> None:
    assert values(Repeated(b" \n", 1_000_000, head=b"[1]"), "json") == [1]


def test_an_element_may_be_as_large_as_a_row_and_no_larger() -> None:
    fits, large = b"x" * (MAX_ROW - 2), b"x\\n\n" * (MAX_ROW // 4)
    found = read(b'["' + fits + b'",\n"' + large + b'", {"b": "' + large + b'"},\n3]', "json")
    assert [error for _, _, error in found] == [
        "",
        "data:2: over 16 MiB in one row",
        f"data:{2 + MAX_ROW // 4}: over 16 MiB in one row",
        "",
    ]
    assert found[3][:2] == (3 + MAX_ROW // 2, 3)


def test_a_copy_that_broke_off_gives_whole_elements_only() -> None:
    data = b'[12, {"a": [1, 2]}, "x,y", 34]'
    whole = [12, {"a": [1, 2]}, "x,y", 34]
    for size in range(len(data) + 1):
        found = values(data[:size], "json", cut=True)
        assert found == whole[: len(found)]
        assert len(found) == sum(end <= size for end in (4, 19, 26, 30))
