"""A run in a line, as the page has it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flowllm.core.money import Spend
from flowllm.core.records import replace
from flowllm.core.types import NodeStatus, RunStatus, Usage
from flowllm.storage.monitoring import RunTotals
from flowllm.views.runs import RunSummary
from tests.support import records

RUN = replace(records.run("R1"), started_at=100.0, options={"over": None}, tags=("nightly",))

AGAIN = [{"started_at": 100.0, "finished_at": 105.0}, {"started_at": 190.0, "finished_at": None}]


def summary(now: float = 200.0, **fields: Any) -> RunSummary:
    return RunSummary.of(replace(RUN, **fields), now=now)


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, 100.0),
        ({"finished_at": 150.0}, 50.0),
        ({"finished_at": 150.0, "stats": {"duration_s": 7}}, 7.0),
        ({"started_at": 300.0}, 0.0),
        ({"stats": {"run_attempts": AGAIN}}, 5.0 + 10.0),
        ({"finished_at": 198.0, "stats": {"run_attempts": AGAIN, "duration_s": 7}}, 5.0 + 7.0),
    ],
)
def test_what_it_took_is_that_of_all_its_attempts_and_never_negative(fields: dict[str, Any], seconds: float) -> None:
    assert summary(**fields).elapsed_s == seconds


def test_what_is_unknown_is_not_zero() -> None:
    usage = Usage(input_tokens=None, cached_input_tokens=5)
    spend = Spend(requests=3, usage=usage, known_input=40, known_output=2, known_usd=0.25, unknown=1, reserved_usd=None)
    nodes = {NodeStatus.FAILED: 1, NodeStatus.RUNNING: 0}
    error = {"type": "BudgetExceeded"}
    found = summary(
        totals=RunTotals(changes=9, nodes=nodes, spend=spend), status=RunStatus.PAUSED, error=error
    ).as_dict()
    assert (found["cost_usd"], found["cost_at_least"], found["cached_share"]) == (None, 0.25, None)
    assert (found["usage"]["input_tokens"], found["usage"]["output_tokens"], found["requests"]) == (40, 2, 3)
    assert (found["nodes"], found["status"], found["error"], found["changes"]) == (
        {"failed": 1},
        "paused",
        "BudgetExceeded",
        9,
    )
    assert (found["tags"], found["over"]) == (["nightly"], False)
    json.dumps(found)
    known = Spend(requests=1, usage=Usage(input_tokens=40, cached_input_tokens=10), known_input=40, known_usd=0.5)
    again = summary(totals=RunTotals(spend=known), options={"over": "rows.csv"})
    assert (again.cost_usd, again.cached_share, again.over) == (0.5, 0.25, True)
