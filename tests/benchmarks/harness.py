"""What the workloads share: how much is measured, in which order, the server, runs in this process, and processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flowllm import FlowLLM, RunOptions
from flowllm.cli.run import tuned_process
from tests.benchmarks.server import Behaviour

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
FLOWLLM = Path(sys.executable).with_name("flowllm")
"""The command, as it is installed beside this Python."""
LIMIT = 900.0
"""Seconds after which a process counts as hung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured."""

    runs: int
    quick: bool
    folder: Path
    """For files and databases; it is on the disk that is measured."""

    def of(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table."""

    what: str
    value: float | None
    """None: it could not be measured, for the reason in `note`; no bar is met then."""
    unit: str = "×"
    bar: float | None = None
    least: bool = False
    """The bar is the least that the value may be, not the most."""
    note: str = ""
    """What the value was made of."""
    rounds: int = 0
    """Whose median the value is; 0: as many as were asked for."""

    def met(self, slack: float = 1.0) -> bool:
        """Whether the value is within the bar, or within so many times the bar."""
        if self.value is None or self.bar is None:
            return self.bar is None
        return self.value >= self.bar / slack if self.least else self.value <= self.bar * slack

    @property
    def is_ratio(self) -> bool:
        """It means the same on every machine."""
        return self.unit in ("×", "%")


def played(workload: Callable[[Scale], list[Figure]], scale: Scale) -> list[Figure]:
    """The figures of one workload; or what it broke on, for which no bar is met: others are measured all the same."""
    try:
        return workload(scale)
    except Exception as error:  # noqa: BLE001 - of any kind, and not every kind can be sent to another process
        traceback.print_exc()
        return [Figure(what="broke", value=None, bar=0, note=str(error).partition("\n")[0])]


def alternately(runs: int, *sides: Callable[[int], T]) -> list[list[T]]:
    """What each side gives in every round: A B A B, so that what happens to the machine happens to both."""
    found: list[list[T]] = [[] for _ in sides]
    for number in range(runs):
        for side, values in zip(sides, found, strict=True):
            values.append(side(number))
    return found


def ratio(of: list[float], to: list[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def seconds(*values: list[float]) -> str:
    """Medians, as a note: `1.20 s / 1.10 s`."""
    return " / ".join(f"{statistics.median(one):.3g} s" for one in values)


class RemoteServer:
    """The benchmark's server, in a process of its own."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self._control = f"http://127.0.0.1:{port}/control"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def counters(self) -> dict[str, Any]:
        with self._opener.open(self._control, timeout=60) as answer:
            return json.load(answer)

    def begin_anew(self, behaviour: Behaviour) -> None:
        """Forget what was cached and counted, and behave like that."""
        with self._opener.open(self._control, data=behaviour.as_json().encode(), timeout=60) as answer:
            answer.read()


@contextlib.contextmanager
def serving(behaviour: Behaviour) -> Iterator[RemoteServer]:
    """A server process for the length of a `with`."""
    command = [sys.executable, "-m", "tests.benchmarks.server", behaviour.as_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            yield RemoteServer(int(process.stdout.readline()))
        finally:
            process.terminate()


def provider_of(server: RemoteServer) -> str:
    """The head of a workflow that asks that server."""
    return (
        f'providers: {{bench: {{type: openai, base_url: "{server.url}"}}}}\ndefaults: {{provider: bench, model: m}}\n'
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """Seconds of a run, from the call of the library, loading included, to its result."""

    seconds: float
    cpu: float
    """Of all threads."""


async def _run(
    database: Path, text: str, *, environ: Mapping[str, str] | None = None, no_cache: bool = False, **inputs: Any
) -> Took:
    file = database.with_suffix(".yaml")
    file.write_text(text, encoding="utf-8")
    with tuned_process():
        async with FlowLLM(database=database, environ=environ or {}) as app, asyncio.timeout(LIMIT):
            began, cpu = time.perf_counter(), time.process_time()
            result = await app.run(file, inputs=inputs, options=RunOptions(no_cache=no_cache))
            took = Took(seconds=time.perf_counter() - began, cpu=time.process_time() - cpu)
    assert result.status == "succeeded", result.error or [one.error for one in result.steps.values() if one.error][:1]
    return took


def run(database: Path, text: str, **how: Any) -> Took:
    """Run a workflow in this process, with keyword arguments for its inputs."""
    return asyncio.run(_run(database, text, **how))


def timed_run(database: Path, text: str, **how: Any) -> float:
    """Seconds that `run` takes."""
    return run(database, text, **how).seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a process took."""

    seconds: float
    peak_mib: float
    out: bytes


def process(*words: object, cwd: Path, environ: Mapping[str, str] | None = None) -> Spent:
    """Run Python with these words to its end, which must be a good one."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    settings = {**kept, **(environ or {})}
    command = [sys.executable, *map(str, words)]
    with tempfile.TemporaryFile("w+") as told:
        began = time.perf_counter()
        child = subprocess.Popen(
            command, cwd=cwd, env=settings, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=told
        )
        assert child.stdout is not None
        out = child.stdout.read()
        child.stdout.close()
        _, status, used = os.wait4(child.pid, 0)
        took = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        assert child.returncode == 0, (words, told.read()[-2000:])
    return Spent(seconds=took, peak_mib=used.ru_maxrss / 1024, out=out)
