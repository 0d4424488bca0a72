"""One run at a time writes to an output."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest

from flowllm.core.errors import UsageError
from flowllm.core.types import RunId
from flowllm.datasets.file_writes import OutputLock

ONE, OTHER = RunId("one"), RunId("other")


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder."""
    folder = tmp_path / "locks"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def _free(path: Path) -> bool:
    with contextlib.suppress(UsageError):
        OutputLock(path, OTHER).release()
        return True
    return False


def test_by_whatever_name_it_goes(tmp_path: Path, locks: Path) -> None:
    path, soft, hard = tmp_path / "out", tmp_path / "soft", tmp_path / "hard"
    soft.symlink_to("out")
    held = OutputLock(path, ONE)
    with pytest.raises(UsageError, match=rf"run one \(process {os.getpid()}\) writes to this file"):
        OutputLock(path, OTHER)
    assert not _free(soft)
    assert not _free(tmp_path / "locks" / ".." / "out")
    assert _free(tmp_path / "another")
    path.write_text("it is there now")
    held.follow(path)
    os.link(path, hard)
    assert not _free(hard)
    path.unlink()
    path.write_text("another file")
    held.follow(path)
    assert _free(hard), "it is no name of that file any more"
    assert not _free(path)
    OutputLock(path, ONE).release()  # the run goes on elsewhere: its owner is not decided here
    held.release()
    held.release()
    assert _free(hard)
    assert _free(path)
    assert list(locks.iterdir()) == []


def test_one_that_is_refused_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    os.link(tmp_path / "out", tmp_path / "hard")
    held = OutputLock(tmp_path / "hard", ONE)
    assert not _free(tmp_path / "out")
    held.release()
    assert _free(tmp_path / "out")


def test_what_the_dead_left_and_folders_that_take_no_locks(
    tmp_path: Path, locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    OutputLock(tmp_path / "out", ONE).release()
    held = OutputLock(tmp_path / "out", ONE)
    (lock,) = locks.iterdir()
    held.release()
    lock.write_text("{not")
    assert _free(tmp_path / "out")
    lock.mkdir()
    assert _free(tmp_path / "out")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert _free(tmp_path / "out")
