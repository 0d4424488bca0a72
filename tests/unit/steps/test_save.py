from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from flowllm.core.errors import SaveFailed
from flowllm.core.types import Json
from flowllm.steps.save import Saver
from tests.support.project import HANG, ROOT
from tests.support.workflows import workflow

STEP = next(iter(workflow("inputs: {x: ''}\nsteps: {a: {value: 1, save: '{{ inputs.x }}'}}\n").steps.values()))


def path_of(saver: Saver, name: str, node: str = "a") -> Path:
    return saver.path_of(STEP, {"inputs": {"x": name}}, node)


def refusal(saver: Saver, name: str, node: str = "a") -> str:
    with pytest.raises(SaveFailed) as raised:
        path_of(saver, name, node)
    return raised.value.message


def saved(saver: Saver, name: str, value: Json) -> Path:
    path = path_of(saver, name)
    asyncio.run(saver.write(path, value))
    return path


@pytest.mark.parametrize(
    "name", ["a.md", "a/b/c.md", "./a", "a/../b", "a b.md", "ä/日本", "~", "...", ".hidden", "a\\b"]
)
def test_what_is_a_path(name: str, tmp_path: Path) -> None:
    path = saved(Saver(tmp_path), name, "text")
    assert path.read_text() == "text"
    assert path.is_relative_to(tmp_path)


