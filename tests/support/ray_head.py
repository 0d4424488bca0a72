"""A Ray cluster of one node, for the tests of all processes: it listens on 127.0.0.1, and wants a token."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from flowllm.cluster.process import session

STARTS = 120.0
"""Seconds after which a test counts as hung."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The cluster."""

    node: str
    """Its address for what is on one of its nodes."""
    client: str
    """And for what is not."""
    environ: Mapping[str, str]
    session: int
    """The id of the session of its processes."""
    folder: str


@contextlib.contextmanager
def ray_head() -> Iterator[Head]:
    """The one of this run of the tests: whoever comes first starts it, and whoever is last ends it."""
    name = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"{os.getpid()}")
    path = Path(tempfile.gettempdir(), f"flowllm-head-{name[:16]}.json")
    with _locked(path) as file:
        state = json.loads(file.read() or "{}")
        head = Head(**state["head"]) if state.get("users") else started()
        _write(file, {"head": asdict(head), "users": state.get("users", 0) + 1})
    try:
        yield head
    finally:
        with _locked(path) as file:
            users = json.loads(file.read())["users"] - 1
            _write(file, {"head": asdict(head), "users": users})
            if not users:
                end(head)
                path.unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[object]:
    """The file, which is there and the only one of that name until it is let go."""
    while True:
        with path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                file.seek(0)
                yield file
                return


def _write(file, state) -> None:
    file.truncate(0)
    file.write(json.dumps(state))
    file.flush()


def started() -> Head:
    folder, port, client = tempfile.mkdtemp(prefix="ray-", dir="/tmp"), free_port(), free_port()
    environ = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_prestart_worker_first_driver": "0",
    }
    words = ["--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", f"--ray-client-server-port={client}"]
    words += ["--include-dashboard=false", "--num-cpus=2", f"--object-store-memory={2**27}", f"--temp-dir={folder}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *words],
        env={**os.environ, **environ},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    head = Head(
        node=f"ray:127.0.0.1:{port}",
        client=f"ray://127.0.0.1:{client}",
        environ=environ,
        session=process.pid,
        folder=folder,
    )
    try:
        for each in (port, client):
            wait_for_port(each, process)
    except BaseException:
        end(head)
        raise
    return head


def end(head: Head) -> None:
    """Nothing of it is left."""
    while pids := session(head.session) or [pid for pid in [head.session] if alive(pid)]:
        for pid in [head.session, *pids]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    shutil.rmtree(head.folder, ignore_errors=True)


def alive(pid: int) -> bool:
    """It runs; what has ended and waits for its parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + STARTS
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise AssertionError("Ray did not start")
