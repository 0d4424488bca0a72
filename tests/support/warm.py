"""`python -m flowllm …` as a process, without the second or two that importing takes.

A server imports what every command needs, runs none of it, and forks for each process that is asked for: what comes of
that has a process of its own, its own folder, environment, streams, signals and end, as one that was started anew.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import resource
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from flowllm.cli import signals
from tests.support.failpoints import arm

ROOT = Path(__file__).resolve().parents[2]
FOREVER = 1e6
"""Seconds: more than any test takes, and less than the most that a selector waits for."""
LARGEST = 1 << 20
"""Bytes of a request: words, folder and environment."""
DIES = "DIES_AT"
"""The variable that names a point of failpoints.py."""
LARGEST_FILE = "LARGEST_FILE"
"""The variable with the bytes that a file may have: a disk that fills up."""
BEAT = "BEAT"
"""The variable with the seconds of a beat (cli/signals.py), for a loop that is held for good."""


class Forked:
    """Such a process, with what the tests use of `subprocess.Popen[str]`."""

    def __init__(self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        out, err = os.pipe(), os.pipe()
        request = json.dumps({"words": list(words), "cwd": str(cwd), "env": dict(env)}).encode()
        assert len(request) < LARGEST
        self._server = _connect()
        socket.send_fds(self._server, [request], [out[1], err[1]])
        self.pid = int(self._server.recv(32))
        for _, theirs in (out, err):
            os.close(theirs)
        self.args = words
        self.stdout, self.stderr = (os.fdopen(ours, encoding="utf-8") for ours, _ in (out, err))
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, minus the number of the signal that killed it; TimeoutExpired after so many seconds."""
        if self.returncode is None:
            if not _readable(timeout, self._server):
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = os.waitstatus_to_exitcode(int(self._server.recv(32)))
            self._server.close()
        return self.returncode

    def poll(self) -> int | None:
        """As `wait`, None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it printed, once it has ended."""
        ends = time.monotonic() + (timeout or FOREVER)
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


COMMAND = """#!{python} -IS
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
request = dict(words=sys.argv[1:], cwd=os.getcwd(), env=dict(os.environ))
socket.send_fds(server, [json.dumps(request).encode()], [1, 2, 0])
pid = int(server.recv(32))
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(pid, number))
code = os.waitstatus_to_exitcode(int(server.recv(32)))
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def command(folder: Path) -> Path:
    """An executable `flowllm` in that folder that is such a process, for scripts that have the folder in their PATH."""
    path = folder / "flowllm"
    with _connect() as server:
        address = server.getpeername()
    path.write_text(COMMAND.format(python=sys.executable, address=address), encoding="utf-8")
    path.chmod(0o755)
    return path


def _connect() -> socket.socket:
    """A connection of this process's server, for one process."""
    try:
        return _dial()
    except OSError:  # the server was killed, by a signal of a test to a process that had ended
        _server.cache_clear()
        return _dial()


def _dial() -> socket.socket:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        found.connect(_server().address)
    except OSError:
        found.close()
        raise
    return found


@dataclass(frozen=True)
class _Server:
    address: str
    life: socket.socket
    """It ends when this is closed, at the latest with this process."""


@cache
def _server() -> _Server:
    life, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    address = str(Path(tempfile.mkdtemp(prefix="flowllm-"), "warm"))
    with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as ear:
        ear.bind(address)
        ear.listen(64)
        words = [sys.executable, "-m", __name__, str(theirs.fileno()), str(ear.fileno())]
        subprocess.Popen(words, cwd=ROOT, pass_fds=[theirs.fileno(), ear.fileno()], stdin=subprocess.DEVNULL)
    return _Server(address, life)


def _serve(life: socket.socket, ear: socket.socket) -> dict[str, Any] | None:
    """Fork for each request. In the parent None at the end of the tests, in each child what it is to run."""
    alarm, bell = os.pipe()
    os.set_blocking(bell, False)
    signal.set_wakeup_fd(bell)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    living: dict[int, socket.socket] = {}
    while True:
        ready = _readable(None, life, ear, alarm)
        if alarm in ready:
            os.read(alarm, 4096)
            _tell_of_ended(living)
        if life in ready:
            return None
        if ear not in ready:
            continue
        client, _ = ear.accept()
        request, streams, _, _ = socket.recv_fds(client, LARGEST, 3)
        if not request:  # of `command`, which has only asked for the address
            client.close()
            continue
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for descriptor in (alarm, bell):
                os.close(descriptor)
            for connection in (client, *living.values()):
                connection.close()
            return {**json.loads(request), "streams": streams}
        living[pid] = client
        for descriptor in streams:
            os.close(descriptor)
        client.send(str(pid).encode())


def _readable(timeout: float | None, *files: Any) -> list[Any]:
    """Which of these can be read within so many seconds; also above 1,024, where `select` ends."""
    with selectors.DefaultSelector() as selector:
        for file in files:
            selector.register(file, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(timeout)]


def _tell_of_ended(living: dict[int, socket.socket]) -> None:
    while living and (ended := os.waitpid(-1, os.WNOHANG))[0]:
        with living.pop(ended[0]) as client, contextlib.suppress(OSError):
            client.send(str(ended[1]).encode())


def main(life: int, ear: int) -> NoReturn:
    """Import, serve; in each child: be the command."""
    for module in ("main", "run", "show", "runs", "export", "report"):
        __import__(f"flowllm.cli.{module}")
    for module in ("flowllm.storage.sql.store", "openai", "aiohttp", "jsonschema", "httpcore2", "genai_prices"):
        __import__(module)
    gc.collect()
    gc.freeze()  # children share what is here: a collection of theirs must not copy it
    with socket.socket(fileno=life) as end, socket.socket(fileno=ear) as listening:
        found = _serve(end, listening)
    if found is None:
        sys.exit()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in zip((1, 2, 0), found["streams"], strict=False):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(found["cwd"])
    os.environ.clear()
    os.environ.update(found["env"])
    sys.argv[1:] = found["words"]
    if point := os.environ.pop(DIES, ""):
        arm(point)
    if size := int(os.environ.pop(LARGEST_FILE, 0)):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write beyond it fails with EFBIG, as ENOSPC would
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    signals.BEAT = float(os.environ.pop(BEAT, signals.BEAT))  # type: ignore[misc]
    atexit._clear()  # a process of a user's has none as it starts: with some here, all modules would be taken apart at the end
    runpy.run_module("flowllm", run_name="__main__", alter_sys=True)
    raise AssertionError("the command returned")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
