"""Files as streams of rows."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from flowllm.core.errors import DataFailed
from flowllm.datasets.base import ParsedRow
from flowllm.datasets.files import BY_ENDING, MOST_BYTES, FileRows, jsonl_rows, open_file
from tests.support.data import Repeated, drain, drained, write

pytestmark = pytest.mark.anyio
EXAMPLES = {
    "jsonl": ('{"a": "1"}\n', [{"a": "1"}]),
    "json": ('[{"a": "1"}]', [{"a": "1"}]),
    "csv": ("a,b\n1,2\n", [{"a": "1", "b": "2"}]),
    "lines": ("a,b\n", ["a,b"]),
}


@pytest.mark.parametrize("ending", [*BY_ENDING, ".CSV", ".Json"])
async def test_the_ending_says_the_format(ending: str, tmp_path: Path) -> None:
    data, rows = EXAMPLES[BY_ENDING[ending.lower()]]
    if ending == ".tsv":
        data = data.replace(",", "\t")
    assert await drained(open_file(write(tmp_path / f"x.y{ending}", data))) == rows


@pytest.mark.parametrize("ending", BY_ENDING)
async def test_what_is_packed_is_unpacked(ending: str, tmp_path: Path) -> None:
    data, rows = EXAMPLES[BY_ENDING[ending]]
    packed = gzip.compress(data.replace(",", "\t").encode() if ending == ".tsv" else data.encode())
    for name in (f"x{ending}.gz", f"X{ending}.GZ", f"x{ending}"):
        (tmp_path / name).write_bytes(packed)
        file = open_file(tmp_path / name)
        assert await drained(file) == rows
        await file.close()
    for damaged in (packed[:-9], packed[:12] + b"\xff\xff\xff" + packed[15:], packed[:-8] + bytes(8)):
        (tmp_path / "x").write_bytes(damaged)
        file = open_file(tmp_path / "x", kind=BY_ENDING[ending], name="x")
        with pytest.raises(DataFailed, match="x cannot be unpacked"):
            await drained(file)
        await file.close()


async def test_a_format_that_is_named_wins(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "a;b\n1;2\n")
    assert await drained(open_file(path, kind="lines")) == ["a;b", "1;2"]
    assert await drained(open_file(path, delimiter=";")) == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize("name", ["x.parquet", "X.XLSX", "x.csv.zip", "x.sqlite", "x.arrow.gz"])
def test_endings_of_what_is_no_text(name: str, tmp_path: Path) -> None:
    """Also of files that do not begin as such files do."""
    with pytest.raises(DataFailed, match=f"{name} is ") as caught:
        open_file(tmp_path / name, name=name)
    assert "JSON Lines" in caught.value.hint or "CSV" in caught.value.hint
    open_file(tmp_path / name, kind="csv")


@pytest.mark.parametrize("name", ["x", "x.dat", "folder.csv/x", ".csv"])
def test_an_ending_that_says_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataFailed, match="its ending does not say what it is") as caught:
        open_file(tmp_path / name, name=name)
    assert ".jsonl" in caught.value.hint
    assert "format" in caught.value.hint


async def test_a_file_that_is_not_there_is_told_with_the_place_and_how_to_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub/d.csv", "x\n1\n")
    with pytest.raises(DataFailed) as caught:
        await open_file(tmp_path / "sub/sub/d.csv", name="sub/d.csv").take(1)
    assert caught.value.message == f"there is no file sub/d.csv: looked for {tmp_path / 'sub' / 'sub' / 'd.csv'}"
    assert f"write d.csv or {tmp_path / 'sub' / 'd.csv'}" in caught.value.hint
    with pytest.raises(DataFailed) as caught:
        await open_file(tmp_path / "sub/none.csv", name="none.csv").take(1)
    assert caught.value.hint == "paths in a workflow are relative to its file"


@pytest.mark.parametrize("name", ["a\0b.csv", "a\ud800b.csv"])
async def test_what_cannot_be_the_name_of_a_file_is_told(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataFailed, match="cannot be the name of a file"):
        await open_file(tmp_path / name, name=name).take(1)


async def test_nothing_is_opened_before_the_first_row_is_wanted(tmp_path: Path) -> None:
    rows = open_file(tmp_path / "rows.jsonl", name="rows.jsonl")
    assert rows.total is None
    write(tmp_path / "rows.jsonl", "1\n2\n")
    assert [(row.index, row.line, row.value) for row in await rows.take(9)] == [(0, 1, 1), (1, 2, 2)]
    assert await rows.take(9) == []
    assert await rows.take(9) == []


async def _refused(path: Path) -> DataFailed:
    rows = FileRows(path, jsonl_rows, name="rows.jsonl")
    for _ in range(2):  # it stays so
        with pytest.raises(DataFailed) as caught:
            await rows.take(1)
    assert await rows.count_rest() == 0
    await rows.close()
    assert "rows.jsonl" in caught.value.message
    return caught.value


async def test_what_cannot_be_read_is_told_in_words(tmp_path: Path) -> None:
    assert "there is no file" in (await _refused(tmp_path / "missing")).message
    write(tmp_path / "file", "")
    assert "Not a directory" in (await _refused(tmp_path / "file" / "rows")).message
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be read" in (await _refused(tmp_path / "loop")).message


async def test_folders_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # and nobody waits for a writer
    for path, told in {tmp_path: "is a folder", tmp_path / "pipe": "only once", Path("/dev/zero"): "only once"}.items():
        error = await _refused(path)
        assert told in error.message
        assert ("`-`" in error.hint) == (told == "only once")
        with pytest.raises(DataFailed, match=f"data {error.message.removeprefix('rows.jsonl ')}"):
            open_file(path, name="data")


async def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "closed", "1\n")

    def refuse(*_: object) -> int:  # root may read everything, so a mode says nothing here
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    assert "Permission denied" in (await _refused(path)).message


@pytest.mark.parametrize("most", [1, 2, 3, 100])
async def test_rows_before_the_one_that_ends_the_file_are_given_first(most: int, tmp_path: Path) -> None:
    rows = open_file(write(tmp_path / "x.json", "[1, 2, 3"), name="x.json")
    given = [row.value for _ in range(-(-2 // most)) for row in await rows.take(most)]
    assert given == [1, 2]
    for _ in range(2):
        with pytest.raises(DataFailed, match="breaks off"):
            await rows.take(most)


async def test_a_disk_that_fails_in_the_middle(tmp_path: Path) -> None:
    def read(file: BinaryIO, name: str, *, cut: bool = False) -> Iterator[ParsedRow]:
        yield 1, 1, "first", None
        raise OSError(5, "Input/output error")

    rows = FileRows(write(tmp_path / "x", ""), read, name="x")
    assert [row.value for row in await rows.take(5)] == ["first"]
    with pytest.raises(DataFailed, match="x cannot be read: Input/output error"):
        await rows.take(5)


async def test_the_rest_is_counted_as_far_as_it_can_be_read(tmp_path: Path) -> None:
    rows = open_file(write(tmp_path / "x.json", "[1, 2, oops, 4, 5"))
    await rows.take(1)
    assert await rows.count_rest() == 3
    assert await rows.count_rest() == 0


async def test_few_large_rows_are_taken_at_a_time(tmp_path: Path) -> None:
    path = write(tmp_path / "x.txt", (b"x" * 1_000_000 + b"\n") * 20 + b"y\n" * 1000)
    rows = open_file(path)
    page = await rows.take(256)
    assert len(page) == MOST_BYTES // 1_000_000 + 1
    assert len(await drain(_Rest(rows, page), most=256)) == 1020


class _Rest:
    """Rows with some that were taken already."""

    total = None

    def __init__(self, rows: FileRows, taken: list) -> None:  # type: ignore[type-arg]
        self.rows, self.taken = rows, taken
        self.close, self.count_rest = rows.close, rows.count_rest

    async def take(self, most: int) -> list:  # type: ignore[type-arg]
        taken, self.taken = self.taken, []
        return taken or await self.rows.take(most)


async def test_closing_waits_for_a_reader_whose_caller_has_gone(tmp_path: Path) -> None:
    reading, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    closed = []

    def read(file: BinaryIO, name: str, *, cut: bool = False) -> Iterator[ParsedRow]:
        loop.call_soon_threadsafe(reading.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        closed.append(file.closed)
        yield 1, 1, "x", None

    rows = FileRows(write(tmp_path / "x", ""), read, name="x")
    task = asyncio.create_task(rows.take(1))
    await reading.wait()
    task.cancel()
    closing = asyncio.create_task(rows.close())
    go_on.set()
    await closing
    assert closed == [False]
    assert await rows.take(1) == []


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "lines"])
async def test_memory_does_not_grow_with_the_file(kind: str, tmp_path: Path) -> None:
    """16 MB here; a million rows in the long run."""
    await _flat(kind, 8_000, b"t" * 2000, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "lines"])
async def test_memory_does_not_grow_with_a_million_rows(kind: str, tmp_path: Path) -> None:
    await _flat(kind, 1_000_000, b"text", tmp_path)


async def _flat(kind: str, count: int, text: bytes, folder: Path) -> None:
    shape = {"json": b'{"a": "%b"},\n', "csv": b'%b,"more"\n'}.get(kind, b'{"a": "%b"}\n')
    row = shape % text
    head = {"json": b"[", "csv": b"a,b\n"}.get(kind, b"")
    path = folder / "rows"
    with path.open("wb") as file:
        source = Repeated(row, count, head=head, tail=b"0]" if kind == "json" else b"")
        while block := source.read(1 << 20):
            file.write(block)
    rows = open_file(path, kind=kind)
    await rows.take(256)  # what is made once is made by now
    tracemalloc.start()
    try:
        taken = 256
        while page := await rows.take(256):
            taken += len(page)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    await rows.close()
    assert taken == count + (kind == "json")
    assert peak < 4_000_000
