"""The test server as a process of its own, its rules told over /control, and a load of independent calls for it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flowllm.core.types import Limits
from flowllm.language.parse import load_workflow
from flowllm.language.workflow import Workflow
from tests.support.project import as_yaml

ABOUT = "write a few sentences on how a request finds its way through a queue, and who goes first."


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What arrived at a server: monotonic seconds and what its rules said of each."""

    log: tuple[tuple[float, str], ...]
    tokens: int
    """Charged for those that were accepted."""

    def times(self, verdict: str | None = None) -> list[float]:
        """Of the requests with that verdict; None: of all."""
        return [at for at, said in self.log if verdict in (None, said)]

    def rate(self, begin: float, end: float) -> float:
        """Accepted requests a second in that span."""
        return sum(begin <= at < end for at in self.times("accepted")) / (end - begin)

    def refused_share(self, begin: float, end: float) -> float:
        """Of all that arrived in that span."""
        arrived = [said for at, said in self.log if begin <= at < end]
        return arrived.count("refused") / max(1, len(arrived))


class RemoteServer:
    """A server in another process."""

    def __init__(self, url: str) -> None:
        self.url = url

    def rule(self, **changes: Any) -> dict[str, Any]:
        """Change its rules or its latency; its counters."""
        return self._control(json.dumps(changes).encode())

    def counters(self) -> dict[str, Any]:
        return self._control(None)

    def traffic(self) -> Traffic:
        told = self._control(None, "?since=0")
        return Traffic(log=tuple((at, said) for at, said in told["log"]), tokens=told["tokens"])

    def _control(self, body: bytes | None, query: str = "") -> dict[str, Any]:
        address = self.url.removesuffix("/v1") + "/control" + query
        asking = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(asking, timeout=60) as answer:
            return json.load(answer)


@contextlib.contextmanager
def serving(*, latency: float = 0.0, **rules: Any) -> Iterator[RemoteServer]:
    """A server process for the length of a `with`."""
    command = [sys.executable, "-m", "tests.support.server", "--latency", str(latency)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        server = RemoteServer(json.loads(process.stdout.readline())["url"])
        server.rule(**rules)
        yield server
    finally:
        process.terminate()
        process.wait(10)


def independent_calls(folder: Path, name: str, url: str, count: int, limits: Limits, **step: Any) -> Workflow:
    """A workflow of that many prompts that depend on nothing, for the server at `url`."""
    path = folder / f"{name}.yaml"
    steps = {f"s{number}": {"prompt": f"{name} {number}: {ABOUT}", **step} for number in range(count)}
    whole = {
        "name": name,
        "providers": {"server": {"type": "openai", "base_url": url}},
        "defaults": {"provider": "server", "model": "test-model"},
        "steps": steps,
    }
    path.write_text(as_yaml(whole), encoding="utf-8")
    return replace(load_workflow(path), limits=limits)
