"""Files beside others: none is left by the dead, and none taken from the living."""

from __future__ import annotations

import os
from pathlib import Path

from flowllm.datasets.file_writes import open_temporary, remove_leftovers, replace_file


def test_what_the_dead_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    left = tmp_path / ".flowllm-0123456789ab.tmp"
    left.write_text("half")
    others = [tmp_path / name for name in (".flowllm-notes.tmp", "flowllm-0123456789ab.tmp", "a.tmp")]
    for other in others:
        other.write_text("mine")
    (tmp_path / ".flowllm-aaaaaaaaaaaa.tmp").mkdir()
    (tmp_path / ".flowllm-bbbbbbbbbbbb.tmp").symlink_to(others[0])
    os.mkfifo(tmp_path / ".flowllm-cccccccccccc.tmp")
    path, descriptor = open_temporary(tmp_path / "out")
    remove_leftovers(tmp_path)
    assert not left.exists()
    assert path.exists(), "whoever writes it lives"
    assert all(other.read_text() == "mine" for other in others)
    os.close(descriptor)
    remove_leftovers(tmp_path)
    assert not path.exists()
    remove_leftovers(tmp_path / "nowhere")


def test_a_file_takes_the_place_with_the_mode_of_the_one_before(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("old")
    target.chmod(0o640)
    path, descriptor = open_temporary(target)
    os.write(descriptor, b"new")
    assert target.read_text() == "old"
    replace_file(path, target)
    os.close(descriptor)
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("new", 0o640)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
