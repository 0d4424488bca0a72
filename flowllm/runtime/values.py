"""What templates see of a graph: inputs, outputs of steps, and their records."""

from __future__ import annotations

from collections.abc import Mapping

from flowllm.core.clock import timestamp
from flowllm.core.types import Json, NodeStatus, StepId
from flowllm.steps.lazy import LAZY, Lazy
from flowllm.storage.base import NodeRecord, RunRecord


def run_values(run: RunRecord) -> dict[str, str]:
    """What `run` is in templates."""
    started = timestamp(run.started_at) or ""
    return {"id": run.run_id, "date": started[:10], "started_at": started}


class Values:
    """Grows as nodes end. A step that did not succeed has a record, but no output: it is undefined."""

    def __init__(self, inputs: Mapping[str, Json], run: Mapping[str, str]) -> None:
        self._steps: dict[str, Json] = {}
        self._all: dict[str, Json] = {"inputs": inputs, "run": run, "steps": self._steps}

    @property
    def mapping(self) -> Mapping[str, Json]:
        """As it is handed to templates; it must not be changed by them."""
        return self._all

    def add(self, step: StepId, node: NodeRecord, *, rows: Json = None, lazy: Lazy | None = None) -> None:
        """A node ended. Of a foreach `rows` are its items, where a template looks at them."""
        record = self._steps[step] = _record(node)
        record["rows"] = rows
        if node.status is NodeStatus.SUCCEEDED:
            self._all[step] = node.output
            if lazy is not None:
                self._all.setdefault(LAZY, {})[step] = lazy


def _record(node: NodeRecord) -> dict[str, Json]:
    ran = node.status is NodeStatus.SUCCEEDED
    return {
        "status": node.status.value,
        "error": node.error,
        "usage": node.usage.as_dict() if ran else None,
        "model": node.model or None,
        "cached": node.cached if ran else None,
        "cost_usd": node.cost_usd,
        "rows": None,
        "counts": None if node.counts is None else node.counts.as_dict(),
    }
