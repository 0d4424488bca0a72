"""How well the limiter does over real HTTP: python -m tests.benchmarks.limits [--quick] [--only a,c] [--picture FILE]

Each server is a process of its own and speaks OpenAI's API; flowllm is this process and talks to it through the
openai client, as a run does. Servers with a rate of their own are loaded at the same time, each as one more account
of one limiter. The figures stand in docs/limits.md; a full run takes about four minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowllm import FlowLLM
from flowllm.app.result import RunResult
from flowllm.core.cancel import StopSignal
from flowllm.core.clock import SystemClock
from flowllm.core.types import Limits, NodeStatus, WindowLimit
from flowllm.limits.limiter import Limiter
from tests.benchmarks.picture import draw
from tests.support.serving import RemoteServer, Traffic, independent_calls, serving

RATE = 10.0
"""Requests a second that the servers allow."""
ENOUGH = 0.85


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table."""

    what: str
    value: str
    target: str
    met: bool


class Bench:
    """One flowllm, and what all scenarios need."""

    def __init__(self, app: FlowLLM, folder: Path, *, quick: bool, together: int = 1) -> None:
        self.app = app
        self.folder = folder
        self.quick = quick
        self._ready = asyncio.Barrier(together)
        """So that nobody prepares while another is measured."""
        self.picture: str | None = None

    def long(self, seconds: float) -> float:
        """That long, or a quarter of it."""
        return seconds / 4 if self.quick else seconds

    async def all(self, server: RemoteServer, name: str, count: int, limits: Limits, **step: object) -> RunResult:
        """So many calls, to the last."""
        workflow = independent_calls(self.folder, name, server.url, count, limits, **step)
        await self._ready.wait()
        return await self.app.run(workflow)

    async def steady(
        self, server: RemoteServer, name: str, limits: Limits, *, seconds: float, change: float = 1.0
    ) -> tuple[Traffic, float]:
        """Always more to do than may be done, for so long; in the middle the server's rate is changed.

        Gives what arrived and when it began."""
        count = int(seconds * RATE * max(1.2, change))
        workflow = independent_calls(self.folder, name, server.url, count, limits)
        stop = StopSignal()
        await self._ready.wait()
        running = asyncio.ensure_future(self.app.run(workflow, stop=stop))
        while not await asyncio.to_thread(lambda: server.counters()["requests"]):
            await asyncio.sleep(0.02)
        began = time.monotonic()
        if change != 1.0:
            await asyncio.sleep(seconds / 2)
            await asyncio.to_thread(server.rule, requests_per_minute=RATE * 60 * change)
        await asyncio.sleep(began + seconds - time.monotonic())
        stop.cancel()
        await running
        return await asyncio.to_thread(server.traffic), began


@contextlib.asynccontextmanager
async def served(**how: Any) -> AsyncIterator[RemoteServer]:
    """A server process, started and stopped without holding up the loop."""
    server = serving(**how)
    found = await asyncio.to_thread(server.__enter__)
    try:
        yield found
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


async def known_limit(bench: Bench) -> list[Figure]:
    async with served(latency=0.05, requests_per_minute=600, burst=10) as server:
        limits = Limits(max_concurrent=20, requests_per_minute=600, burst=10)
        await bench.all(server, "known", 300, limits)
        traffic = await asyncio.to_thread(server.traffic)
    return [_refused("a known limit, 600 a minute, burst 10", traffic), _ideal(traffic, (300 - 10) / RATE, 0.97)]


async def strict_window(bench: Bench) -> list[Figure]:
    async with served(latency=0.05, windows=[[10, 1.0]]) as server:
        limits = Limits(max_concurrent=20, windows=(WindowLimit(requests=10, per=1.0),))
        await bench.all(server, "window", 200, limits)
        traffic = await asyncio.to_thread(server.traffic)
    return [_refused("a strict window, 10 in any second", traffic), _ideal(traffic, 19.0, 0.90)]


