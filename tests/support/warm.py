"""`python -m flowllm …` as a process, without the second or two that importing takes.

A server imports what every command needs, runs none of it, and forks for each process that is asked for: what comes of
that has a process of its own, its own folder, environment, streams, signals and end, as one that was started anew.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from tests.support.failpoints import arm

ROOT = Path(__file__).resolve().parents[2]
LARGEST = 1 << 20
"""Bytes of a request: words, folder and environment."""
DIES = "DIES_AT"
"""The variable that names a point of failpoints.py."""


class Forked:
    """Such a process, with what the tests use of `subprocess.Popen[str]`."""

    def __init__(self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        out, err, self._status = os.pipe(), os.pipe(), os.pipe()
        request = json.dumps({"words": list(words), "cwd": str(cwd), "env": dict(env)}).encode()
        assert len(request) < LARGEST
        with _lock:
            try:
                self.pid = _fork(request, [out[1], err[1], self._status[1]])
            except (OSError, ValueError):  # the server was killed, by a signal of a test to a process that had ended
                _server.cache_clear()
                self.pid = _fork(request, [out[1], err[1], self._status[1]])
        for _, theirs in (out, err, self._status):
            os.close(theirs)
        self.args = words
        self.stdout, self.stderr = (os.fdopen(ours, encoding="utf-8") for ours, _ in (out, err))
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, minus the number of the signal that killed it; TimeoutExpired after so many seconds."""
        if self.returncode is None:
            if not select.select([self._status[0]], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = os.waitstatus_to_exitcode(int(os.read(self._status[0], 32)))
            os.close(self._status[0])
        return self.returncode

    def poll(self) -> int | None:
        """As `wait`, None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it printed, once it has ended."""
        ends = time.monotonic() + (timeout or 1e9)
        said = ["", ""]

        def read(number: int, stream: Any) -> None:
            said[number] = "" if stream.closed else stream.read()

        readers = [
            threading.Thread(target=read, args=one, daemon=True) for one in enumerate((self.stdout, self.stderr))
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(max(ends - time.monotonic(), 0))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(max(ends - time.monotonic(), 0))
        return said[0], said[1]

    def send_signal(self, number: int) -> None:
        """Nothing if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)


_lock = threading.Lock()


@cache
def _server() -> socket.socket:
    """One for this process; it ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
    return ours


def _fork(request: bytes, streams: list[int]) -> int:
    """The new process's id."""
    socket.send_fds(_server(), [request], streams)
    return int(_server().recv(32))


def _serve(ear: socket.socket) -> dict[str, Any] | None:
    """Fork for each request. In the parent None at the end of the tests, in each child what it is to run."""
    alarm, bell = os.pipe()
    os.set_blocking(bell, False)
    signal.set_wakeup_fd(bell)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    living: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([ear, alarm], [], [])
        if alarm in ready:
            os.read(alarm, 4096)
            while living and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                told = living.pop(ended[0])
                os.write(told, str(ended[1]).encode())
                os.close(told)
        if ear not in ready:
            continue
        request, streams, _, _ = socket.recv_fds(ear, LARGEST, 3)
        if not request:
            return None
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for descriptor in (alarm, bell, streams[2], *living.values()):
                os.close(descriptor)
            return {**json.loads(request), "streams": streams[:2]}
        living[pid] = streams[2]
        for descriptor in streams[:2]:
            os.close(descriptor)
        ear.send(str(pid).encode())


def main(ear: int) -> NoReturn:
    """Import, serve; in each child: be the command."""
    for module in ("run", "show", "runs"):
        __import__(f"flowllm.cli.{module}")
    for module in ("flowllm.storage.sqlite.store", "openai", "aiohttp", "jsonschema"):
        __import__(module)
    with socket.socket(fileno=ear) as listening:
        found = _serve(listening)
    if found is None:
        sys.exit()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(found["streams"], start=1):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(found["cwd"])
    os.environ.clear()
    os.environ.update(found["env"])
    sys.argv[1:] = found["words"]
    if point := os.environ.pop(DIES, ""):
        arm(point)
    runpy.run_module("flowllm", run_name="__main__", alter_sys=True)
    raise AssertionError("the command returned")


if __name__ == "__main__":
    main(int(sys.argv[1]))
