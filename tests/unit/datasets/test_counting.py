"""How many rows there are, found out beside the reader that gives them."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

import pytest

from flowllm.datasets.files import open_file
from flowllm.datasets.globs import GlobRows
from flowllm.datasets.rows import Axis, LimitedRows, ListRows, MatrixRows, PeekedRows, counted

FILES = {
    "a.jsonl": b'{"n": 1}\n\nnot json\n"two"\n',
    "a.csv": b'text,n\n"two\nlines",1\nplain,2\n"last",3\n',
    "a.json": b'[1, {"a": [2, 3]}, 4]',
    "a.txt": "one\ntwo\nthree".encode("utf-16"),
    "a.jsonl.gz": gzip.compress(b"1\n2\n3\n"),
}


def count(rows: object, *, wanted: bool = True) -> int | None:
    return asyncio.run(counted(rows, lambda: wanted))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FILES)
def test_every_format_has_as_many_rows_as_its_reader_gives(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    rows = open_file(path)

    async def main() -> list[int | None]:
        first = await rows.take(1)
        return [len(first), await counted(rows, lambda: True), await rows.count_rest()]

    assert asyncio.run(main()) == [1, 3, 2]


def test_wrapped_rows_are_counted_as_they_are_given(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("line\n" * 7)
    axes = {"a": Axis(opened=lambda: open_file(path)), "b": Axis(opened=lambda: ListRows([1, 2]), total=2)}
    assert count(LimitedRows(PeekedRows(open_file(path)), 5)) == 5
    assert count(LimitedRows(open_file(path), 9)) == 7
    assert count(MatrixRows(axes)) == 14
    assert count(GlobRows(tmp_path, "*.txt")) == 1
    assert count(ListRows([1, 2])) == 2


def test_what_cannot_be_counted_has_no_number(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("[1, 2")
    (tmp_path / "long.txt").write_text("line\n" * 1000)
    assert count(open_file(tmp_path / "broken.json")) is None
    assert count(open_file(tmp_path / "gone.csv")) is None
    assert count(GlobRows(tmp_path, "*.none")) is None
    assert count(open_file(tmp_path / "long.txt"), wanted=False) is None
