"""CSV: what is read, and what becomes of records that cannot be."""

from __future__ import annotations

import csv
import io
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowllm.core.errors import DataFailed
from flowllm.datasets.base import MAX_ROW
from tests.support.data import Repeated, Trickle, read, values

CELLS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["a,b", 'q"q', "l\nl", "l\r\nl", "l\rl", "", " ", "\x00", "\u2028", '"""', "=cmd()"]
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=8),
    st.integers(0, 9),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_cells_come_back_as_they_were(rows: list[tuple[str, ...]], seed: int, delimiter: str, end: str) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b", "__class__"), *rows])
    found = values(Trickle(text.getvalue().encode(), seed), "csv", delimiter=delimiter)
    assert [tuple(row.values()) for row in found] == rows
    assert all(list(row) == ["a", "b", "__class__"] for row in found)


def test_every_row_that_is_well_formed_survives_its_neighbours() -> None:
    data = (
        b"\xef\xbb\xbfid,text\r\n"
        b"1,fine\r\n"
        b"2\r\n"
        b"3,too,many\r\n"
        b"\r\n"
        b"   \r\n"
        b"4,caf\xe9\r\n"
        b'5,"unclosed\r\n'
        b"6,fine\r\n"
        b'7,"quoted ""well"" and\r\nover two lines"\r\n'
        b'8,"quoted "badly""\r\n'
        b"9,with\rreturn\r\n"
        b"10,a\x00b\r\n"
        b"11,last"
    )
    found = read(data, "csv")
    good = {row[1]["id"]: row[1]["text"] for row in found if not row[2]}
    assert good == {"1": "fine", "6": "fine", "7": 'quoted "well" and\r\nover two lines', "10": "a\x00b", "11": "last"}
    assert {row[0]: row[2] for row in found if row[2]} == {
        3: "data:3: 1 cell, and the header has 2",
        4: "data:4: 3 cells, and the header has 2",
        7: "data:7: not UTF-8 (byte 6 of line 7)",
        8: "data:8: a quote is not closed, or one within a quoted cell is not doubled",
        12: "data:12: a quote is not closed, or one within a quoted cell is not doubled",
        13: "data:13: a carriage return in the middle of a line",
    }
    assert found[1][1] == {"_line": 3, "_text": "2"}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"1,ok", b'2,"open', b'3,"a\nb"', b'4,x"y', b'5,"""', b"6", b'"', b'""', b"7,\xff"]),
        max_size=12,
    )
)
def test_rows_are_read_at_most_twice_and_in_order(lines: list[bytes]) -> None:
    """Whatever is wrong: it ends, lines never go back, and the last row is read if nothing before it is open."""
    found = read(b"\n".join([b"id,text", *lines, b"8,end"]), "csv")
    numbers = [row[0] for row in found]
    assert numbers == sorted(set(numbers))
    assert found[-1][0] == 2 + b"\n".join([*lines, b""]).count(b"\n")
    assert found[-1][1:] == ({"id": "8", "text": "end"}, "")


def test_a_quote_that_is_never_closed_takes_only_its_own_row_along() -> None:
    rows = b"".join(b"%d,fine\n" % n for n in range(3, 1000))
    found = read(b'id,text\n2,"open\n' + rows, "csv")
    assert found[0] == (2, {"_line": 2, "_text": '2,"open'}, "data:2: a quote is not closed")
    assert [row[1]["id"] for row in found[1:]] == [str(n) for n in range(3, 1000)]
    assert [row[0] for row in found] == list(range(2, 1000))


def test_a_record_that_grows_too_large_is_given_up_at_its_first_line() -> None:
    line = b"3," + b"x" * 1021 + b"\n"
    count = MAX_ROW // 1024 + 100
    found = read(Repeated(line, count, head=b'id,text\n2,"open\n', tail=b"4,end\n"), "csv")
    assert found[0][2] == "data:2: a quote is not closed: over 16 MiB in one row"
    assert len(found) == count + 2
    assert not any(row[2] for row in found[1:])
    assert [row[0] for row in found] == list(range(2, count + 4))


