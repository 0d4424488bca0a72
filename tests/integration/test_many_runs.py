"""Many runs in one FlowLLM, half of which are cancelled while they share a call."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from flowllm import FlowLLM
from flowllm.core.types import RunStatus
from flowllm.storage.monitoring import Learned

MANY = 60
WORKFLOW = """
providers: {sim: {type: simulated, latency: 100ms, limits: {max_concurrent: 100}}}
defaults: {provider: sim, model: m, max_tokens: 20}
inputs: {n: {type: string}}
steps: {shared: {prompt: The same for all}, own: {prompt: "{{ inputs.n }} of {{ shared }}"}}
"""


def test_those_that_are_cancelled_harm_no_others_and_are_given_back(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(WORKFLOW)
    draw = random.Random(7)

    before = sum(1 for _ in Path("/dev/fd").iterdir())

    async def main() -> None:
        async with FlowLLM(database=tmp_path / "runs.db") as app:
            runs = [asyncio.create_task(app.run(file, inputs={"n": str(n)})) for n in range(MANY)]
            for run in draw.sample(runs[::2], MANY // 2):
                for _ in range(draw.randrange(12)):  # some are being claimed, some have begun
                    await asyncio.sleep(0)
                run.cancel()
            open_files = 0
            while not all(run.done() for run in runs):
                open_files = max(open_files, sum(1 for _ in Path("/dev/fd").iterdir()))
                await asyncio.wait(runs, timeout=0.02)
            assert open_files < before + MANY // 2
            outcomes = await asyncio.gather(*runs, return_exceptions=True)
            assert {getattr(outcome, "status", None) for outcome in outcomes[1::2]} == {RunStatus.SUCCEEDED}
            assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[::2])
            kept = await app.store.runs(limit=MANY)
            assert {run.status for run in kept} == {RunStatus.SUCCEEDED, RunStatus.INTERRUPTED}
            resumed = next(run for run in kept if run.status is RunStatus.INTERRUPTED)
            assert (await app.resume(resumed.run_id)).status is RunStatus.SUCCEEDED
            shared = [await app.store.attempts(run.run_id) for run in kept]
            assert sum(one.node_id == "shared" for found in shared for one in found) == 1

    asyncio.run(asyncio.wait_for(main(), 60))


def test_one_that_is_cancelled_before_its_first_step_is_given_back(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(WORKFLOW)

    async def main() -> None:
        async with FlowLLM(database=tmp_path / "runs.db") as app:
            learned = app.store.learned

            async def slow(*, since: float) -> list[Learned]:
                run.cancel()
                return await learned(since=since)

            app.store.learned = slow
            run = asyncio.create_task(app.run(file, inputs={"n": "1"}))
            (outcome,) = await asyncio.gather(run, return_exceptions=True)
            assert isinstance(outcome, asyncio.CancelledError)
            (kept,) = await app.store.runs(limit=2)
            assert kept.status is RunStatus.INTERRUPTED

    asyncio.run(asyncio.wait_for(main(), 60))
