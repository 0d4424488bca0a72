"""`accept` of a foreach, its templates bound to the values there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flowllm.core.errors import TemplateFailed
from flowllm.core.types import Json
from flowllm.language.sandbox_limits import at_most
from flowllm.language.workflow import Foreach
from flowllm.runtime.foreach_state import AcceptPolicy, Ended
from flowllm.runtime.invocation import NodeInvocation

_JUDGING = 1_000_000
"""Operations of `accept.when`, which is rendered while the event loop waits."""


def accept_policy(invocation: NodeInvocation) -> AcceptPolicy | None:
    """None without `accept`. Raises StepError for a count that is not a whole number from 1."""
    foreach = invocation.step.foreach
    return None if foreach is None else bound_policy(foreach, invocation.values)


def bound_policy(foreach: Foreach, values: Mapping[str, Json]) -> AcceptPolicy | None:
    """As `accept_policy`, of a foreach and the values there are."""
    if foreach.accept is None:
        return None
    accept, name = foreach.accept, foreach.name
    count = accept.count.render(values)
    if isinstance(count, str) and count.strip().isdecimal():
        count = int(count)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise TemplateFailed(f"`accept.count` must be a whole number from 1, not {count!r}")

    def judge(ended: Ended, accepted: Sequence[Json]) -> bool:
        shown = {name: ended.item, "index": ended.place, "output": ended.output, "accepted": list(accepted)}
        with at_most(_JUDGING):
            return accept.when.condition({**values, **shown})

    return AcceptPolicy(count=count, overshoot=accept.overshoot, ordered=accept.ordered, judge=judge)
