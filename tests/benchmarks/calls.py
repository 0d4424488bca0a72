"""Many calls at once, against a bare loop that keeps nothing.

The loop is asyncio with the same openai client (aiohttp), connection pool and a semaphore, in the same process; what
flowllm is measured with is its library, on a database on disk.
"""

from __future__ import annotations

import asyncio
import statistics
import time

from openai import AsyncOpenAI, DefaultAioHttpClient

from tests.benchmarks.harness import (
    FLOWLLM,
    Figure,
    RemoteServer,
    Scale,
    alternately,
    process,
    provider_of,
    ratio,
    seconds,
    serving,
    timed_run,
)
from tests.benchmarks.server import Behaviour

IN_FLIGHT = 100
_CALLS = """
inputs: {{n: {calls}}}
limits: {{max_concurrent: {width}}}
steps:
  ask: {{foreach: "{{{{ range(inputs.n) | list }}}}", prompt: "{salt} What is number {{{{ item }}}}?"}}
"""


async def bare(url: str, calls: int, salt: str) -> float:
    """Seconds that the loop takes."""
    places = asyncio.Semaphore(IN_FLIGHT)
    async with AsyncOpenAI(api_key="none", base_url=url, max_retries=0, http_client=DefaultAioHttpClient()) as client:

        async def ask(number: int) -> str | None:
            async with places:
                answer = await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": f"{salt} What is number {number}?"}]
                )
            return answer.choices[0].message.content

        began = time.perf_counter()
        answers = await asyncio.gather(*(ask(number) for number in range(calls)))
        assert len(answers) == calls
        return time.perf_counter() - began


def _against_the_loop(
    scale: Scale, server: RemoteServer, calls: int, runs: int
) -> tuple[list[float], list[float], list[float]]:
    """Seconds of the loop, of a run, and of the same run again from the cache."""
    database = scale.folder / "calls.db"

    def flow(salt: object, calls: int = calls) -> float:
        return timed_run(database, provider_of(server) + _CALLS.format(width=IN_FLIGHT, salt=salt, calls=calls))

    asyncio.run(bare(server.url, 50, "warm"))
    flow("warm", 50)
    loops, durable, again = alternately(
        runs, lambda number: asyncio.run(bare(server.url, calls, f"B{number}")), flow, flow
    )
    return loops, durable, again


def slow_calls(scale: Scale) -> list[Figure]:
    """Calls of 200 ms, and the same again from the cache."""
    calls = 1_000
    with serving(Behaviour(latency=0.2)) as server:
        loop, durable, again = _against_the_loop(scale, server, calls, scale.runs)
    return [
        Figure(what="time, of the bare loop", value=ratio(durable, loop), bar=1.03, note=seconds(durable, loop)),
        Figure(what="the same again, cached", value=statistics.median(again), unit="s", bar=0.1),
    ]


def quick_calls(scale: Scale) -> list[Figure]:
    """Calls of 0 ms, as fast as they go; the memory is that of `flowllm run`."""
    calls = scale.of(10_000, 2_000)
    with serving(Behaviour()) as server:
        file = scale.folder / "process.yaml"
        file.write_text(provider_of(server) + _CALLS.format(width=IN_FLIGHT, salt="memory", calls=calls))
        environ = {"FLOWLLM_DATABASE_URL": str(scale.folder / "process.db")}
        spent = process(FLOWLLM, "run", file, "--quiet", cwd=scale.folder, environ=environ)
        loop, durable, again = _against_the_loop(scale, server, calls, scale.runs)
    rates = f"{calls / statistics.median(durable):,.0f} / {calls / statistics.median(loop):,.0f} calls/s"
    return [
        Figure(what="calls a second, of the bare loop", value=ratio(loop, durable), bar=1, least=True, note=rates),
        Figure(what="memory", value=spent.peak_mib, unit="MiB", bar=130),
        Figure(what="a call again, cached", value=statistics.median(again) / calls * 1e6, unit="µs"),
    ]
