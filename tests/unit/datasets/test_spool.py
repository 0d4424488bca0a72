"""Standard input as rows, within one process."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from flowllm.core.errors import DataFailed
from flowllm.datasets import spool
from flowllm.datasets.spool import AHEAD, AHEAD_BYTES, IncompleteCopyRows, open_spool, standard_input
from tests.support.data import drained, read

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "run"


def _part(path: Path) -> Path:
    return path.with_name("run.part")


def _given(data: bytes) -> BinaryIO:
    return io.BytesIO(data)


class Pipe:
    """A pipe, of which the test holds the writing end."""

    def __init__(self) -> None:
        reading, self.writing = os.pipe()
        self.file = os.fdopen(reading, "rb")

    def write(self, data: bytes) -> None:
        os.write(self.writing, data)

    def end(self) -> None:
        if self.writing >= 0:
            os.close(self.writing)
            self.writing = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.end()
    _joined()
    pipe.file.close()


def _joined() -> None:
    """The thread that reads standard input has ended."""
    for thread in threading.enumerate():
        if thread.name == "flowllm-stdin":
            thread.join(30)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (None, b'{"a": 1}\n{bad\n{"a": 2}\n'),
        (None, b"plain\nlines\n"),
        (None, b'\xef\xbb\xbf\n[{"a": 1},\n {"a": 2}]'),
        ("csv", b"a,b\n1,2\n3\n"),
        ("json", b"[1, 2]"),
        ("lines", b"1\n2"),
        (None, b""),
    ],
)
async def test_rows_are_those_of_a_file_and_a_resume_finds_them_again(
    kind: str | None, data: bytes, path: Path
) -> None:
    expected = [value for _, value, _ in read(data, kind or "guessed")]
    assert await drained(open_spool(lambda: _given(data), path, kind=kind)) == expected
    assert path.read_bytes() == data
    assert not _part(path).exists()

    def never() -> BinaryIO:
        raise AssertionError("it was read already")

    assert await drained(open_spool(never, path, kind=kind)) == expected


async def test_a_row_is_there_as_soon_as_it_was_written(path: Path, pipe: Pipe) -> None:
    rows = open_spool(lambda: pipe.file, path)
    assert rows.total is None
    for number in range(3):
        pipe.write(b'{"n": %d}\n' % number)
        assert [row.value for row in await rows.take(256)] == [{"n": number}]
        assert _part(path).read_bytes().count(b"\n") == number + 1
    pipe.write(b'{"n": 3}')
    pipe.end()
    assert [row.value for row in await rows.take(256)] == [{"n": 3}]
    assert await rows.take(256) == []
    assert await rows.count_rest() == 0
    assert path.exists()


async def test_a_json_array_and_csv_are_given_as_they_come(path: Path, pipe: Pipe) -> None:
    rows = open_spool(lambda: pipe.file, path, kind="json")
    pipe.write(b'[{"n": 0},\n {"n"')
    assert [row.value for row in await rows.take(256)] == [{"n": 0}]
    pipe.write(b": 1} ]")
    assert [row.value for row in await rows.take(256)] == [{"n": 1}]
    pipe.end()
    assert await rows.take(256) == []


async def test_nobody_but_the_owner_may_read_the_copy(path: Path) -> None:
    before = os.umask(0)
    try:
        await drained(open_spool(lambda: _given(b"x\n"), path))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


class _Counted(io.BytesIO):
    """Endless lines of one size; counts the bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.given = 0

    def read(self, most: int | None = -1) -> bytes:
        begin, self.given = self.given, self.given + (most or 0)
        return bytes(10 if (at + 1) % self.size == 0 else 120 for at in range(begin, self.given))


async def _still(source: _Counted) -> int:
    """How many bytes were given when no more are."""
    before = -1
    while before != source.given:
        before = source.given
        await asyncio.sleep(0.05)
    return before


BUFFER = 64 * 1024


@pytest.mark.parametrize(
    ("size", "most"), [(2, (AHEAD + 2) * 2 + BUFFER), (100_000, AHEAD_BYTES + 3 * 100_000 + BUFFER)]
)
async def test_it_reads_ahead_so_far_and_no_further(size: int, most: int, path: Path) -> None:
    source = _Counted(size)
    rows = open_spool(lambda: source, path, kind="lines")
    assert await rows.take(1)
    first = await _still(source)
    assert first <= most
    while source.given == first:
        assert await rows.take(256)
    await rows.close()
    _joined()
    assert _part(path).exists()
    assert not path.exists()


async def test_it_can_be_closed_while_it_waits_for_a_writer(path: Path, pipe: Pipe) -> None:
    rows = open_spool(lambda: pipe.file, path)
    pipe.write(b"first\n")
    await rows.take(1)
    waiting = asyncio.create_task(rows.take(1))
    await asyncio.sleep(0)
    await rows.close()
    assert await waiting == []
    assert await rows.take(1) == []
    pipe.write(b"nobody wants this\n")
    pipe.end()


