"""A command as a process of its own, of which nothing outlives flowllm.

The command runs in a session of its own, between two shells that are in it too. The watcher reads from a pipe whose
other end only flowllm holds: when flowllm goes, however it goes, the pipe closes and the watcher kills the whole
process group. The leader notes the command's status and then kills the group with itself in it, so that what the
command left in the background ends with it, and so that a signal is never sent to a number that has passed to another.

What leaves its group on purpose (`setsid`, a daemon) is out of reach, and lives on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from flowllm.core.tasks import start_task

T = TypeVar("T")

KEPT_ERRORS = 64 * 1024
"""Bytes of standard error that are kept, from its end."""
PATIENCE = 1.0
"""Seconds between asking a command to end and killing it; and for the output of what has left the group."""
SIGNALLED: Final = 128
"""What a shell adds to the number of the signal that killed a command, for its status."""
_SCRIPT: Final = """trap : HUP INT TERM
( trap '' HUP INT TERM; read _ <"/dev/fd/$2"; kill -KILL 0 ) </dev/null >/dev/null 2>&1 &
/bin/sh -c "$1"
echo $? >"/dev/fd/$3"
kill -KILL 0
"""


class TooMuchOutput(Exception):
    """The command wrote more than it may; it was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What a command left behind. A `status` above 128 is mostly that of a signal."""

    output: bytes
    errors: bytes
    """The end of standard error."""
    status: int


class _Pipe:
    """Both ends, each closed once."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self._open = {self.read_end, self.write_end}

    def close(self, *ends: int) -> None:
        for end in self._open.intersection(ends or self._open):
            self._open.discard(end)
            os.close(end)


@contextmanager
def _pipes() -> Iterator[tuple[_Pipe, _Pipe]]:
    first = _Pipe()
    try:
        second = _Pipe()
        try:
            yield first, second
        finally:
            second.close()
    finally:
        first.close()


class _Watched(asyncio.SubprocessProtocol):
    """Collects what a process writes."""

    def __init__(self, most: int) -> None:
        self.output = bytearray()
        self.errors = b""
        self.too_much = False
        self.over = asyncio.Event()
        """It has ended, or wrote too much."""
        self.exited = asyncio.Event()
        self.drained = asyncio.Event()
        """Nobody can write any more."""
        self._most = most
        self._writing = {1, 2}

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd != 1:
            self.errors = (self.errors + data)[-KEPT_ERRORS:]
        elif not self.too_much:
            self.output += data
            if len(self.output) > self._most:
                self.too_much = True
                self.over.set()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._writing.discard(fd)
        if not self._writing:
            self.drained.set()

    def process_exited(self) -> None:
        self.exited.set()
        self.over.set()


async def run_command(command: str, *, stdin: bytes, env: Mapping[str, str], most: int) -> Ended:
    """Run `/bin/sh -c command` to its end; `most` is how many bytes it may write to standard output.

    Cancelled, it asks the command to end and kills it `PATIENCE` seconds later. Raises TooMuchOutput, and OSError or
    ValueError for one that cannot be started.
    """
    loop = asyncio.get_running_loop()
    # A file rather than a pipe: nobody must keep feeding a command that does not read, and /dev/stdin can be opened
    with _pipes() as (leash, status), tempfile.TemporaryFile() as file:
        file.write(stdin)
        file.seek(0)
        # asyncio may wait for ever where it is cancelled while a process starts
        starting = loop.subprocess_exec(
            lambda: _Watched(most),
            "/bin/sh",
            "-c",
            _SCRIPT,
            "sh",
            command,
            str(leash.read_end),
            str(status.write_end),
            stdin=file,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            pass_fds=(leash.read_end, status.write_end),
            start_new_session=True,
        )
        (transport, protocol), told = await _surely(starting)
        leash.close(leash.read_end)
        status.close(status.write_end)
        try:
            await _until_over(transport, protocol, told=told)
            leash.close(leash.write_end)  # what is left where somebody killed the leader
            with suppress(TimeoutError):
                await asyncio.wait_for(protocol.drained.wait(), PATIENCE)
            return Ended(
                output=bytes(protocol.output),
                errors=protocol.errors,
                status=_status(_noted(status.read_end), transport),
            )
        finally:
            transport.close()


async def _until_over(transport: asyncio.SubprocessTransport, protocol: _Watched, *, told: int) -> None:
    """`told`: how often it was cancelled while it started."""
    try:
        if not told:
            try:
                await protocol.over.wait()
            except asyncio.CancelledError:
                told = 1
        if told:
            _signal(transport, signal.SIGTERM)
        if told == 1:  # told twice to stop, it stops at once
            with suppress(TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(protocol.exited.wait(), PATIENCE)
    finally:
        _signal(transport, signal.SIGKILL)
        _, told_since = await _surely(protocol.exited.wait())
    if told or told_since:
        raise asyncio.CancelledError
    if protocol.too_much:
        raise TooMuchOutput


async def _surely(work: Coroutine[object, object, T]) -> tuple[T, int]:
    """The result of what takes but an instant, and how often somebody cancelled meanwhile."""
    task, told = start_task(work), 0
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            told += 1
    return task.result(), told


def _signal(transport: asyncio.SubprocessTransport, number: signal.Signals) -> None:
    """Send a signal to all of the group, as long as its leader is there."""
    if transport.get_returncode() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(transport.get_pid(), number)


def _noted(end: int) -> bytes:
    """What the leader wrote before it ended."""
    os.set_blocking(end, False)
    with suppress(BlockingIOError):  # it wrote nothing, and something that left the group still holds the other end
        return os.read(end, 16)
    return b""


def _status(noted: bytes, transport: asyncio.SubprocessTransport) -> int:
    """As the leader noted it; of one that was killed itself, as a shell would say it."""
    if noted.strip().isdigit():
        return int(noted)
    code = cast("int", transport.get_returncode())
    return code if code >= 0 else SIGNALLED - code
