"""What a cluster does for a run, and how its address is written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from flowllm.core.errors import UsageError
from flowllm.core.records import dataclass
from flowllm.core.types import Resources

LOCAL: Final = "local"
"""A cluster of this machine alone, started for the run and stopped with it."""
AUTO: Final = "auto"
"""The cluster that this machine is a node of."""
_ADDRESS: Final = re.compile(r"(?P<host>[A-Za-z0-9_.-]+|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAddress:
    """Where a Ray cluster is."""

    text: str
    """As Ray takes it."""
    host: str = ""
    port: int = 0

    @property
    def local(self) -> bool:
        """It is of this machine alone."""
        return self.text == LOCAL


def cluster_address(given: str) -> ClusterAddress:
    """`ray`, `ray://HOST:PORT` (from outside of the cluster), `ray:HOST:PORT` or `ray:auto` (from one of its nodes). Raises
    UsageError."""
    if given == "ray":
        return ClusterAddress(text=LOCAL)
    if given == "ray:auto":
        return ClusterAddress(text=AUTO)
    match = _ADDRESS.fullmatch(given.removeprefix("ray://").removeprefix("ray:"))
    if not given.startswith("ray:") or match is None or not 0 < int(match["port"]) < 2**16:
        raise UsageError(
            f"{given!r} is no cluster",
            hint="write `ray` for one of this machine alone, ray://HOST:10001 for one that others started, or ray:HOST:6379 "
            "(ray:auto) from one of its nodes",
        )
    text = given if given.startswith("ray://") else given.removeprefix("ray:")
    return ClusterAddress(text=text, host=match["host"].strip("[]"), port=int(match["port"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterCall:
    """A function that is called on a node."""

    name: str
    """What it is called where the cluster shows it."""
    target: str
    """`module:function` of flowllm, which takes `code` and `given` and gives bytes."""
    code: bytes
    """The same for many calls: it is sent once."""
    given: bytes
    resources: Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterWorker:
    """A worker that is to be on a node."""

    words: Sequence[str]
    """Of its command, `flowllm …`."""
    environ: Mapping[str, str]
    """Variables of its environment besides those of its node; they travel as an argument, so that nothing shows or keeps them."""


class Cluster(Protocol):
    """Machines that work for one run."""

    @property
    def remote(self) -> bool:
        """Its nodes may have other disks than this machine."""
        ...

    def start(self, told: Callable[[str], None]) -> None:
        """Begin to start it or to connect to it, in the background; `told` hears what people should read."""
        ...

    async def call(self, work: ClusterCall) -> bytes:
        """What the function gives. Cancelled, it is interrupted there, and ended five seconds later.

        Raises WorkLost if it did not come to its end, ClusterDown if there is no cluster (any more).
        """
        ...

    async def nodes(self) -> int:
        """How many nodes it has. Raises ClusterDown."""
        ...

    async def work(self, worker: ClusterWorker, said: Callable[[str], None]) -> tuple[int, str]:
        """Have a worker on one of its nodes, which is started again where that dies, until its process ends: its exit code,
        and the last line that it wrote. `said` hears all of them. Raises ClusterDown."""
        ...

    def stop_workers(self, *, cancel: bool) -> None:
        """Nothing is left for them to do; `cancel`: what they have in flight is not wanted either."""
        ...

    async def close(self) -> None:
        """What is under way there is over, and nothing of it is left on this machine."""
        ...


def travelling(files: Collection[str]) -> dict[str, str]:
    """Files as they lie in the working folder of another machine: path there by absolute path here."""
    root = os.path.commonpath([os.path.dirname(path) for path in files] or ["/"])  # noqa: PTH120 - text only
    return {path: Path(os.path.relpath(path, root)).as_posix() for path in files}
