"""The figures that are told of a run."""

from __future__ import annotations

from dataclasses import replace

from flowllm.app.result import COUNTED, figures_of
from flowllm.core.money import Spend
from flowllm.core.types import RunId, RunStatus
from flowllm.storage.base import RunRecord
from flowllm.storage.monitoring import RunTotals
from flowllm.storage.timeline import RUN_ATTEMPTS


def test_what_an_earlier_attempt_took_is_not_told_of_one_whose_process_is_gone() -> None:
    spend = Spend(requests=98, known_usd=0.5)
    stats = {"requests": {"sent": 43}, "duration_s": 4.1, "models": [{}], COUNTED: 4, "cost_usd": 0.25}
    gone = RunRecord(
        run_id=RunId("r"),
        workflow="w",
        path="w.yaml",
        status=RunStatus.INTERRUPTED,
        started_at=0.0,
        stats=stats,
        totals=RunTotals(spend=spend),
    )
    found = figures_of(gone)
    assert (found["requests"]["sent"], found["cost_usd"], found[COUNTED]) == (98, 0.5, 4)
    assert not {"duration_s", "models"} & {*found}
    assert figures_of(replace(gone, finished_at=5.0, stats={**stats, RUN_ATTEMPTS: []})) == stats
