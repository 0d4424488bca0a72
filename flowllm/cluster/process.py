"""Ray as a run sees it: a process of its own (ray.py), which is asked over a socket, and cleared away with all that it started."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Final

import flowllm
from flowllm.cluster.base import ClusterAddress, ClusterCall, ClusterWorker
from flowllm.cluster.frames import frame, read_frame
from flowllm.core.errors import ClusterDown, PackageMissing, WorkLost
from flowllm.core.fingerprint import digest
from flowllm.core.tasks import start_task, to_the_end
from flowllm.core.types import Json, Resources

CLOSING: Final = 20.0
"""Seconds that Ray gets to end by itself."""
_LONGEST_FOLDER: Final = 40
"""Characters of a path in which Ray's sockets have room."""
_PREFIX: Final = re.compile(r"^\x1b\[\d+m(\(.*?\))\x1b\[0m ?")
"""Of a line of another process: the colour of who wrote it."""
_KNOWN: Final = "(raylet) A worker died or was killed"
"""What Ray says, at length, of processes whose end is told where it matters."""
_LOCAL: Final = {
    # The only switch by which all of Ray listens on 127.0.0.1 alone, on Linux too
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_ANY: Final = {"RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0", "RAY_TQDM": "0"}


def check_ray() -> None:
    """Raises PackageMissing without Ray."""
    if find_spec("ray") is None:
        raise PackageMissing("--cluster needs Ray, which is not installed", hint="pip install 'flowllm[ray]'")


class RayCluster:
    """A Ray cluster that one run uses. It is started, or connected to, when it is first needed."""

    def __init__(self, address: ClusterAddress, *, environ: Mapping[str, str], files: Mapping[str, str]) -> None:
        """`environ` is what processes see that are started; `files` is what travels, by path in the working folder there."""
        self._address = address
        self._environ = environ
        self._files = files
        self._told: Callable[[str], None] = lambda _: None
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._shared: set[str] = set()
        self._said: dict[int, Callable[[str], None]] = {}
        self._opening: asyncio.Task[None] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._folder: Path | None = None
        self._nodes: list[dict[str, float]] = []
        self._down: ClusterDown | None = None
        self._unmet: set[Resources] = set()

    @property
    def remote(self) -> bool:
        """See `Cluster`."""
        return not self._address.local

    def start(self, told: Callable[[str], None]) -> None:
        """See `Cluster`."""
        self._told = told
        if self._opening is None:
            self._opening = start_task(self._open())

    async def call(self, work: ClusterCall) -> bytes:
        """See `Cluster`."""
        await self._opened()
        self._check(work.resources)
        code, number = digest(work.code.decode()), next(self._numbers)
        if code not in self._shared:
            self._shared.add(code)
            self._send({"do": "share"}, work.code)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        wanted = {name: getattr(work.resources, name) for name in ("cpu", "gpu", "memory")}
        self._send(
            {
                "do": "call",
                "id": number,
                "name": work.name,
                "target": work.target,
                "code": code,
                "resources": {name: amount for name, amount in wanted.items() if amount is not None},
            },
            work.given,
        )
        try:
            found: bytes = await future
        except asyncio.CancelledError:
            self._send({"do": "cancel", "id": number})
            raise
        finally:
            self._waiting.pop(number, None)
        return found

    async def nodes(self) -> int:
        """See `Cluster`."""
        await self._opened()
        return len(self._nodes)

    async def work(self, worker: ClusterWorker, said: Callable[[str], None]) -> tuple[int, str]:
        """See `Cluster`."""
        await self._opened()
        number = next(self._numbers)
        ended = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._said[number] = said
        message = {"do": "work", "id": number, "words": list(worker.words)}
        self._send(message, json.dumps(dict(worker.environ)).encode())
        try:
            code, last = json.loads(await ended)
        finally:
            del self._waiting[number], self._said[number]
        return int(code), str(last)

    def stop_workers(self, *, cancel: bool) -> None:
        """See `Cluster`."""
        for number in self._said:
            self._send({"do": "stop", "id": number, "cancel": cancel})

    async def _opened(self) -> None:
        assert self._opening is not None  # noqa: S101 - whoever has it has started it
        await asyncio.shield(self._opening)
        if self._down is not None:
            raise self._down

    async def close(self) -> None:
        """See `Cluster`."""
        await to_the_end(self._close())

    async def _close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            with contextlib.suppress(ClusterDown, asyncio.CancelledError):
                await self._opening
        self._send({"do": "close"})
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            await asyncio.to_thread(_cleared_away, self._process)
        if self._listening is not None:
            await asyncio.wait([self._listening])
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def _check(self, wanted: Resources) -> None:
        """Raises WorkLost for what no node of a cluster has that does not grow."""
        if wanted in self._unmet or any(_fits(wanted, node) for node in self._nodes):
            return
        most = _most(self._nodes)
        if self._address.local:
            error = WorkLost(
                f"this machine does not have {wanted} (it has {most})",
                hint="ask for less, or run on a cluster that has it: --cluster ray://HOST:10001",
            )
            error.retryable = False
            raise error
        self._unmet.add(wanted)
        self._told(f"no node of the cluster has {wanted} now (the most is {most}): what needs it waits until one has")

    async def _open(self) -> None:
        """Raises ClusterDown."""
        try:
            reader = await self._started()
            message, _ = await read_frame(reader)
        except (EOFError, OSError, asyncio.IncompleteReadError):
            message = {"did": "failed", "message": "its process ended: see standard error"}
        if message["did"] == "failed":
            where = "could not be started here" if self._address.local else f"cannot be used at {self._address.text}"
            self._down = ClusterDown(f"Ray {where}: {message['message']}", hint=_HINT)
            raise self._down
        self._nodes = message["nodes"]
        self._listening = start_task(self._listen(reader))

    async def _started(self) -> asyncio.StreamReader:
        # Its sockets are in there, whose paths are short
        around = tempfile.gettempdir()
        around = around if len(around) <= _LONGEST_FOLDER else "/tmp"  # noqa: S108 - mkdtemp makes a private folder
        self._folder = Path(tempfile.mkdtemp(prefix="flowllm-ray-", dir=around))
        ours, theirs = socket.socketpair()
        environ = {**self._environ, **_ANY}
        if self._address.local:
            environ |= {**_LOCAL, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            environ.pop("RAY_ADDRESS", None)
        with theirs:
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - a fork; the words are ours
                [sys.executable, "-P", "-m", "flowllm.cluster.ray", str(theirs.fileno()), str(self._folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environ,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        threading.Thread(target=_pass_on, args=(self._process.stdout,), name="flowllm-ray", daemon=True).start()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=2**26)
        address, stage = self._address, self._folder / "stage"
        if not address.local:
            await asyncio.to_thread(_lay_out, stage, self._files)
        self._send(
            {
                "address": address.text,
                "host": address.host,
                "port": address.port,
                "folder": str(self._folder),
                "stage": str(stage / "files"),
                "package": str(stage / "flowllm"),
            }
        )
        return reader

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(EOFError, asyncio.IncompleteReadError):
            while True:
                message, data = await read_frame(reader)
                self._heard(message, data)
        self._down = ClusterDown("the connection to Ray is lost", hint=_HINT)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._down)

    def _heard(self, message: dict[str, Json], data: bytes) -> None:
        future = self._waiting.get(message["id"])
        if future is None or future.done():
            return
        match message["did"]:
            case "done":
                future.set_result(data)
            case "said":
                for line in message["lines"]:
                    self._said[message["id"]](line)
            case "worked":
                future.set_result(json.dumps([message["code"], message["said"]]).encode())
            case _:
                future.set_exception(WorkLost(message["message"], hint="`retry` says whether it is done again"))

    def _send(self, message: dict[str, Json], data: bytes = b"") -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frame(message, data))


_HINT: Final = "see that the cluster is well, then resume; `resume --cluster …` takes another one"


def _most(nodes: Sequence[Mapping[str, float]]) -> Resources:
    """Of each, as much as the node has that has most of it."""
    cpu, gpu, memory = (max((node.get(name, 0.0) for node in nodes), default=0.0) for name in ("CPU", "GPU", "memory"))
    return Resources(cpu=cpu, gpu=gpu, memory=int(memory))


def _fits(wanted: Resources, node: Mapping[str, float]) -> bool:
    asked = {"CPU": 1 if wanted.cpu is None else wanted.cpu, "GPU": wanted.gpu or 0, "memory": wanted.memory or 0}
    return all(node.get(name, 0) >= amount for name, amount in asked.items())


def _lay_out(stage: Path, files: Mapping[str, str]) -> None:
    """What travels: the workflow's files, and flowllm itself."""
    for name, text in files.items():
        path = stage / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (stage / "files").mkdir(parents=True, exist_ok=True)
    package = Path(flowllm.__file__).parent
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, stage / "flowllm", ignore=without)
    if not (package / "_migrations").exists():  # as in a checkout
        shutil.copytree(package.parent / "migrations", stage / "flowllm" / "_migrations", ignore=without)


def _pass_on(stream: IO[bytes]) -> None:
    """What functions print on the cluster, and what Ray says, goes to standard error as what they print here."""
    for raw in stream:
        line = _PREFIX.sub(r"\1 ", raw.decode(errors="replace"))
        if line.startswith(_KNOWN):
            continue
        with contextlib.suppress(OSError, ValueError):
            print(line, end="", file=sys.stderr, flush=True)  # noqa: T201


def _cleared_away(process: subprocess.Popen[bytes]) -> None:
    """Wait for it, then end whatever is left of its session, before its id can be another's."""
    ends = threading.Thread(target=os.waitid, args=(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT), daemon=True)
    ends.start()
    ends.join(CLOSING)
    if ends.is_alive():
        process.kill()
        ends.join()
    while found := session(process.pid):  # they may start others until they are gone
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    process.wait()


def session(leader: int) -> list[int]:
    """The living processes of a session, but for its leader, where the system says so."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] not in "ZX" and int(entry.parent.name) != leader:
                found.append(int(entry.parent.name))
    return found
