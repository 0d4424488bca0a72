"""What the page may do with --allow-actions: go on with a run by a process of its own, and ask the process of one to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from flowllm.core.errors import RunOwned, UsageError
from flowllm.core.tasks import in_thread, start_task
from flowllm.core.types import RunId
from flowllm.storage.base import RunRecord

_SETTLED = 3.0
"""Seconds in which a command that cannot go on has said so; importing takes one."""
_SAID = 2000
"""Characters of what it said that are shown."""


class Actions:
    """Resumes and stops runs of one database."""

    def __init__(self, home: Path, url: str, *, config: str | None, environ: Mapping[str, str]) -> None:
        # By the environment, as an address may have a password, which others must not see among the processes
        self._environ = {**environ, "FLOWLLM_DATABASE_URL": url}
        self._config = () if config is None else ("--config", str(Path(config).absolute()))
        self._folder = home.with_name(f"{home.name}.output")
        self._waiting: set[asyncio.Task[int]] = set()

    async def resume(self, run: RunRecord, *, retry_failed: bool) -> Path:
        """Start `flowllm resume`, which goes on also when the page is closed; the file that has what it prints.

        Raises RunOwned for a run that goes on, UsageError with what it said if it ends at once in an error."""
        if run.going:
            raise RunOwned(f"run {run.run_id} goes on already", hint="stop it first")
        log = self._log(run.run_id)
        began = log.stat().st_size if log.exists() else 0
        words = ["resume", run.run_id, *self._config]
        process = await asyncio.to_thread(
            self._start, [*words, *(["--retry-failed"] if retry_failed else [])], log, _folder_of(run)
        )
        waiting = start_task(in_thread(process.wait))
        self._waiting.add(waiting)  # so that its end is heard, and no dead process stays
        waiting.add_done_callback(self._waiting.discard)
        done, _ = await asyncio.wait([waiting], timeout=_SETTLED)
        if done and waiting.result() not in {0, 1, 3}:  # a run that failed or paused has begun
            said = await asyncio.to_thread(log.read_bytes)
            raise UsageError(
                f"`flowllm resume {run.run_id}` could not go on",
                hint=said[began:].decode(errors="replace")[-_SAID:].strip()
                or f"it ended with exit code {waiting.result()}",
            )
        return log

    def _start(self, words: Sequence[str], log: Path, folder: Path | None) -> subprocess.Popen[bytes]:
        """Not by asyncio, which kills its processes when its loop is given up."""
        self._folder.mkdir(mode=0o700, exist_ok=True, parents=True)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return subprocess.Popen(  # noqa: S603 - flowllm itself
                [sys.executable, "-P", "-m", "flowllm", *words],  # modules of that folder are not its own
                cwd=folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,  # Ctrl-C ends the page, not the run
            )
        finally:
            os.close(descriptor)

    def _log(self, run_id: RunId) -> Path:
        return self._folder / f"{run_id}.log"

    def stop(self, run: RunRecord) -> None:
        """Ask its process to stop as Ctrl-C does: requests in flight get to finish.

        Raises UsageError where that cannot be done from here."""
        if not run.going or run.owner is None:
            raise UsageError(f"run {run.run_id} does not go on")
        if run.owner.host != socket.gethostname():
            raise UsageError(f"run {run.run_id} goes on at {run.owner.host}", hint="stop it there")
        if not _is_command(run.owner.pid):
            raise UsageError(
                f"run {run.run_id} belongs to a program that uses flowllm as a library (process {run.owner.pid})",
                hint="stop it in that program: a signal would end more than this run",
            )
        try:
            os.kill(run.owner.pid, signal.SIGINT)
        except OSError as error:
            raise UsageError(f"process {run.owner.pid} cannot be stopped: {error.strerror}") from error


def _folder_of(run: RunRecord) -> Path | None:
    """Where the run's workflow is, if it still is."""
    folder = Path(run.path).parent
    return folder if folder.is_dir() else None


def _is_command(pid: int) -> bool:
    """Whether the process is flowllm's own command, as far as the system tells."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return not Path("/proc/self").exists()
    return any(word.rsplit(b"/", 1)[-1] in {b"flowllm", b"flowllm.exe"} for word in words[:4])