def test_what_a_run_that_was_killed_has_left_is_swept(tmp_path: Path) -> None:
    left = [tmp_path / "posts" / f".flowllm-{number:012x}.tmp" for number in range(2)]
    left[0].parent.mkdir()
    left[0].write_text("half")
    saver = Saver(tmp_path)
    assert not saved(saver, "posts/a.md", "text").with_name(left[0].name).exists()
    left[1].write_text("of a run that goes on")
    with left[1].open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        saved(Saver(tmp_path), "posts/a.md", "text")
    assert {path.name for path in left[0].parent.iterdir()} == {"a.md", left[1].name}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../a", "outside"),
        ("a/../../b", "outside"),
        ("/etc/passwd", "outside"),
        ("/", "no file's name"),
        ("out/a", "outside"),
        ("out", "outside"),
        ("", "no file's name"),
        ("  ", "no file's name"),
        (".", "outside"),
        ("..", "outside"),
        ("a/", "no file's name"),
        ("a\0b", "no file's name"),
        ("a\nb", "no file's name"),
        ("a\x1b[2Jb", "no file's name"),
        ("a\ud800", "no file's name"),
        ("x" * 256, "too long"),
        ("ä" * 128, "too long"),
        ("a/" * 2000 + "b", "too long"),
        ("folder", "it is a folder"),
        ("file/a", "file is no folder"),
        ("file/a/b", "file is no folder"),
        ("circle/a", ""),
        (".flowllm/flowllm.db", "nothing is saved to"),
        ("a/../.FlowLLM/x", "nothing is saved to"),
        ("inside/hooks/pre-commit", "nothing is saved to"),
    ],
)
def test_what_is_no_path(name: str, said: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "folder").mkdir(parents=True)
    (home / ".git").mkdir()
    (home / "file").write_text("")
    (home / "out").symlink_to(tmp_path)
    (home / "inside").symlink_to(home / ".git")
    (home / "circle").symlink_to(home / "circle")
    assert said in refusal(Saver(home), name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


def test_a_path_is_one_nodes(tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    assert path_of(saver, "a", "posts[1]") == path_of(saver, "./a", "posts[1]")
    said = refusal(saver, "b/../a", "posts[2]")
    assert "posts[1]" in said
    assert "posts[2]" in said
    path_of(Saver(tmp_path), "a", "posts[2]")  # another attempt


def test_which_paths_are_taken_takes_little_memory(tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    path_of(saver, "first", "posts")
    tracemalloc.start(10)
    for number in range(400):
        path_of(saver, f"{number}.md", f"posts[{number}]")
    gc.collect()
    ours = tracemalloc.Filter(inclusive=True, filename_pattern="*/steps/save.py", all_frames=True)
    traces = tracemalloc.take_snapshot().filter_traces([ours]).traces
    # the interpreter's table of interned names, which grows by megabytes at once, at whoever's name it then is
    held = [each.size for each in traces if "sys.intern(" not in "".join(each.traceback.format(1))]
    tracemalloc.stop()
    # less than a path and its node's name take; 56 bytes each are Python 3.12's, whose pathlib keeps names for ever
    assert sum(held) / 400 < 100, "the paths are held one by one"
    assert "posts[123]" in refusal(saver, "123.md", "others[0]")


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("text", "text"),
        ("", ""),
        ("ends\n", "ends\n"),
        ("é\r\n{{ 7 * 7 }}", "é\r\n{{ 7 * 7 }}"),
        ({"b": "é", "a": [1, None]}, '{\n  "b": "é",\n  "a": [\n    1,\n    null\n  ]\n}\n'),
        ([], "[]\n"),
        (None, "null\n"),
        (1.5, "1.5\n"),
        (True, "true\n"),
        (["\ud800"], '[\n  "\\ud800"\n]\n'),
    ],
)
def test_text_as_it_is_and_anything_else_as_json(value: Json, content: str, tmp_path: Path) -> None:
    path = saved(Saver(tmp_path), "a", value)
    assert path.read_bytes() == content.encode()
    assert isinstance(value, str) or json.loads(path.read_text()) == value


def test_the_ending_says_how_a_list_is_written_and_what_is_not(tmp_path: Path) -> None:
    assert saved(Saver(tmp_path), "a.jsonl", [{"a": 1}, {"a": 2}]).read_text() == '{"a": 1}\n{"a": 2}\n'
    assert ".xlsx is not written" in refusal(Saver(tmp_path), "a.xlsx")


def test_half_a_character_cannot_be_saved_as_text(tmp_path: Path) -> None:
    with pytest.raises(SaveFailed, match="half a character at 3"):
        saved(Saver(tmp_path), "a", "ab\ud800")
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_is_as_open_as_any_other_and_an_old_one_stays_as_it_was(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert saved(Saver(tmp_path), "new", "x").stat().st_mode == ordinary.stat().st_mode
    old = tmp_path / "old"
    old.touch(0o600)
    old.chmod(0o640)
    saved(Saver(tmp_path), "old", "x")
    assert old.stat().st_mode & 0o777 == 0o640


def test_what_has_not_changed_is_not_written(tmp_path: Path) -> None:
    first = saved(Saver(tmp_path), "a", "x").stat()
    path = saved(Saver(tmp_path), "a", "x")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    assert saved(Saver(tmp_path), "a", "y").read_text() == "y"


def test_a_link_within_the_folder_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    saved(Saver(tmp_path), "link/a", "x")
    assert (tmp_path / "real" / "a").read_text() == "x"


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    saver = Saver(tmp_path)
    saved(saver, "a", "old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SaveFailed, match="No space left") as raised:
        saved(saver, "a", "new")
    assert "flowllm resume" in raised.value.hint
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


WRITING = """
import asyncio, os, sys
from pathlib import Path
from flowllm.steps.save import Saver
saver, sync = Saver(Path(".")), os.fsync
def halfway(number):
    sync(number)
    if Path("a").exists():
        print("halfway", flush=True)
        sys.stdin.read()
os.fsync = halfway
asyncio.run(saver.write(Path("a").absolute(), "old" * 1000))
asyncio.run(saver.write(Path("a").absolute(), "new" * 100000))
"""


def test_one_that_is_killed_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITING],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "halfway\n"
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate(timeout=HANG)
    assert (tmp_path / "a").read_text() == "old" * 1000
    saved(Saver(tmp_path), "a", "newer")
    assert (tmp_path / "a").read_text() == "newer"
