"""Databases on file systems that machines share."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowllm.core.errors import UsageError
from flowllm.storage.sqlite import mounts
from flowllm.storage.sqlite.migrate import upgrade_file


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder under which much is mounted, as far as flowllm knows."""
    lines = [
        "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
        f"31 22 0:50 / {tmp_path}/home rw,relatime shared:1 - nfs4 server:/home rw,vers=4.2",
        f"32 31 254:1 / {tmp_path}/home/local rw - ext4 /dev/vdb rw",
        f"33 22 0:51 / {tmp_path}/with\\040space rw - fuse.sshfs me@there:/ rw",
        f"34 22 0:52 / {tmp_path}/host rw - 9p host rw",
        f"35 22 0:53 / {tmp_path}/twice rw - cifs //server/share rw",
        f"36 35 0:54 / {tmp_path}/twice rw - tmpfs tmpfs rw",
    ]
    told = tmp_path / "mountinfo"
    told.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(mounts, "MOUNTS", told)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.db", None),
        ("home/x.db", "nfs4"),
        ("home/me/.flowllm/flowllm.db", "nfs4"),
        ("home/local/x.db", None),
        ("homeless/x.db", None),
        ("with space/x.db", "fuse.sshfs"),
        ("host/x.db", None),
        ("twice/x.db", None),
    ],
)
def test_the_longest_mount_point_says_which_file_system_it_is(mounted: Path, name: str, kind: str | None) -> None:
    assert mounts.shared_file_system(mounted / name) == kind


def test_a_link_is_where_it_leads_to(mounted: Path) -> None:
    (mounted / "home").mkdir()
    (mounted / "link").symlink_to(mounted / "home")
    assert mounts.shared_file_system(mounted / "link" / "x.db") == "nfs4"


def test_none_is_made_there_and_the_way_out_is_told(mounted: Path) -> None:
    with pytest.raises(UsageError, match=r"network file system \(nfs4\)") as refused:
        upgrade_file(mounted / "home" / "x.db")
    assert "--db postgresql://" in refused.value.hint
    assert not (mounted / "home").exists()


def test_where_the_system_tells_nothing_all_is_let_through(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "missing")
    assert mounts.shared_file_system(tmp_path / "x.db") is None
