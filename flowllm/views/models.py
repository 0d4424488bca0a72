"""What a run took of each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flowllm.core.models import MODELS
from flowllm.core.types import Json
from flowllm.storage.base import RunRecord, Store


async def models_of(store: Store, run: RunRecord) -> Sequence[Mapping[str, Json]]:
    """The table by model, each row as `ModelTotals.as_dict` gives it: as it was summed up at the end of the run, else of what is
    on record by now. Raises StoreError."""
    if run.finished_at is not None and MODELS in run.stats:
        return list(run.stats[MODELS])
    return [model.as_dict() for model in await store.models(run.run_id)]
