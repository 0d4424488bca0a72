"""What templates see of a run: inputs, outputs of steps, and their records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowllm.result import timestamp
from flowllm.types import NodeStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowllm.store.base import NodeRecord, RunRecord
    from flowllm.types import Json


class Values:
    """Grows as nodes end. A step that did not succeed has a record, but no output: it is undefined."""

    def __init__(self, run: RunRecord) -> None:
        self.run_id = run.run_id
        started = timestamp(run.started_at) or ""
        self._steps: dict[str, Json] = {}
        self._all: dict[str, Json] = {
            "inputs": run.inputs,
            "run": {"id": run.run_id, "date": started[:10], "started_at": started},
            "steps": self._steps,
        }

    @property
    def mapping(self) -> Mapping[str, Json]:
        """As it is handed to templates; it must not be changed by them."""
        return self._all

    def add(self, node: NodeRecord) -> None:
        """A node ended."""
        self._steps[node.node_id] = _record(node)
        if node.status is NodeStatus.SUCCEEDED:
            self._all[node.node_id] = node.output


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
        "counts": None,
    }
