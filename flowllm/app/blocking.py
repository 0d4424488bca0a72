"""Runs for code that has no event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from flowllm.app.flowllm import FlowLLM
from flowllm.app.result import RunResult
from flowllm.core.errors import UsageError
from flowllm.core.types import Json
from flowllm.language.workflow import Workflow
from flowllm.reporting.base import Observer
from flowllm.runtime.options import RunOptions


def run(
    workflow: str | Path | Workflow,
    *,
    inputs: Mapping[str, Json] | None = None,
    options: RunOptions | None = None,
    database: str | Path | None = None,
    config: str | Path | None = None,
    observers: Sequence[Observer] = (),
) -> RunResult:
    """Run a workflow from code that has no event loop; see FlowLLM.run.

    Raises UsageError when called inside of a running loop: there, use FlowLLM.
    """
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise UsageError(
            "flowllm.run() was called inside of a running event loop",
            hint="there, use `async with FlowLLM() as app: await app.run(…)`",
        )

    async def go() -> RunResult:
        async with FlowLLM(database=database, config=config) as app:
            return await app.run(workflow, inputs=inputs, options=options, observers=observers)

    return asyncio.run(go())
