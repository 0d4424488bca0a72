"""What is on record of runs as wholes: which there are, and what they took."""

from __future__ import annotations

from typing import Protocol

from flowllm.core.models import ModelTotals
from flowllm.core.money import Spend
from flowllm.core.types import NodeId, RunId, RunStatus
from flowllm.storage.records import NodeRecord, RunRecord


class History(Protocol):
    """The verbs of `Store` that read it."""

    async def run(self, run_id: RunId) -> RunRecord:
        """That run; an unambiguous beginning of its id will do. Raises RunNotFound.

        Here and in `runs`, one that stands as running but whose lock nobody holds is given as interrupted."""
        ...

    async def runs(
        self,
        *,
        limit: int = 50,
        workflow: str | None = None,
        unfinished: bool = False,
        ended_before: float | None = None,
        status: RunStatus | None = None,
        since: float | None = None,
        tag: str | None = None,
        search: str = "",
        before_seq: int | None = None,
        skip: int = 0,
    ) -> list[RunRecord]:
        """Newest first, without snapshots; those of which all that is given holds. `unfinished`: those that have not
        succeeded; `ended_before`: those that are not running and ended, or else started, before that wall clock time;
        `since`: those that started at or after that; `before_seq`: those with a smaller `seq`; `search`: those with this text
        in their id, workflow, tags or inputs, whatever the case of ASCII letters; the newest `skip` of them are left out."""
        ...

    async def workflows(self) -> list[str]:
        """The names of all workflows that have runs, sorted."""
        ...

    async def tags(self) -> list[str]:
        """All tags that runs have, sorted."""
        ...

    async def last_node(self, workflow: str, node_id: NodeId, *, before_seq: int | None) -> NodeRecord | None:
        """That node in the newest run of that workflow in which it succeeded, of those with a smaller `seq`
        than `before_seq` (None: of all)."""
        ...

    async def spend(self, run_id: RunId, within: NodeId | None = None) -> Spend:
        """What all requests of a run took, or of one node and all within it, those of earlier attempts at the run too. Attempts of
        steps that do their work themselves, which name no model, are none.

        One that is still under way, or of which no answer was seen, counts with what was set aside for it; one
        that failed and reports neither tokens nor a cost took nothing."""
        ...

    async def models(self, run_id: RunId) -> list[ModelTotals]:
        """What a run took of each model that it asked, or had answers of from the response cache, by name; their spends
        together are that of the run. Attempts of steps that do their work themselves name no model."""
        ...
