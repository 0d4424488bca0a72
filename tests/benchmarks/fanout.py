"""Speed of fan-out, against a bare loop that keeps nothing: python -m tests.benchmarks [RUNS] [NAMES…]

The loop is asyncio with the same openai client (aiohttp), connection pool and a semaphore, in the same process and
measurement; each figure is the median of RUNS. What flowllm is measured with is its library, on a database on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flowllm import FlowLLM, RunOptions
from flowllm.cli.run import tuned_process

ROOT = Path(__file__).parents[2]
IN_FLIGHT = 100
CALLS = """
inputs: {{n: 1}}
providers: {{quick: {{type: openai, base_url: "http://127.0.0.1:{port}/v1"}}}}
defaults: {{provider: quick, model: m}}
limits: {{max_concurrent: {width}}}
steps:
  ask:
    foreach: "{{{{ range(inputs.n) | list }}}}"
    prompt: "{salt} What is number {{{{ item }}}}?"
"""
VALUES = """
inputs: {n: 1}
steps:
  compute:
    foreach: "{{ range(inputs.n) | list }}"
    value: {number: "{{ item }}", text: "item {{ item }} of {{ inputs.n }}"}
"""


@contextlib.contextmanager
def quick_server(latency: float) -> Iterator[int]:
    """The port of a server that answers after so many seconds."""
    command = [sys.executable, "-m", "tests.benchmarks.quick_server", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


async def bare(port: int, calls: int, salt: str) -> float:
    """Seconds that the loop takes."""
    from openai import AsyncOpenAI, DefaultAioHttpClient

    places = asyncio.Semaphore(IN_FLIGHT)
    async with AsyncOpenAI(
        api_key="none", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0, http_client=DefaultAioHttpClient()
    ) as client:

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


async def flow(folder: Path, text: str, n: int) -> float:
    """Seconds that a run takes, from the call of the library to its result."""
    file = folder / "flow.yaml"
    file.write_text(text)
    with tuned_process():
        async with FlowLLM(database=folder / "x.db") as app:
            began = time.perf_counter()
            result = await app.run(file, inputs={"n": n}, options=RunOptions())
            took = time.perf_counter() - began
    counts = next(iter(result.steps.values())).counts
    assert counts is not None
    assert counts["succeeded"] == n, result.error
    return took


def median(runs: int, once: Callable[[int], float]) -> float:
    return statistics.median(once(number) for number in range(runs))


def against_the_loop(calls: int, latency: float, runs: int) -> tuple[float, float, float]:
    """Seconds of the loop, of a run, and of the same run again from the cache."""
    with quick_server(latency) as port, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = [CALLS.format(port=port, width=IN_FLIGHT, salt=f"S{number}") for number in range(runs)]
        asyncio.run(bare(port, 50, "warm"))
        asyncio.run(flow(folder, CALLS.format(port=port, width=IN_FLIGHT, salt="warm"), 50))
        loops, durable, again = [], [], []
        for number, text in enumerate(texts):
            loops.append(asyncio.run(bare(port, calls, f"B{number}")))
            durable.append(asyncio.run(flow(folder, text, calls)))
            again.append(asyncio.run(flow(folder, text, calls)))
    return statistics.median(loops), statistics.median(durable), statistics.median(again)


def slow_calls(runs: int) -> dict[str, float]:
    """1,000 items of 200 ms at 100 in flight."""
    loop, durable, again = against_the_loop(1000, 0.2, runs)
    return {"loop_s": loop, "durable_s": durable, "ratio": durable / loop, "again_s": again}


def quick_calls(runs: int) -> dict[str, float]:
    """10,000 calls of 0 ms at 100 in flight."""
    loop, durable, again = against_the_loop(10_000, 0.0, runs)
    return {
        "loop_calls_s": 10_000 / loop,
        "durable_calls_s": 10_000 / durable,
        "share": loop / durable,
        "again_s": again,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def values(runs: int) -> dict[str, float]:
    """10,000 `value` items, durable."""

    def once(_: int) -> float:
        with tempfile.TemporaryDirectory() as name:
            return asyncio.run(flow(Path(name), VALUES, 10_000))

    once(0)
    return {"us_an_item": median(runs, once) / 10_000 * 1e6}


BENCHMARKS: dict[str, Callable[[int], dict[str, float]]] = {
    "slow_calls": slow_calls,
    "quick_calls": quick_calls,
    "values": values,
}


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for name in sys.argv[2:] or BENCHMARKS:
        found = BENCHMARKS[name](runs)
        print(json.dumps({"benchmark": name, **{key: round(value, 4) for key, value in found.items()}}), flush=True)


if __name__ == "__main__":
    main()
