"""A worker on a node of a cluster: an actor that keeps one `flowllm work` going, as a process of its own beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import flowllm
from flowllm.core.streams import next_line

PATIENCE: Final = (10.0, 1.0)
"""Seconds in which it ends once it is told to, and told not to finish what it has in flight."""


class WorkerActor:
    """Made by Ray, on a node. Killed, it takes its process along: that ends when its standard input does."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._news = asyncio.Event()
        self._stopping = asyncio.Event()
        self._cancel = False
        self._over = False

    async def work(self, words: Sequence[str], environ: Mapping[str, str]) -> tuple[int, str]:
        """Its process, from its start to its end: its exit code, and the last line that it wrote. `environ` goes over what
        the node has."""
        own = {"PYTHONPATH": str(Path(flowllm.__file__).parent.parent)}  # nothing of the working folder is in its way
        self._over, said = False, ""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "flowllm", *words),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **own, **environ},
            start_new_session=True,
        )
        ending = asyncio.ensure_future(self._end(process))
        try:
            assert process.stderr is not None  # noqa: S101 - it is a pipe
            while line := await next_line(process.stderr):
                said = line
                self._say(line)
            return await process.wait(), said
        finally:
            ending.cancel()
            self._over = True
            self._news.set()

    async def said(self) -> list[str] | None:
        """The next lines that it wrote, once there are some; None when it has ended."""
        while not self._lines and not self._over:
            await self._news.wait()
            self._news.clear()
        found, self._lines = self._lines, []
        return found or None

    async def stop(self, cancel: bool) -> None:
        """Nothing is left for it to do; `cancel`: what it has in flight is not wanted either."""
        self._cancel = cancel
        self._stopping.set()

    async def place(self) -> str:
        """Where it is."""
        return platform.node()

    def _say(self, line: str) -> None:
        self._lines.append(line)
        self._news.set()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        await self._stopping.wait()
        if process.stdin is not None:
            process.stdin.close()
        if self._cancel:
            _send(process, signal.SIGTERM)
        for number in (signal.SIGTERM, signal.SIGKILL):
            await asyncio.sleep(PATIENCE[self._cancel])
            _send(process, number)


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