async def tokens(bench: Bench, charged: str) -> list[Figure]:
    per_minute = 300_000
    count = {"usage": 800, "request": 450}[charged] * (1 if bench.quick else 2)
    rules = {"tokens_per_minute": per_minute, "charged": charged, "answer_tokens": [10, 1000]}
    async with served(latency=0.5, **rules) as server:
        limits = Limits(max_concurrent=100, tokens_per_minute=per_minute, tokens_charged=charged)
        await bench.all(server, f"tokens-{charged}", count, limits, max_tokens=1000)
        traffic = await asyncio.to_thread(server.traffic)
    ideal = (traffic.tokens - per_minute) / (per_minute / 60)
    return [_refused(f"tokens a minute, charged by {charged}", traffic), _ideal(traffic, ideal, 0.90)]


async def unknown_limit(bench: Bench, *, headers: bool, change: float = 1.0) -> list[Figure]:
    kind = "with headers" if headers else "without headers"
    what = {1.0: "an unknown limit", 0.5: "one that is halved", 2.0: "one that is doubled"}[change]
    seconds = bench.long(120 if change == 1.0 else 180)
    async with served(latency=0.05, requests_per_minute=RATE * 60, burst=10, headers=headers) as server:
        name = f"unknown-{headers}-{change:g}"
        traffic, began = await bench.steady(server, name, Limits(), seconds=seconds, change=change)
    share = traffic.refused_share(began - 1, began + seconds)
    figures = [_figure(f"{what}, {kind}: 429s", f"{share:.1%}", "<= 3 %", met=share <= 0.03)]
    if change == 1.0:
        used = traffic.rate(began, began + seconds) / RATE
        return [*figures, _figure("  of the ideal rate", f"{used:.1%}", ">= 85 %", met=used >= ENOUGH)]
    if change == 0.5 and not headers:
        bench.picture = draw(traffic, began, seconds, rate=RATE, change=change)
    within = 15 if change < 1 else 60
    back = _back(traffic, began + seconds / 2, RATE * change, began + seconds)
    value = "never" if back is None else f"{back:.0f} s"
    met = back is not None and back <= within
    return [*figures, _figure("  back at 85 % within", value, f"<= {within} s", met=met)]


async def herd(bench: Bench) -> list[Figure]:
    async with served(latency=0.05, refuse=100, retry_after=False) as server:
        await bench.all(server, "herd", 100, Limits(max_concurrent=100))
        traffic = await asyncio.to_thread(server.traffic)
    retries = traffic.times()[100:]
    most = max(sum(at <= other < at + 0.1 for other in retries) for at in retries)
    refused = len(traffic.times("refused"))
    return [
        _figure("d 100 calls, all get a 429: retries", str(len(retries)), "< 150", met=len(retries) < 150),
        _figure("  in any 100 ms", str(most), "<= 30", met=most <= 30),
        _figure("  429s in all", str(refused), "100", met=refused == 100),
    ]


async def outage(bench: Bench) -> list[Figure]:
    seconds = 10.0 if bench.quick else 30.0
    async with served(latency=0.05, failing=True) as server:
        running = asyncio.ensure_future(bench.all(server, "outage", 200, Limits(max_concurrent=10)))
        while not await asyncio.to_thread(lambda: server.counters()["requests"]):
            await asyncio.sleep(0.02)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.rule, failing=False)
        mended = time.monotonic()
        run = await running
        took = time.monotonic() - mended
        traffic = await asyncio.to_thread(server.traffic)
    sent = len(traffic.times("failed"))
    nodes = sum(step.status != NodeStatus.SUCCEEDED.value for step in run.steps.values())
    return [
        _figure(f"e a server that fails for {seconds:g} s: requests", str(sent), "< 30", met=sent < 30),
        _figure("  nodes of 200 that failed", str(nodes), "0", met=nodes == 0),
        _figure("  all 200 done after its end within", f"{took:.1f} s", "-", met=True),
    ]


