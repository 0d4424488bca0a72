"""Run graphs of LLM calls written in YAML: concurrent, rate-limited, durable, resumable, cached.

import flowllm

run = flowllm.run("workflows/blog.yaml", inputs={"topic": "Tea"})
print(run.outputs["headline"])
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it: typing itself takes a while to import
if TYPE_CHECKING:
    from typing import Any

    from flowllm.app import FlowLLM
    from flowllm.blocking import run
    from flowllm.engine.stop import StopSignal
    from flowllm.errors import FlowLLMError, InvalidInputs, InvalidWorkflow, StepError, StoreError, UsageError
    from flowllm.result import RunOptions, RunResult, StepResult
    from flowllm.spec.parse import load_workflow
    from flowllm.types import NodeStatus, RunStatus, Usage

__version__ = "0.1.0"

_HOMES = {
    "AskFailed": "flowllm.errors",
    "FlowLLM": "flowllm.app",
    "FlowLLMError": "flowllm.errors",
    "InvalidInputs": "flowllm.errors",
    "InvalidWorkflow": "flowllm.errors",
    "NodeStatus": "flowllm.types",
    "RunOptions": "flowllm.result",
    "RunResult": "flowllm.result",
    "RunStatus": "flowllm.types",
    "StepError": "flowllm.errors",
    "StepResult": "flowllm.result",
    "StopSignal": "flowllm.engine.stop",
    "StoreError": "flowllm.errors",
    "Usage": "flowllm.types",
    "UsageError": "flowllm.errors",
    "load_workflow": "flowllm.spec.parse",
    "run": "flowllm.blocking",
}

__all__ = [
    "AskFailed",
    "FlowLLM",
    "FlowLLMError",
    "InvalidInputs",
    "InvalidWorkflow",
    "NodeStatus",
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
