"""`shell`: a command, as it is written; what it writes to standard output is the step's output.

Values go in by standard input and the environment alone, so that no shell reads them. What the command leaves running
is killed when it has ended, and all of it when flowllm goes. The command runs in a session of its own, between two
shells that are in it too. The watcher reads from a pipe whose other end only flowllm
holds: when flowllm goes, however it goes, the pipe closes and the watcher kills the whole process group. The leader notes
the command's status and then kills the group with itself in it, so that a signal is never sent to a number that has
passed to another. What leaves its group on purpose (`setsid`, a daemon) is out of reach, and lives on.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
import tempfile
from collections.abc import Collection, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, TypeVar, cast

from flowllm.calls.single_flight import InFlightCalls
from flowllm.core.errors import ShellFailed, TemplateFailed
from flowllm.core.fingerprint import fingerprint
from flowllm.core.records import dataclass
from flowllm.core.redact import Redactor
from flowllm.core.tasks import start_task
from flowllm.core.types import Json
from flowllm.language.workflow import ShellBody, Step
from flowllm.steps.base import Bound, NodeContext, WorkEstimate
from flowllm.steps.pipeline import LocalWork, run_local, too_late
from flowllm.storage.base import NodeRecord

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
        (transport, protocol), cancels = await _surely(starting)
        leash.close(leash.read_end)
        status.close(status.write_end)
        try:
            await _until_over(transport, protocol, cancels=cancels)
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


async def _until_over(transport: asyncio.SubprocessTransport, protocol: _Watched, *, cancels: int) -> None:
    """`cancels`: how often it was cancelled while it started."""
    try:
        if not cancels:
            try:
                await protocol.over.wait()
            except asyncio.CancelledError:
                cancels = 1
        if cancels:
            _signal(transport, signal.SIGTERM)
        if cancels == 1:  # cancelled twice, it is killed at once
            with suppress(TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(protocol.exited.wait(), PATIENCE)
    finally:
        _signal(transport, signal.SIGKILL)
        _, cancels_since = await _surely(protocol.exited.wait())
    if cancels or cancels_since:
        raise asyncio.CancelledError
    if protocol.too_much:
        raise TooMuchOutput


async def _surely(work: Coroutine[object, object, T]) -> tuple[T, int]:
    """The result of what takes but an instant, and how often somebody cancelled meanwhile."""
    task, cancels = start_task(work), 0
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancels += 1
    return task.result(), cancels


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


MAX_OUTPUT = 16 * 1024 * 1024
MAX_SHOWN = 4096
"""Characters of standard error that an error shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Command:
    """What is run, with the real secrets in its environment: never stored."""

    command: str
    stdin: bytes
    env: Mapping[str, str]


class ShellRunner:
    """Steps that run a command. One of these serves a whole run."""

    def __init__(
        self, calls: InFlightCalls, secrets: Mapping[str, str], redactor: Redactor, *, private: Collection[str] = ()
    ) -> None:
        """`private` variables of the environment are not handed on."""
        self._private = private
        self._secrets = secrets
        self._redactor = redactor
        self._calls = calls
        self.slots = {"shell": 2 * (os.cpu_count() or 1)}
        """How many commands run at the same time."""

    def bind(self, step: Step, values: Mapping[str, Json]) -> Bound:
        """The command with its input and environment, once as they are and once with secrets masked, for the key."""
        body = cast("ShellBody", step.body)
        masked = {name: f"***{name}***" for name in self._secrets}
        shown = _environment(body, {**values, "secrets": masked})
        real = _environment(body, {**values, "secrets": self._secrets}) if self._secrets else shown
        self._redactor.derive(real, shown)
        stdin = "" if body.stdin is None else body.stdin.text(values)
        parts = {"kind": "shell", "command": body.command, "stdin": stdin, "env": shown}
        work = _Command(command=body.command, stdin=_bytes(stdin), env=real)
        return Bound(step=step, key=fingerprint(parts), parts=parts, work=work)

    def work(self, bound: Bound) -> WorkEstimate:
        """No requests; what it gives is known before only if it is in the cache."""
        return WorkEstimate(memo_keys=(bound.key,) if bound.step.cache.enabled else ())

    async def run(self, bound: Bound, context: NodeContext) -> NodeRecord:
        """Run it, again where the step's `retry` says so."""
        command = cast("_Command", bound.work)

        async def perform(limit: float, left: float) -> Json:
            return await self._once(command, left, limit)

        return await run_local(self._calls, LocalWork(name="shell", account="shell", perform=perform), bound, context)

    async def _once(self, command: _Command, left: float, limit: float) -> Json:
        if sys.platform == "win32":
            raise ShellFailed("`shell` steps need a POSIX system", hint="a `python` step works everywhere")
        ended = await self._ended(command, limit, attempt=limit < left)
        said = ended.errors.decode(errors="replace")
        whole = len(ended.errors) < KEPT_ERRORS
        said = self._redactor.text(said) if whole else self._redactor.partial(said, lost="start")
        said = said[-MAX_SHOWN:].strip()
        if ended.status != 0:
            raise ShellFailed(
                f"the command ended with status {ended.status}{_killed_by(ended.status)}{_last(said)}",
                answer=said or None,
            )
        try:
            text = ended.output.decode()
        except UnicodeDecodeError as error:
            raise ShellFailed(
                f"the command's output is not UTF-8 (byte {error.start + 1})", hint="encode it, such as by `| base64`"
            ) from None
        return text.removesuffix("\n")

    async def _ended(self, command: _Command, limit: float, *, attempt: bool) -> Ended:
        inherited = {name: text for name, text in os.environ.items() if name not in self._private}
        env = {**inherited, **command.env}
        try:
            async with asyncio.timeout(limit):
                return await run_command(command.command, stdin=command.stdin, env=env, most=MAX_OUTPUT)
        except TimeoutError:
            raise too_late("the command did not end", limit, "it was killed", attempt=attempt) from None
        except TooMuchOutput:
            raise ShellFailed(f"the command wrote more than {MAX_OUTPUT >> 20} MiB, and was killed") from None
        except OSError as error:
            big = error.errno == errno.E2BIG
            raise ShellFailed(
                f"the command could not be started: {error.strerror}",
                hint="give large values by `stdin`: the environment holds little" if big else "",
            ) from None
        except ValueError as error:
            raise ShellFailed(f"the command could not be started: {self._redactor.text(str(error))}") from None


def _killed_by(status: int) -> str:
    with suppress(ValueError):
        return f" (killed by {signal.Signals(status - SIGNALLED).name})"
    return ""


def _last(said: str) -> str:
    return f": {said.splitlines()[-1][:300]}" if said else ""


def _environment(body: ShellBody, values: Mapping[str, Json]) -> dict[str, str]:
    rendered = {} if body.env is None else body.env.render(values)
    texts = {}
    for name, value in rendered.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if "\0" in text:
            raise TemplateFailed(f"`env.{name}` has a NUL in it, which no environment can hold")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise TemplateFailed(f"`env.{name}` has half a character in it") from None
        texts[name] = text
    return texts


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
