"""The outputs of a graph, from what its steps have come to."""

from __future__ import annotations

from collections.abc import Mapping

from flowllm.core.errors import StepError
from flowllm.core.types import Json, NodeId, NodeStatus, StepId
from flowllm.language.reference import Tolerance
from flowllm.language.workflow import Keep, Output
from flowllm.runtime.graph_state import GraphState


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
    if status is None or status is NodeStatus.CANCELLED:
        return False
    if tolerance is Tolerance.REQUIRED:
        return status is NodeStatus.SUCCEEDED
    if tolerance is Tolerance.OPTIONAL:
        return status in {NodeStatus.SUCCEEDED, NodeStatus.SKIPPED} or state.tolerated(node)
    return True
