"""The file of `--output`: every row's line once, whole, whatever happens in between."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowllm.core.errors import StorageFailed, UsageError
from flowllm.datasets.layouts import line_of
from flowllm.datasets.output import BitSet, OutputFile

pytestmark = pytest.mark.anyio


def _lines(path: Path) -> list[Any]:
    data = path.read_bytes()
    assert data.endswith(b"\n") or not data
    return [json.loads(line) for line in data.splitlines()]


@pytest.mark.parametrize(
    "value", [{"a": "é\u2028"}, "\ud800 half", "\x00\x1b[31m", "line\nbreak", ["=cmd()"], None, 1.5, 10**30]
)
def test_a_line_is_one_line_of_json_in_utf_8(value: Any) -> None:
    line = line_of(7, value, {"out": value})
    assert line.count(b"\n") == 1
    assert json.loads(line.decode()) == {"index": 7, "row": value, "outputs": {"out": value}}
    assert list(json.loads(line)) == ["index", "row", "outputs"]


def test_text_stays_readable() -> None:
    assert "é" in line_of(0, "é", None).decode()


async def test_lines_are_on_disk_after_a_flush(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    file = OutputFile.begin(path, overwrite=False)
    assert await file.flush() is None
    file.add(3, {"x": 1}, {"y": 2})
    file.add(3, {"x": 1}, {"y": "again"})
    file.add(0, "a", "b")
    assert not path.exists()
    assert file.waiting == len(line_of(3, {"x": 1}, {"y": 2})) + len(line_of(0, "a", "b"))
    assert await file.flush() == path.stat().st_size
    assert file.waiting == 0
    file.add(9, "never", "flushed")
    file.close()
    assert [line["index"] for line in _lines(path)] == [3, 0]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 12)),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.just("mark"), st.just(0)),
        st.tuples(st.just("kill"), st.integers(0, 300)),
    ),
    max_size=30,
)


@settings(max_examples=80, deadline=None)
@given(STEPS)
def test_any_crash_leaves_each_line_once_and_whole(steps: list[tuple[str, int]]) -> None:
    """A crash leaves any beginning of what was written behind the last mark; a resume begins at the mark."""

    async def check(path: Path) -> None:
        file, marked, flushed = OutputFile.begin(path, overwrite=False), 0, 0
        for step, number in steps:
            if step == "add":
                file.add(number, {"n": number}, "x" * number)
            elif step == "flush":
                flushed = await file.flush()
            elif step == "mark":
                marked = flushed
            else:
                file.close()
                with path.open("ab") as torn:
                    torn.write(line_of(5, "torn", "y" * 200)[:number])
                file = OutputFile.resume(path, marked)
                flushed = marked
        for number in range(13):  # a resume goes through all rows
            file.add(number, {"n": number}, "x" * number)
        await file.flush()
        file.close()
        lines = _lines(path)
        assert sorted(line["index"] for line in lines) == list(range(13))
        assert all(
            line == {"index": n, "row": {"n": n}, "outputs": "x" * n} for line in lines if (n := line["index"]) >= 0
        )

    with tempfile.TemporaryDirectory() as folder:
        anyio.run(check, Path(folder) / "out.jsonl")


async def _written(path: Path, *indices: int) -> int:
    file = OutputFile.begin(path, overwrite=True)
    for index in indices:
        file.add(index, index, index)
    size = await file.flush()
    file.close()
    return size


async def test_what_may_not_be_begun(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("mine\n")
    with pytest.raises(UsageError, match="exists already") as caught:
        OutputFile.begin(path, overwrite=False)
    assert "--overwrite" in caught.value.hint
    assert path.read_text() == "mine\n"
    OutputFile.begin(path, overwrite=True).close()
    assert path.read_text() == "mine\n", "nothing has come that could take its place"
    with pytest.raises(UsageError, match="cannot be written") as caught:
        OutputFile.begin(tmp_path / "no" / "out.jsonl", overwrite=False)
    assert "folder" in caught.value.hint


@pytest.mark.parametrize("overwrite", [True, False])
async def test_folders_pipes_and_devices_are_refused(overwrite: bool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, told in {
        tmp_path: "is a folder",
        tmp_path / "pipe": "is no file",
        Path("/dev/null"): "is no file",
    }.items():
        with pytest.raises(UsageError, match=told):
            OutputFile.begin(path, overwrite=overwrite)
        with pytest.raises(UsageError, match=told):
            OutputFile.resume(path, 0)
    (tmp_path / "circle").symlink_to("circle")
    for name, told in {"circle": "symbolic links", "x" * 300: "too long", "pipe/out": "Not a dir|No such"}.items():
        with pytest.raises(UsageError, match=f"cannot be written: .*({told})"):
            OutputFile.begin(tmp_path / name, overwrite=overwrite)


async def test_where_the_program_prints_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("")
    printed, fstat = path.stat(), os.fstat
    monkeypatch.setattr(os, "fstat", lambda stream: printed if stream == 1 else fstat(stream))
    with pytest.raises(UsageError, match="where this program prints to"):
        OutputFile.begin(path, overwrite=True)


async def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be opened: No such file") as caught:
        OutputFile.resume(tmp_path / "out.jsonl", 10)
    assert "--overwrite" in caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: b"",
        lambda data: b"# my notes\n" + data,
        lambda data: data.replace(b'"index"', b'"number"', 1),
        lambda data: data.replace(b": 1,", b": 2,", 1) + b"more\n",
        lambda data: data.replace(b": 1,", b": 99999999999999999999,", 1) + b"more\n",
        lambda data: data[:-1] + b" ",
    ],
)
async def test_a_file_that_was_changed_is_left_alone(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    size = await _written(path, 1, 2)
    data = change(path.read_bytes())
    path.write_bytes(data)
    with pytest.raises(UsageError, match="this run has left it") as caught:
        OutputFile.resume(path, size)
    assert "put it back" in caught.value.hint
    assert path.read_bytes() == data


async def test_what_stands_behind_the_mark_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    size = await _written(path, 1, 2)
    with path.open("ab") as more:
        more.write(b"torn")
    file = OutputFile.resume(path, size)
    file.add(1, 1, 1)
    file.add(3, 3, 3)
    await file.flush()
    file.close()
    assert [line["index"] for line in _lines(path)] == [1, 2, 3]


async def _line(file: OutputFile, index: int = 7) -> int | None:
    file.add(index, index, index)
    return await file.flush()


async def test_what_stands_there_stays_until_a_line_takes_its_place(tmp_path: Path) -> None:
    path, link = tmp_path / "out.jsonl", tmp_path / "link.jsonl"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to("out.jsonl")
    (tmp_path / ".flowllm-0123456789ab.tmp").write_text("left by one that was killed")
    file = OutputFile.begin(link, overwrite=True)
    assert {entry.name for entry in tmp_path.iterdir()} == {"out.jsonl", "link.jsonl"}
    assert path.read_text() == "old"
    seen = []

    async def before() -> None:
        seen.append(path.read_text())

    file.add(1, 1, 1)
    assert await file.flush(before) == path.stat().st_size
    assert seen == ["old"]
    await _line(file)
    assert [line["index"] for line in _lines(path)] == [1, 7]
    assert (link.is_symlink(), path.stat().st_mode & 0o777) == (True, 0o640)
    file.close()
    assert {entry.name for entry in tmp_path.iterdir()} == {"out.jsonl", "link.jsonl"}


@pytest.mark.parametrize("old", ["old", None])
async def test_a_kill_before_the_new_file_has_its_place(old: str | None, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    if old is not None:
        path.write_text(old)

    async def killed() -> None:
        raise KeyboardInterrupt

    file = OutputFile.begin(path, overwrite=True)
    file.add(1, 1, 1)
    with pytest.raises(KeyboardInterrupt):
        await file.flush(killed)
    assert file._file is not None
    file._file.close()  # as the kernel does
    assert (path.read_text() if path.exists() else None) == old
    assert len(list(tmp_path.iterdir())) == 1 + (old is not None)
    file = OutputFile.resume(path, 0)
    assert len(list(tmp_path.iterdir())) == (old is not None)
    await _line(file)
    file.close()
    assert [line["index"] for line in _lines(path)] == [7]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]


async def test_a_run_that_is_over_before_a_line_came(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    for complete in (False, True):
        file = OutputFile.begin(path, overwrite=False)
        if complete:
            file.complete()
        await file.flush()
        file.close()
        assert path.exists() == complete
    assert path.read_bytes() == b""


async def test_what_was_made_there_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    file = OutputFile.begin(path, overwrite=False)
    path.write_text("another's")
    file.add(7, 7, 7)
    called: list[None] = []

    async def before() -> None:
        called.append(None)

    for _ in range(2):
        with pytest.raises(StorageFailed, match="was made or changed by another program"):
            await file.flush(before)
    assert not called, "the record may not say that it is this run's"
    file.close()
    assert path.read_text() == "another's"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]


async def test_a_disk_that_is_full_before_the_first_line(tmp_path: Path, small_disk: Any) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    file = OutputFile.begin(path, overwrite=True)
    small_disk(10)
    with pytest.raises(StorageFailed, match="cannot be written"):
        await _line(file, 1)
    assert path.read_text() == "old"
    small_disk(None)
    await _line(file)
    file.close()
    assert [line["index"] for line in _lines(path)] == [1, 7]


async def test_a_folder_in_which_nothing_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("flowllm.datasets.output.open_temporary", refused)
    path = tmp_path / "out.jsonl"
    path.write_text("old" * 1000)
    file = OutputFile.begin(path, overwrite=True)
    await _line(file)
    file.close()
    assert [line["index"] for line in _lines(path)] == [7], "the file itself can be written"
    file = OutputFile.begin(tmp_path / "new", overwrite=True)
    with pytest.raises(StorageFailed, match="new cannot be written: Permission denied"):
        await _line(file)
    file.close()


async def test_a_file_that_is_removed_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    file = OutputFile.begin(path, overwrite=False)
    await _line(file, 1)
    path.unlink()
    with pytest.raises(StorageFailed, match="was removed while this run writes to it"):
        await _line(file)
    file.close()


@pytest.fixture
def small_disk() -> Iterator[Any]:
    """Sets how large a file may become."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


