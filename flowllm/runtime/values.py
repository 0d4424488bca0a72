"""What templates see of a graph: inputs, outputs of steps, and their records; and the graph's own outputs."""

from __future__ import annotations

from collections.abc import Mapping

from flowllm.core.clock import timestamp
from flowllm.core.errors import StepError
from flowllm.core.types import Json, NodeId, NodeStatus, StepId, Tolerance
from flowllm.language.workflow import Keep, Output
from flowllm.runtime.graph_state import GraphState
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


def outputs_of(
    declared: Mapping[str, Output], state: GraphState, values: Mapping[str, Json]
) -> tuple[dict[str, Json], dict[str, Json] | None]:
    """Every output, null where a step that it needs has none; and the error of the last that could not be rendered."""
    outputs: dict[str, Json] = {}
    error: dict[str, Json] | None = None
    for name, output in declared.items():
        there = all(_there(state, NodeId(need), how) for need, how in output.edges.items())
        try:
            outputs[name] = output.value.render(values) if there else None
        except StepError as failure:
            outputs[name] = None
            error = {**failure.as_dict(), "output": name}
    return outputs, error


def keeps(keep: Keep, state: GraphState, values: Mapping[str, Json], outputs: Json) -> bool:
    """Whether a row whose graph has succeeded has a line in the output; not where a step that `keep` needs has no
    output. Raises TemplateFailed."""
    if not all(_there(state, need, how) for need, how in keep.edges.items()):
        return False
    return keep.when.condition({**values, "outputs": outputs})


def _there(state: GraphState, need: StepId | NodeId, tolerance: Tolerance) -> bool:
    """The step has come to what this reference to it puts up with."""
    node = NodeId(need)
    status = state.status.get(node)
    if status in {None, NodeStatus.CANCELLED, NodeStatus.WAITING}:
        return False
    if tolerance is Tolerance.REQUIRED:
        return status is NodeStatus.SUCCEEDED
    if tolerance is Tolerance.OPTIONAL:
        return status in {NodeStatus.SUCCEEDED, NodeStatus.SKIPPED} or state.tolerated(node)
    return True
