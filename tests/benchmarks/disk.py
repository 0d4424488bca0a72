"""What a data set and its answers take on disk."""

from __future__ import annotations

import asyncio
import json
import random

from flowllm import FlowLLM, RunOptions
from flowllm.cli.run import tuned_process
from tests.benchmarks.harness import Figure, Scale, provider_of, serving
from tests.benchmarks.server import Behaviour

ANSWER = 1_000
ROW = 1_000
_STEPS = """
inputs: {text: {type: string}}
limits: {max_concurrent: 100}
steps:
  summary: {prompt: "Summarise this. {{ inputs.text }}"}
  verdict: {prompt: "Is this well written? {{ inputs.text }}"}
outputs: {summary: "{{ summary }}", verdict: "{{ verdict }}"}
"""


def disk(scale: Scale) -> list[Figure]:
    """Rows of 1 kB through two steps, with answers of 1 kB; the database once it is closed."""
    rows = scale.of(50_000, 1_000)
    data, database = scale.folder / "rows.jsonl", scale.folder / "disk.db"
    draw = random.Random(1)
    with data.open("w") as file:
        file.writelines(json.dumps({"text": draw.randbytes(ROW // 2).hex()}) + "\n" for _ in range(rows))
    flow = scale.folder / "disk.yaml"

    async def run() -> None:
        options = RunOptions(over=str(data), output=str(scale.folder / "results.jsonl"))
        with tuned_process():
            async with FlowLLM(database=database, environ={}) as app:
                result = await app.run(flow, options=options)
        assert result.status == "succeeded", result.error

    with serving(Behaviour(answer_bytes=ANSWER)) as server:
        flow.write_text(provider_of(server) + _STEPS)
        asyncio.run(run())
    used = sum(path.stat().st_size for path in scale.folder.glob("disk.db*") if path.is_file())
    came_in = data.stat().st_size + rows * 2 * ANSWER
    note = f"{used / 1e6:,.0f} MB / {came_in / 1e6:,.0f} MB"
    return [Figure(what="database, of inputs and answers", value=used / came_in, bar=1.8, note=note, rounds=1)]
