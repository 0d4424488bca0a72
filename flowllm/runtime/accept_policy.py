"""A foreach before its first item: how many may fail, and `accept` with its templates bound to the values there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flowllm.core.errors import TemplateFailed
from flowllm.core.types import Json, OnError
from flowllm.language.sandbox_limits import at_most
from flowllm.language.workflow import Foreach, Step
from flowllm.runtime.foreach_state import AcceptPolicy, Ended, FailureTolerance, ForeachState

_JUDGING = 1_000_000
"""Operations of `accept.when`, which is rendered while the event loop waits."""


def foreach_state(step: Step, values: Mapping[str, Json], *, window: int, total: int | None) -> ForeachState:
    """The state of a step's foreach before its first item; of a step without one, whose items are the rows of a data set,
    too. `window` is the most items in flight, `total` how many there are, None while that is not known.

    Raises StepError for an `accept.count` that is not a whole number from 1.
    """
    foreach = step.foreach
    return ForeachState(
        window=window,
        policy=None if foreach is None else _policy(foreach, values),
        tolerated=FailureTolerance(
            forgiven=step.on_error is OnError.CONTINUE,
            most=None if foreach is None else foreach.max_failed,
            share=None if foreach is None else foreach.max_failed_share,
        ),
        total=total,
    )


def _policy(foreach: Foreach, values: Mapping[str, Json]) -> AcceptPolicy | None:
    if foreach.accept is None:
        return None
    accept, name = foreach.accept, foreach.name
    count = accept.count.render(values)
    if isinstance(count, str) and count.strip().isdecimal():
        count = int(count)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise TemplateFailed(f"`accept.count` must be a whole number from 1, not {count!r}")

    def judge(ended: Ended, accepted: Sequence[Json]) -> bool:
        shown = {name: ended.item, "index": ended.index, "output": ended.output, "accepted": list(accepted)}
        with at_most(_JUDGING):
            return accept.when.condition({**values, **shown})

    return AcceptPolicy(count=count, overshoot=accept.overshoot, ordered=accept.ordered, judge=judge)
