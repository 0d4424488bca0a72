"""A Ray cluster of one node, for tests: it listens on 127.0.0.1, and wants a token."""

from __future__ import annotations

import contextlib
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
from dataclasses import dataclass

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


@contextlib.contextmanager
def ray_head() -> Iterator[Head]:
    """Start one; nothing of it is left afterwards."""
    folder, port, client = tempfile.mkdtemp(prefix="ray-", dir="/tmp"), free_port(), free_port()
    environ = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    words = ["--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", f"--ray-client-server-port={client}"]
    words += ["--include-dashboard=false", "--num-cpus=4", f"--object-store-memory={2**27}", f"--temp-dir={folder}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *words],
        env={**os.environ, **environ},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for each in (port, client):
            wait_for_port(each, process)
        yield Head(
            node=f"ray:127.0.0.1:{port}", client=f"ray://127.0.0.1:{client}", environ=environ, session=process.pid
        )
    finally:
        for pid in [*session(process.pid), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


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
