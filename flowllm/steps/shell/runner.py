"""`shell`: a command, as it is written; what it writes to standard output is the step's output.

Values go in by standard input and the environment alone, so that no shell reads them. What the command leaves running
is killed when it has ended, and all of it when flowllm goes (process.py says how, and what gets away).
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from flowllm.calls.single_flight import InFlightCalls
from flowllm.core.errors import ShellFailed, TemplateFailed
from flowllm.core.fingerprint import fingerprint
from flowllm.core.redact import Redactor
from flowllm.core.types import Json
from flowllm.language.workflow import ShellBody, Step
from flowllm.steps.base import Bound, NodeContext, Work
from flowllm.steps.local import LocalWork, run_local, too_late
from flowllm.steps.shell.process import KEPT_ERRORS, SIGNALLED, Ended, TooMuchOutput, run_command
from flowllm.storage.base import NodeRecord

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

    def work(self, bound: Bound) -> Work:
        """No requests; what it gives is known before only if it is in the cache."""
        return Work(memo_keys=(bound.key,) if bound.step.cache.enabled else ())

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
                f"the command ended with status {ended.status}{_signal(ended.status)}{_last(said)}", answer=said or None
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


def _signal(status: int) -> str:
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