async def test_a_pipe_that_does_not_wait_is_waited_for(path: Path, pipe: Pipe) -> None:
    os.set_blocking(pipe.file.fileno(), False)
    rows = open_spool(lambda: pipe.file, path)
    task = asyncio.create_task(rows.take(1))
    await asyncio.sleep(0.01)
    pipe.write(b"x\n")
    assert [row.value for row in await task] == ["x"]
    pipe.end()
    assert await rows.take(1) == []


async def test_a_copy_that_broke_off_gives_what_is_whole_and_then_says_so(path: Path) -> None:
    path.parent.mkdir()
    _part(path).write_bytes(b'{"n": 0}\n{"n": 1}\n{"n": 2')
    rows = open_spool(lambda: _given(b"other data"), path)
    assert isinstance(rows, IncompleteCopyRows)
    assert [row.value for row in await rows.take(9)] == [{"n": 0}, {"n": 1}]
    for _ in range(2):
        with pytest.raises(DataFailed, match="not read to its end before the run stopped") as caught:
            await rows.take(9)
    assert "start a new run" in caught.value.hint
    assert await rows.count_rest() == 0
    await rows.close()


@pytest.mark.parametrize(("kind", "data"), [("csv", b'a,b\n1,2\n3,"x\ny'), ("json", b'[1, 2, {"a": [')])
async def test_what_is_torn_is_no_row(kind: str, data: bytes, path: Path) -> None:
    path.parent.mkdir()
    _part(path).write_bytes(data)
    rows = open_spool(lambda: _given(b""), path, kind=kind)
    assert [row.error for row in await rows.take(9)] == [None] * (2 if kind == "json" else 1)
    with pytest.raises(DataFailed, match="not read to its end"):
        await rows.take(9)


async def test_each_of_two_steps_that_read_it_at_once_gets_everything(path: Path, pipe: Pipe) -> None:
    rows = open_spool(lambda: pipe.file, path)
    pipe.write(b"x\n")
    assert len(await rows.take(1)) == 1
    second, third = (open_spool(lambda: pipe.file, path) for _ in range(2))
    waiting = asyncio.ensure_future(drained(second))
    pipe.write(b"y\n" * (AHEAD + 10))
    pipe.end()
    assert len(await waiting) == AHEAD + 11, "also while the first one takes nothing"
    await rows.close()
    assert len(await drained(third)) == AHEAD + 11
    assert len(await drained(open_spool(lambda: pipe.file, path))) == AHEAD + 11  # afterwards there is the copy


async def test_a_step_that_has_enough_stops_no_other(path: Path, pipe: Pipe) -> None:
    """Also before the other one has asked for its first row."""
    rows = open_spool(lambda: pipe.file, path)
    second = open_spool(lambda: pipe.file, path)
    pipe.write(b"x\n")
    assert len(await rows.take(1)) == 1
    await rows.close()
    pipe.write(b"y\n")
    pipe.end()
    _joined()
    assert await drained(second) == ["x", "y"]


async def test_what_goes_wrong_is_told_to_both(path: Path) -> None:
    rows, second = (open_spool(lambda: _given(b"PAR1x"), path) for _ in range(2))
    await _failed(second, "is Parquet")
    await _failed(rows, "is Parquet")


async def _failed(rows: Any, match: str) -> DataFailed:
    """What is raised where rows should be."""
    with pytest.raises(DataFailed, match=match) as caught:
        await drained(rows)
    return caught.value


async def test_whatever_goes_wrong_in_the_thread_is_told(path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise error

    error: Exception = OSError(errno.EIO, "Input/output error")
    told = await _failed(open_spool(Broken, path), "Input/output error")
    assert told.message.startswith("standard input cannot be read")
    _part(path).unlink()
    error = RuntimeError("a surprise")
    await _failed(open_spool(Broken, path), "a surprise")
    _part(path).unlink()
    await _failed(open_spool(lambda: _given(b"PAR1x"), path), "standard input is Parquet")


async def test_a_copy_that_cannot_be_written(path: Path, tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("no folder")
    error = await _failed(open_spool(lambda: _given(b"x\n"), path), "the copy of standard input at")
    assert "run.part cannot be written: " in error.message
    assert "file" in error.hint


async def test_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.open

    def full(name: Any, flags: int, mode: int = 0o777) -> int:
        return really("/dev/full", os.O_WRONLY) if str(name).endswith(".part") else really(name, flags, mode)

    monkeypatch.setattr(spool.os, "open", full)
    error = await _failed(open_spool(lambda: _given(b"x\n"), path), "No space left")
    assert "make room" in error.hint


def test_a_process_without_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(DataFailed, match="standard input is closed"):
        standard_input()


def test_a_format_that_nobody_knows(path: Path) -> None:
    with pytest.raises(DataFailed):
        open_spool(lambda: _given(b""), path, kind="xml")
