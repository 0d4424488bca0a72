"""A kind of step that waits for a value from outside: `approve: TEXT` gives [TEXT, VALUE], or [TEXT, null] once its `due`
time has come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from flowllm.core.errors import RequestRejected
from flowllm.core.fingerprint import fingerprint
from flowllm.core.records import dataclass
from flowllm.core.types import Json, NodeStatus, StepKind
from flowllm.language import kinds as language
from flowllm.language import values as v
from flowllm.language.file_keys import StepKeys
from flowllm.language.keys import REQUIRED, Key
from flowllm.language.kinds import StepContext, StepKindSpec
from flowllm.language.template import ValueTemplate
from flowllm.language.workflow import Body, Step
from flowllm.steps import registry
from flowllm.steps.base import Bound, NodeContext, Suspend, WorkEstimate
from flowllm.storage.base import NodeRecord

APPROVE = "approve"


class ApproveKeys(StepKeys, title="approve step"):
    """Waits for a value."""

    approve = Key(v.anything, "What is to be approved; may be a template.", REQUIRED)
    due = Key(v.duration, "When it goes on without a value.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproveBody(Body):
    value: ValueTemplate
    due: float | None


def build(keys: ApproveKeys, context: StepContext) -> ApproveBody:
    return ApproveBody(value=context.compiler.value(keys.approve), due=keys.due)


class ApproveRunner:
    """Suspends each node once, under the token `RUN/NODE`."""

    def bind(self, step: Step, values: Mapping[str, Json]) -> Bound:
        parts = {"kind": APPROVE, "value": step.body.value.render(values)}
        return Bound(step=step, key=fingerprint(parts), parts=parts, work=None)

    def work(self, bound: Bound) -> WorkEstimate:
        return WorkEstimate()

    async def run(self, bound: Bound, context: NodeContext) -> NodeRecord | Suspend:
        woken, due = context.woken, bound.step.body.due
        if woken is None:
            token = f"{context.caller.lease.run_id}/{context.caller.node_id}"
            due_at = None if due is None else context.clock.now() + due
            return Suspend(kind="approval", token=token, due_at=due_at, payload=bound.parts["value"])
        if woken.value == "no":
            raise RequestRejected("it was not approved")
        output = [bound.parts["value"], woken.value]
        record = context.record(bound, NodeStatus.SUCCEEDED, output=output, cost_usd=0.0)
        await context.store.commit(nodes=[context.write(record)])
        return record


KIND = registry.StepKindPackage(
    specs=(
        StepKindSpec(key=APPROVE, kind=StepKind(APPROVE), keys=ApproveKeys, build=build, templates=(APPROVE,)),
    ),
    runner=lambda _: ApproveRunner(),
)  # fmt: skip


@contextmanager
def approval_steps() -> Iterator[None]:
    """They are known as long as this lasts."""
    registry.register(KIND)
    try:
        yield
    finally:
        language._KINDS.pop(APPROVE)
        registry._RUNNERS.pop(StepKind(APPROVE))
