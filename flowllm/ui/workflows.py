"""The workflows of the runs that are looked at, each loaded once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from flowllm.core.tasks import start_task
from flowllm.language.workflow import Workflow
from flowllm.storage.base import RunRecord

_KEPT: Final = 16


class Workflows:
    """Loads the workflow that a run has on record, in a thread: a large one takes longer than all that is read of its run."""

    def __init__(self, load: Callable[[RunRecord], Workflow]) -> None:
        self._load = load
        self._kept: OrderedDict[tuple[str, int], asyncio.Task[Workflow]] = OrderedDict()

    async def of(self, run: RunRecord) -> Workflow:
        """The run's workflow. Raises FlowLLMError where this version cannot load it, each time."""
        key = run.run_id, run.epoch  # a resume may have taken another file
        if key not in self._kept:
            self._kept[key] = start_task(asyncio.to_thread(self._load, run))
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return await asyncio.shield(self._kept[key])
