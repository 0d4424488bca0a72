"""A host program may have its loop make tasks as it likes: runs come to their end, and give the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowllm import FlowLLM
from flowllm.core.types import RunStatus
from tests.support.factories import FACTORIES

WORKFLOW = """
providers: {sim: {type: simulated, latency: 2ms, error_rate: 5%}}
defaults: {provider: sim, model: m, max_tokens: 20, retry: {max_attempts: 20, initial_delay: 1ms}}
steps:
  first: {prompt: One}
  posts:
    foreach: "{{ range(40) | list }}"
    workflow: {inputs: {n: }, steps: {a: {prompt: "About {{ inputs.n }}"}, b: {value: "{{ a }}"}}, outputs: {b: "{{ b }}"}}
    with: {n: "no {{ item % 20 }}"}
  vectors: {foreach: "{{ posts }}", embed: "{{ item.b }}", model: e, batch: {size: 8, max_wait: 2ms}}
  slow: {python: "./steps.py:slow", with: {many: "{{ vectors | length }}"}}
  told: {shell: "cat", stdin: "{{ slow }} {{ first }}"}
  best: {foreach: "{{ range(99) | list }}", value: "{{ item }}", accept: {when: "{{ output > 10 }}", count: 3}}
outputs: {told: "{{ told }}", best: "{{ best }}"}
"""
STEPS = """
import asyncio

async def slow(many):
    await asyncio.gather(*(asyncio.sleep(0) for _ in range(many)))
    return many
"""


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("database", ["memory:", "runs.db"])
def test_runs_end_and_are_answered_from_the_memo(
    factory: Callable[..., Any] | None, database: str, tmp_path: Path
) -> None:
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    (tmp_path / "steps.py").write_text(STEPS)
    place = database if database == "memory:" else tmp_path / database

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        async with FlowLLM(database=place) as app:
            runs = await asyncio.gather(*(app.run(tmp_path / "w.yaml") for _ in range(3)))
            runs.append(await app.run(tmp_path / "w.yaml"))
        assert [run.as_dict()["steps"] for run in runs if run.status is not RunStatus.SUCCEEDED] == []
        assert runs[0].outputs["best"] == [11, 12, 13]
        assert runs[0].outputs["told"].startswith("40 ")
        assert all(run.outputs == runs[0].outputs for run in runs)
        assert runs[3].as_dict()["requests"]["sent"] == 0

    asyncio.run(asyncio.wait_for(main(), 60))