def test_lines_that_are_too_long_are_one_bad_row_each() -> None:
    long = b"x" * (MAX_ROW + 5)
    found = read(b'id,text\n1,"open\n2,fine\n' + long + b"\n3,fine\n" + long + b"\n", "csv")
    assert [(row[0], bool(row[2])) for row in found] == [
        (2, True), (3, False), (4, True), (5, False), (6, True),
    ]  # fmt: skip


def test_a_hundred_thousand_bad_records_do_not_pile_up() -> None:
    found = read(Repeated(b'1,"a"b\n"x\n', 30_000, head=b"id,text\n"), "csv")
    assert len(found) == 60_000
    assert all(row[2] for row in found)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (b"a,b,a", "data:1: the header names a twice"),
        (b"a,,b", "data:1: column 2 of the header has no name"),
        (b"a, ,b", "data:1: column 2 of the header has no name"),
        (b"\n\n,b", "data:3: column 1 of the header has no name"),
        (b"a,\xff", "data:1: the header cannot be read: not UTF-8 (byte 3 of line 1)"),
        (b'a,"b', "data:1: the header cannot be read: a quote is not closed"),
        (b"a\rb,c", "data:1: the header cannot be read: a carriage return in the middle of a line"),
    ],
)
def test_a_header_that_names_no_columns_fails_the_file(header: bytes, told: str) -> None:
    with pytest.raises(DataFailed) as caught:
        read(header, "csv")
    assert caught.value.message == told


def test_empty_lines_before_the_header_and_a_header_alone() -> None:
    assert read(b"\n\na,b\n1,2\n", "csv") == [(4, {"a": "1", "b": "2"}, "")]
    assert read(b"a,b\n", "csv") == []


def test_one_column_keeps_cells_that_are_empty_or_blank() -> None:
    assert values(b'a\n""\n\n \nx\n', "csv") == [{"a": ""}, {"a": " "}, {"a": "x"}]


def test_a_copy_that_broke_off_gives_whole_records_only() -> None:
    data = b'a,b\n1,"x\ny"\n2,"z\nmore'
    for size in range(len(data) + 1):
        found = read(data[:size], "csv", cut=True)
        assert found in ([], [(2, {"a": "1", "b": "x\ny"}, "")])


def test_the_limit_of_cells_is_only_raised() -> None:
    """It is the whole process's, and other threads read CSV too."""
    before = csv.field_size_limit()
    try:
        csv.field_size_limit(MAX_ROW * 2)
        values(b"a\n1\n", "csv")
        assert csv.field_size_limit() == MAX_ROW * 2
        csv.field_size_limit(10)
        thread = threading.Thread(target=values, args=(b"a\n1\n", "csv"))
        thread.start()
        thread.join()
        assert csv.field_size_limit() == MAX_ROW
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("a;b\n1,5;2\n", {"a": "1,5", "b": "2"}),
        ("a\tb\n1,5\t2\n", {"a": "1,5", "b": "2"}),
        ("a|b\n1,5|2\n", {"a": "1,5", "b": "2"}),
        ("sep=;\r\na;b\r\n1;2\r\n", {"a": "1", "b": "2"}),
        ("a;b;c, d\n1;2;3\n", {"a": "1", "b": "2", "c, d": "3"}),
        ('"a;b;c",d\n1,2\n', {"a;b;c": "1", "d": "2"}),
        ("a;b,c\n1,2\n", {"a;b": "1", "c": "2"}),
        ("question; answer\nwhat, then?\n", None),
        ("question; answer\nwhat\n", {"question; answer": "what"}),
        ('a;b\n"x\ny";2\n', {"a": "x\ny", "b": "2"}),
        (" a ,b\t,\xa0c\n1,2,3\n", {"a": "1", "b": "2", "c": "3"}),
    ],
)
def test_the_header_shows_the_delimiter_and_names_without_spaces_around(
    data: str, expected: dict[str, str] | None
) -> None:
    found = [None if error else value for _, value, error in read(data.encode(), "csv")]
    assert found == [expected]


def test_a_header_that_is_no_text_and_one_that_is_twice_but_for_spaces() -> None:
    for data, told in ((b"a\0b,c\n1,2\n", "zero bytes"), (b"a, a\n1,2\n", "names a twice")):
        with pytest.raises(DataFailed, match=told):
            read(data, "csv")
