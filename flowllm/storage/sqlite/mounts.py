"""Which file system a database is on: on one that several machines share, SQLite's locks and shared memory do not hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from flowllm.core.errors import UsageError

MOUNTS = Path("/proc/self/mountinfo")
"""Where the system tells what is mounted where; elsewhere than on Linux nothing is known."""
_SHARED: Final = frozenset(
    [
        "afs",
        "acfs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "gfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "panfs",
        "pvfs2",
        "smb2",
        "smb3",
        "smbfs",
        "wekafs",
        "fuse.ceph",
        "fuse.ceph-fuse",
        "fuse.cephfs",
        "fuse.davfs",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.goofys",
        "fuse.juicefs",
        "fuse.mfs",
        "fuse.moosefs",
        "fuse.mount-s3",
        "fuse.nfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.smbnetfs",
        "fuse.sshfs",
        "fuse.weed",
    ]
)
"""Folders of the machine around a virtual one or a container (9p, virtiofs, overlay) are not among them: as a rule one kernel alone uses
a database there, and it is all that there is on many laptops."""
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


def shared_file_system(path: Path) -> str | None:
    """The kind of file system that `path` is on, or would be, if machines share it over a network."""
    try:
        lines = MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    place = path.resolve()
    best, kind = -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split()
        mount = Path(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[_MOUNT_POINT]))
        if len(mount.parts) >= best and place.is_relative_to(mount):  # what is mounted later hides what was there
            best, kind = len(mount.parts), after.split()[0]
    return kind if kind in _SHARED else None


def refuse_shared(path: Path) -> None:
    """Raises UsageError for a database that must not be written where it is."""
    if (kind := shared_file_system(path)) is not None:
        text, hint = refusal(path, kind)
        raise UsageError(text, hint=hint)


def refusal(path: Path, kind: str) -> tuple[str, str]:
    """What is wrong there, and what to do."""
    return (
        f"The database {path} is on a network file system ({kind}), where SQLite's locks do not hold: it would be damaged.",
        "Name one on a disk of this machine (--db PATH), or a server that many machines may use (--db postgresql://…).",
    )


_MOUNT_POINT: Final = 4
