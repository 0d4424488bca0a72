"""`value`: a value computed from templates, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from flowllm.core.fingerprint import fingerprint
from flowllm.core.types import Json, NodeStatus
from flowllm.language.workflow import Step, ValueBody
from flowllm.steps.base import Bound, NodeContext, WorkEstimate
from flowllm.storage.base import NodeRecord


class ValueRunner:
    """Steps that only compute."""

    def bind(self, step: Step, values: Mapping[str, Json]) -> Bound:
        """Binding computes it already."""
        parts = {"kind": "value", "value": cast("ValueBody", step.body).value.render(values)}
        return Bound(step=step, key=fingerprint(parts), parts=parts, work=None)

    def work(self, bound: Bound) -> WorkEstimate:
        """None: the value is known already."""
        return WorkEstimate(output=bound.parts["value"], known=True)

    async def run(self, bound: Bound, context: NodeContext) -> NodeRecord:
        """Nothing is lost with it, so it rides with the next commit and nobody waits."""
        node = context.record(bound, NodeStatus.SUCCEEDED, output=bound.parts["value"], cost_usd=0.0)
        context.ride(node)
        return node
