"""Run graphs of LLM calls written in YAML: concurrent, rate-limited, durable, resumable, cached.

import flowllm

run = flowllm.run("workflows/blog.yaml", inputs={"topic": "Tea"})
print(run.outputs["headline"])
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it: typing itself takes a while to import
if TYPE_CHECKING:
    from typing import Any

    from flowllm.app.flowllm import FlowLLM, run
    from flowllm.app.result import RunResult, StepResult
    from flowllm.app.settings import load_workflow
    from flowllm.core.cancel import StopSignal
    from flowllm.core.errors import (
        AskFailed,
        FlowLLMError,
        InvalidInputs,
        InvalidWorkflow,
        PackageMissing,
        RunFailed,
        StepError,
        StoreError,
        UsageError,
    )
    from flowllm.core.types import NodeStatus, RunStatus, Usage
    from flowllm.runtime.options import RunOptions

__version__ = "0.1.0"

_HOMES = {
    "AskFailed": "flowllm.core.errors",
    "FlowLLM": "flowllm.app.flowllm",
    "FlowLLMError": "flowllm.core.errors",
    "InvalidInputs": "flowllm.core.errors",
    "InvalidWorkflow": "flowllm.core.errors",
    "NodeStatus": "flowllm.core.types",
    "PackageMissing": "flowllm.core.errors",
    "RunFailed": "flowllm.core.errors",
    "RunOptions": "flowllm.runtime.options",
    "RunResult": "flowllm.app.result",
    "RunStatus": "flowllm.core.types",
    "StepError": "flowllm.core.errors",
    "StepResult": "flowllm.app.result",
    "StopSignal": "flowllm.core.cancel",
    "StoreError": "flowllm.core.errors",
    "Usage": "flowllm.core.types",
    "UsageError": "flowllm.core.errors",
    "load_workflow": "flowllm.app.settings",
    "run": "flowllm.app.flowllm",
}

__all__ = [
    "AskFailed",
    "FlowLLM",
    "FlowLLMError",
    "InvalidInputs",
    "InvalidWorkflow",
    "NodeStatus",
    "PackageMissing",
    "RunFailed",
    "RunOptions",
    "RunResult",
    "RunStatus",
    "StepError",
    "StepResult",
    "StopSignal",
    "StoreError",
    "Usage",
    "UsageError",
    "load_workflow",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `flowllm --help` need not load everything."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - see above

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
