"""How far the steps within the items of foreaches have come, of a run whose items other processes execute."""

from __future__ import annotations

from collections.abc import Collection
from math import inf
from typing import Final

from flowllm.core.types import NodeId, RunId
from flowllm.reporting.followed import StepRead
from flowllm.storage.base import Store

_A_SECOND: Final = 8_000
"""Nodes within items that are counted in a second of watching at most."""


class StepsWithin:
    """Those of one run. Times are wall clock seconds."""

    def __init__(self, store: Store, run_id: RunId, steps: Collection[str]) -> None:
        """`steps` as in `RunStarted`."""
        self._store, self._run_id, self._steps = store, run_id, steps
        self._due: dict[str, float] = {}
        """When the steps within its items are to be counted again, for each foreach."""
        self._worked: dict[str, dict[str, int]] = {}
        """How many of them were carried out when they were counted last."""

    async def read(self, foreach: str, now: float, *, over: bool) -> list[StepRead]:
        """How far the steps within its items have come. All of them are counted, the more there are the less often."""
        due = self._due.get(foreach, 0.0)
        if due == inf or not (over or now >= due) or not any(step.startswith(f"{foreach}.") for step in self._steps):
            return []
        found = await self._store.within(self._run_id, NodeId(foreach))
        nodes = sum(one.begun + (one.total or 0) for one in found)
        self._due[foreach] = inf if over else now + max(1.0, nodes / _A_SECOND)
        worked, self._worked[foreach] = self._worked.get(foreach, {}), {one.path: one.worked for one in found}
        return [
            StepRead(
                run_id=self._run_id,
                at=now,
                node_id=NodeId(f"{foreach}.{one.path}"),
                ended=one.ended,
                failed=one.failed,
                skipped=one.skipped,
                worked=one.worked - worked.get(one.path, one.worked),
                begun=one.begun,
                total=one.total,
                alike=one.alike,
            )
            for one in found
        ]