async def overhead(bench: Bench) -> list[Figure]:
    rounds = 5_000 if bench.quick else 50_000
    limiter = Limiter(SystemClock())
    limiter.configure("x", Limits(max_concurrent=10, requests_per_minute=1e9, tokens_per_minute=1e12), holder=1)

    async def one() -> None:
        permit = await limiter.acquire("x", tokens=100.0)
        await permit.depart()
        permit.answered({}, used=50.0)
        permit.release()

    began = time.perf_counter()
    for _ in range(rounds):
        await one()
    alone = (time.perf_counter() - began) / rounds * 1e6
    tasks = [asyncio.ensure_future(one()) for _ in range(rounds)]
    began = time.perf_counter()
    await asyncio.gather(*tasks)
    crowded = (time.perf_counter() - began) / rounds * 1e6
    limiter.close()
    return [
        _figure("f a permit, nobody waits", f"{alone:.1f} µs", "< 20 µs", met=alone < 20),
        _figure(f"  a permit, {rounds:,} wait", f"{crowded:.1f} µs", "< 60 µs", met=crowded < 60),
    ]


def _figure(what: str, value: str, target: str, *, met: bool) -> Figure:
    return Figure(what=what, value=value, target=target, met=met)


def _refused(what: str, traffic: Traffic) -> Figure:
    count = len(traffic.times("refused"))
    return _figure(f"{what}: 429s of {len(traffic.log)}", str(count), "0", met=count == 0)


def _ideal(traffic: Traffic, ideal: float, target: float) -> Figure:
    """`ideal`: seconds from the first request to the last if the limit were used to the full."""
    times = traffic.times("accepted")
    share = ideal / (max(times) - min(times))
    return _figure("  of the ideal rate", f"{share:.1%}", f">= {target:.0%}", met=share >= target)


def _back(traffic: Traffic, since: float, rate: float, end: float, span: float = 10.0) -> float | None:
    """Seconds after which a span of that length begins in which 85 % of the rate was used."""
    late = 0.0
    while since + late + span <= end:
        if traffic.rate(since + late, since + late + span) >= ENOUGH * rate:
            return late
        late += 1
    return None


PLAYED: dict[str, list[Callable[[Bench], Awaitable[list[Figure]]]]] = {
    "a": [known_limit, strict_window],
    "b": [lambda bench: tokens(bench, "usage"), lambda bench: tokens(bench, "request")],
    "c": [
        lambda bench, headers=headers, change=change: unknown_limit(bench, headers=headers, change=change)
        for change in (1.0, 0.5, 2.0)
        for headers in (True, False)
    ],
    "d": [herd],
    "e": [outage],
    "f": [overhead],
}
"""Those of one letter are played at the same time."""


async def measure(only: str, *, quick: bool) -> tuple[list[Figure], str | None]:
    """The table, and the picture if (c) was played."""
    figures: list[Figure] = []
    picture: str | None = None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with FlowLLM(database=folder / "bench.db", environ={}) as app:
            for scenarios in (PLAYED[key] for key in PLAYED if key in only):
                bench = Bench(app, folder, quick=quick, together=len(scenarios))
                for found in await asyncio.gather(*(scenario(bench) for scenario in scenarios)):
                    figures += found
                picture = bench.picture or picture
    return figures, picture


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.limits")
    parser.add_argument("--quick", action="store_true", help="a quarter of the time, a rougher figure")
    parser.add_argument("--only", default="abcdef", help="letters of the scenarios")
    parser.add_argument("--picture", type=Path, help="where to draw the run whose limit is halved")
    options = parser.parse_args()
    figures, picture = asyncio.run(measure(options.only, quick=options.quick))
    for figure in figures:
        print(f"{figure.what:<58} {figure.value:>9}   {figure.target:<8} {'' if figure.met else 'MISSED'}")
    if options.picture is not None and picture is not None:
        options.picture.write_text(picture, encoding="utf-8")
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