async def test_a_full_disk_leaves_no_torn_line_once_there_is_room(tmp_path: Path, small_disk: Any) -> None:
    path = tmp_path / "out.jsonl"
    file = OutputFile.begin(path, overwrite=False)
    file.add(0, "a", "b")
    size = await file.flush()
    small_disk(size + 10)
    file.add(1, "x" * 100, "y")
    for _ in range(2):
        with pytest.raises(StorageFailed, match="cannot be written") as caught:
            await file.flush()
    assert "flowllm resume" in caught.value.hint
    file.add(2, "z", "z")
    small_disk(None)
    assert await file.flush() == path.stat().st_size
    file.close()
    assert [line["index"] for line in _lines(path)] == [0, 1, 2]


async def test_flushes_that_are_cancelled_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    file = OutputFile.begin(path, overwrite=False)
    tasks = []
    for n in range(50):
        file.add(n, n, "x" * 1000)
        task = asyncio.create_task(file.flush())
        await asyncio.sleep(0)
        task.cancel()
        tasks.append(task)
    await asyncio.gather(*tasks, return_exceptions=True)
    file.add(50, 50, "x")
    assert await file.flush() == path.stat().st_size
    file.close()
    assert sorted(line["index"] for line in _lines(path)) == list(range(51))


@given(st.lists(st.integers(0, 5000), max_size=50))
def test_bits_are_a_set(numbers: list[int]) -> None:
    bits, expected = BitSet(), set()
    for number in numbers:
        assert (number in bits) == (number in expected)
        bits.add(number)
        expected.add(number)
    assert [number for number in range(5001) if number in bits] == sorted(expected)
