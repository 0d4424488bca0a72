from __future__ import annotations

import pytest

from flowllm.reporting.screen import plain
from flowllm.reporting.tables import cut_to, table, wrapped
from flowllm.reporting.text import columns


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("one two three", 8, ["one two", "three"]),
        ("  two words\n\nend", 7, ["  two", "  words", "", "end"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("日本語テキスト", 6, ["日本語", "テキス", "ト"]),
        ("one two three", None, ["one two three"]),
        ("e\u0301" * 4, 4, ["e\u0301" * 4]),
        ("a " * 3, 5, ["a a a"]),
    ],
)
def test_a_text_is_broken_at_blanks_within_the_width(text: str, width: int | None, expected: list[str]) -> None:
    found = wrapped(text, width)
    assert found == expected
    assert width is None or all(columns(line) <= width for line in found)


def test_what_follows_a_break_stands_under_its_beginning() -> None:
    assert wrapped("0  one two", 7, indent="   ") == ["0  one", "   two"]
    assert wrapped("x" * 200_000, 100)[-1] == "x" * 100


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (None, ["A      N  X     T", "日本  12  yes   a long text that is cut", "a      -"]),
        (24, ["A      N  X     T", "日本  12  yes   a long…", "a      -"]),
        (16, ["A      N  T", "日本  12  a lon…", "a      -"]),
        (8, ["A     T", "日本  a…", "a"]),
    ],
)
def test_a_table_keeps_within_the_width_and_counts_what_takes_two_columns(
    width: int | None, expected: list[str]
) -> None:
    rows = [
        {"A": "日本", "E": "", "N": "12", "X": "yes ", "T": "a long text that is cut"},
        {"A": "a", "E": "", "N": "", "X": "", "T": ""},
    ]
    found = table(rows, right=["N"], width=width, spare=("X", "N"), cut="T", least=5)
    assert [plain(line) for line in found] == expected


def test_where_no_column_is_named_the_first_is_cut() -> None:
    assert [plain(line) for line in table([{"A": "x" * 30, "B": "1"}], width=20)] == [
        "A" + " " * 18 + "B",
        "x" * 16 + "…  1",
    ]
    assert (cut_to("日本語", 5), cut_to("ab", 2)) == ("日本…", "ab")
