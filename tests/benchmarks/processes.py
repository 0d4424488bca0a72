"""Whole processes, as one who types a command waits for them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable

from tests.benchmarks.harness import (
    FLOWLLM,
    ROOT,
    Figure,
    RemoteServer,
    Scale,
    alternately,
    process,
    ratio,
    seconds,
    serving,
    timed_run,
)
from tests.benchmarks.server import Behaviour

LATENCY = 0.5
PATH = 3
"""Calls one after another in the blog: headline, intro, outline."""
BLOG = ROOT / "workflows" / "blog.yaml"
_ONE = "defaults: {model: m}\nsteps: {ask: {prompt: What is a process?}}\n"
_SCRIPT = """
import asyncio, openai
async def main():
    async with openai.AsyncOpenAI() as client:
        message = {"role": "user", "content": "What is a process?"}
        answer = await client.chat.completions.create(model="m", messages=[message])
    print(answer.choices[0].message.content)
asyncio.run(main())
"""


def _environ(server: RemoteServer, scale: Scale) -> dict[str, str]:
    return {
        "OPENAI_BASE_URL": server.url,
        "OPENAI_API_KEY": "none",
        "FLOWLLM_DATABASE_URL": str(scale.folder / "processes.db"),
    }


def start(scale: Scale) -> list[Figure]:
    """What it takes until the prompt is back, of what importing the client alone takes."""
    (scale.folder / "one.yaml").write_text(_ONE)
    with serving(Behaviour()) as server:
        environ = _environ(server, scale)

        def took(*words: object) -> Callable[[int], float]:
            return lambda _: process(*words, cwd=scale.folder, environ=environ).seconds

        sides = (
            took("-c", "import openai"),
            took(FLOWLLM, "--help"),
            took(FLOWLLM, "validate", BLOG),
            took(FLOWLLM, "run", "one.yaml"),
            took(FLOWLLM, "run", "one.yaml", "--no-cache"),
            took("-c", _SCRIPT),
        )
        alternately(1, *reversed(sides))  # so that all is compiled, and the cached run is one
        client, *found = alternately(scale.runs * 2 + 1, *sides)
    bars = (("--help", 0.25), ("validate", 0.5), ("cached run", 1.0), ("one step over HTTP", 1.4), ("a script", None))
    return [
        Figure(what=f"{name}, of `import openai`", value=ratio(one, client), bar=bar, note=seconds(one, client))
        for (name, bar), one in zip(bars, found, strict=True)
    ]


def blog(scale: Scale) -> list[Figure]:
    """The blog's four calls against a script of the same calls, and a run by itself against its longest path."""
    told: list[float] = []
    with serving(Behaviour(latency=LATENCY)) as server:
        environ = _environ(server, scale)

        def flow(_: int) -> float:
            spent = process(FLOWLLM, "run", BLOG, "--no-cache", "--json", cwd=scale.folder, environ=environ)
            told.append(json.loads(spent.out)["duration_s"])
            return spent.seconds

        def script(_: int) -> float:
            return process("-m", "tests.benchmarks.bare_blog", cwd=ROOT, environ=environ).seconds

        def within(_: int) -> float:
            return timed_run(scale.folder / "blog.db", BLOG.read_text(), environ=environ, no_cache=True)

        alternately(1, flow, script, within)
        told.clear()
        flows, scripts, runs = alternately(scale.runs, flow, script, within)
    path = PATH * LATENCY
    of_path = statistics.median(runs) / path
    return [
        Figure(
            what="whole process, of a bare script", value=ratio(flows, scripts), bar=1.1, note=seconds(flows, scripts)
        ),
        Figure(what="a run, of its critical path", value=of_path, bar=1.03, note=f"{seconds(runs)} / {path:g} s"),
        Figure(what="the same in a new process, as it tells it", value=statistics.median(told) / path),
    ]
