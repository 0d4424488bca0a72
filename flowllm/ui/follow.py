"""Following one run for one listener: each look gives the event that tells what changed since the one before."""

from __future__ import annotations

from flowllm.core.types import Json, RunId, RunStatus
from flowllm.storage.base import RunRecord, Store
from flowllm.storage.following import ItemChange, NodeBrief
from flowllm.ui.sse import comment, event
from flowllm.views.briefs import brief_dict, item_entry
from flowllm.views.eta import Ahead
from flowllm.views.runs import summary_of

MOST = 2000
"""Changes of nodes, and of items, in one event."""


class Follower:
    """What one listener knows of a run."""

    def __init__(self, run_id: RunId, *, since: int) -> None:
        """`since`: the number of the last change that the listener knows."""
        self.going = True
        """The run goes on, as far as was seen."""
        self.behind = False
        """There is more than one event takes: look again at once."""
        self._run_id = run_id
        self._since = since
        self._stood: tuple[RunStatus, int] | None = None
        """Its status and attempt as they were told."""
        self._ahead = Ahead(run_id=run_id)

    async def look(self, store: Store, *, now: float) -> bytes:
        """An event, or a comment if nothing changed. Raises FlowLLMError."""
        run = await store.run(self._run_id)
        stands = run.status, run.epoch
        self.going = run.going
        upto, nodes, items = await self._changed(store, run)
        eta_s = None
        if self.going:
            known = nodes if self._stood == stands else await store.briefs(self._run_id, limit=MOST)
            eta_s = await self._ahead.left(store, known, now=now)
        if upto == self._since and self._stood == stands:
            return comment()
        self._since, self._stood = upto, stands
        self.behind = upto < run.totals.changes
        summary = await summary_of(store, run, now=now)
        data: dict[str, Json] = {
            "changes": upto,
            "run": {**summary.as_dict(), "attempt": run.epoch, "eta_s": eta_s},
            "nodes": [brief_dict(node) for node in nodes],
            "items": [item_entry(item) for item in items],
        }
        return event("change", data, upto)

    def lose(self) -> None:
        """The listener was told that something is wrong: it is to hear when that is over."""
        self._stood, self.behind = None, False

    async def _changed(self, store: Store, run: RunRecord) -> tuple[int, list[NodeBrief], list[ItemChange]]:
        """Up to which change one event tells, and what changed."""
        since = self._since if self._since <= run.totals.changes else 0  # another database has come under its name
        upto = run.totals.changes
        nodes = await store.briefs(self._run_id, since=since, limit=MOST) if upto > since else []
        items = await store.item_changes(self._run_id, since=since, limit=MOST) if upto > since else []
        for rows in (nodes, items):
            if len(rows) == MOST:
                upto = min(upto, rows[-1].change_no)
        return upto, nodes, items
