"""Rows of which each is a line: JSON Lines, plain lines, and either as the first line says."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowllm.core.errors import DataFailed
from flowllm.datasets.base import MAX_ROW
from tests.support.data import Repeated, Trickle, read, values

TEXTS = st.text(max_size=20)
"""Hypothesis leaves lone surrogates out of text unless told otherwise."""
JSONS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
    | st.sampled_from(["\ud800", "x\udfff", "\x00", "\u2028", "'\"\\"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(JSONS, max_size=8), st.integers(0, 9), st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\r\n"]), st.booleans()
)
def test_json_lines_come_back_as_they_were(rows: list[object], seed: int, end: str, ascii_only: bool) -> None:
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    data = end.join(lines).encode("utf-8", "surrogatepass")
    if b"\xed\xa0\x80" in data or b"\xed\xbf\xbf" in data:
        data = end.join(json.dumps(row) for row in rows).encode()  # half a character is JSON only as its escape
    found = values(Trickle(data, seed), "jsonl")
    assert json.dumps(found) == json.dumps(rows)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), min_size=1).filter(str.strip)),
    st.integers(0, 9),
)
def test_plain_lines_come_back_as_they_were(rows: list[str], seed: int) -> None:
    data = "".join(f"{row}\r\n" for row in rows).encode()
    kept = [row for row in rows if row.encode().strip()]
    if kept[:1] == rows[:1]:
        kept = [row.removeprefix("\ufeff") if n == 0 else row for n, row in enumerate(kept)]
        assert values(Trickle(data, seed), "lines") == [row for row in kept if row]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1.0", 1.0),
        ("1e3", 1000.0),
        ("-0", 0),
        ("123456789012345678901234567890", 123456789012345678901234567890),
        ('"\\ud83d"', "\ud83d"),
        ('"\\u0000"', "\x00"),
        ('{"__class__": {"__init__": 1}}', {"__class__": {"__init__": 1}}),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_values_are_those_that_json_reads(kind: str, text: str, value: object) -> None:
    data = text if kind == "jsonl" else f"[{text}]"
    [found] = values(data.encode(), kind)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{bad}", "not JSON: Expecting property name enclosed in double quotes (character 2)"),
        (b'{"a": 1} {"b": 2}', "not JSON: Extra data (character 10)"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"[1e999]", "the number 1e999 is too large"),
        (b"9" * 5000, "a number with too many digits"),
        (b'"caf\xe9"', "not UTF-8 (byte 5)"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 200 deep"),
        (b"[" * 201 + b"]" * 201, "nested more than 200 deep"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "nested more than 200 deep"),
        (b'"a\x00b"', "not JSON: Invalid control character at (character 3)"),
    ],
    ids=lambda part: part[:12].decode(errors="replace") if isinstance(part, bytes) else "",
)
@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_bad_row_is_told_and_the_next_ones_go_on(kind: str, line: bytes, why: str) -> None:
    data = b"1\n\n" + line + b"\n2" if kind == "jsonl" else b"[1,\n\n" + line + b",\n2]"
    first, bad, last = read(data, kind)
    assert (first, last) == ((1, 1, ""), (4, 2, ""))
    assert bad[0] == 3
    assert bad[2] == f"data:3: {why}"
    assert bad[1] == {"_line": 3, "_text": line[:200].decode(errors="replace")}


def test_what_is_not_too_deep_is_read() -> None:
    assert values(b"[" * 200 + b"]" * 200, "jsonl")
    assert values(b"[" + b"[],{}," * 500 + b"1]", "jsonl")  # many, but side by side


def test_a_byte_order_mark_is_left_out_however_it_comes() -> None:
    for kind, data in {"jsonl": b"1\n2", "json": b"[1,2]", "lines": b"1\n2", "csv": b"a\n1\n2"}.items():
        for most in (1, 2, 1000):
            assert len(values(Trickle(b"\xef\xbb\xbf" + data, most=most), kind)) == 2


@pytest.mark.parametrize("kind", ["jsonl", "json", "lines", "csv", "guessed"])
@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x1f\x8b\x08\x00\x00\n", "compressed"),
        (b"\x28\xb5\x2f\xfd\x00\n", "compressed"),
        (b"PAR1\x15\x04\n", "Parquet"),
        (b"\xd0\xcf\x11\xe0\n", "spreadsheet"),
        (b"PK\x03\x04xlsx", "spreadsheet"),
        (b"PK\x05\x06" + bytes(18), "zip"),
        (b"PAREx", "encrypted"),
        (b"ARROW1\0\0", "Arrow"),
        (b"FEA1x", "Feather"),
        (b"ORCx\n", "ORC"),
        (b"Obj\x01\x04\x16avro.schema\n", "Avro"),
        (b"SQLite format 3\0", "SQLite"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\x93NUMPY\x01\n", "NumPy"),
    ],
)
def test_what_is_no_text_is_refused(kind: str, data: bytes, what: str) -> None:
    with pytest.raises(DataFailed, match=f"data is .*{what}") as caught:
        read(data, kind)
    assert caught.value.hint


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-8-sig"])
def test_texts_in_what_spreadsheet_programs_write_are_read(encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith("e") else ""
    for begin in {mark, ""}:
        assert values((begin + "a\tb\r\n1\t„2“\U0001f600\r\n").encode(encoding), "csv") == [
            {"a": "1", "b": "„2“\U0001f600"}
        ]
        assert values((begin + '[1,\n"ä"]').encode(encoding), "json") == [1, "ä"]
    assert read('{"a": 1}\n{"a"'.encode("utf-16") + b"\x20", "jsonl", cut=True) == [(1, {"a": 1}, "")]


@pytest.mark.parametrize("kind", ["jsonl", "json", "lines", "csv", "guessed"])
@pytest.mark.parametrize("data", [b"", b"\n", b" \r\n\t\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_an_empty_file_has_no_rows(kind: str, data: bytes) -> None:
    if kind == "csv" and b" " in data:
        return  # a header without a name
    assert read(data, kind) == []


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a": 1}\n{bad\n{"a": 2}', [{"a": 1}, None, {"a": 2}]),
        (b'"x"\n"y"\n', ["x", "y"]),
        (b"\n\n [1, 2]\n[3]\n", [[1, 2], [3]]),
        (b'[\n {"a": 1},\n {"a": 2}\n]\n', [{"a": 1}, {"a": 2}]),
        (b'\n[{"a": 1},\n {"a": 2}]', [{"a": 1}, {"a": 2}]),
        (b"hello\n{not json}\n", ["hello", "{not json}"]),
        (b"12\n13\n", ["12", "13"]),
        (b'{bad first\n{"a": 1}', [None, {"a": 1}]),
    ],
)
@pytest.mark.parametrize("most", [1, 1000])
def test_the_first_line_says_what_standard_input_is(data: bytes, expected: list[object], most: int) -> None:
    found = read(Trickle(data, most=most), "guessed")
    assert [None if error else value for _, value, error in found] == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a": 1}\n[2]\n', [{"a": 1}, [2]]),
        (b'\n\xef\xbb\xbfa,b\n1,"x\n\ny"\n', [{"a": "1", "b": "x\n\ny"}]),
        (b'\xef\xbb\xbf\na,b\n1,"x\n\ny"\n', [{"a": "1", "b": "x\n\ny"}]),
        (b"a\n", []),
        (b"", []),
    ],
)
def test_where_mappings_are_wanted_what_is_not_json_is_csv(data: bytes, expected: list[object]) -> None:
    assert values(Trickle(data, most=3), "guessed table") == expected


def test_lines_of_a_guessed_array_are_counted_from_the_file() -> None:
    assert read(b"\n\n[1,\nnope,\n3]", "guessed")[1][2].startswith("data:4: ")


@pytest.mark.parametrize("kind", ["jsonl", "lines", "guessed"])
def test_what_broke_off_is_none(kind: str) -> None:
    assert [row[1] for row in read(b'"a"\n"b"\n12', kind, cut=True)] == [row[1] for row in read(b'"a"\n"b"\n', kind)]
    assert read(b"12", kind, cut=True) == []
    assert [row[0] for row in read(b'"a"\n' + b"x" * (MAX_ROW + 9), kind, cut=True)] == [1]


@pytest.mark.parametrize("kind", ["jsonl", "lines"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_line_may_be_as_large_as_a_row_and_no_larger(kind: str, end: bytes) -> None:
    fits = b'"' + b"x" * (MAX_ROW - 2) + b'"'
    large = b'"' + b"y" * (MAX_ROW + 1) + b'"'
    found = read(end.join([fits, large, b'"z"']), kind)
    assert [row[0] for row in found] == [1, 2, 3]
    assert [row[2] for row in found] == ["", "data:2: over 16 MiB in one row", ""]
    assert found[1][1] == {"_line": 2, "_text": '"' + "y" * 199}


@pytest.mark.parametrize("kind", ["jsonl", "json", "lines", "csv"])
def test_a_cell_of_10_mb_is_read(kind: str) -> None:
    cell = b'"' + b"x" * 10_000_000 + b'"'
    [value] = values({"json": b"[" + cell + b"]", "csv": b"a\n" + cell}.get(kind, cell), kind)
    assert len(value["a"] if kind == "csv" else value) in {10_000_000, 10_000_002}


def test_a_last_line_that_is_too_long_ends_the_file() -> None:
    tail = io.BufferedReader(Repeated(b"x" * 1000, 40_000, head=b'"a"\n'))
    assert [bool(row[2]) for row in read(tail.detach(), "jsonl")] == [False, True]
