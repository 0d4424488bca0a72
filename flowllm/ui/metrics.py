"""The Prometheus text format, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats): what is on record of all runs,
and how accounts stand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Final

from flowllm.core.money import Spend
from flowllm.core.records import dataclass, field
from flowllm.core.types import NodeStatus, RunStatus
from flowllm.storage.following import WorkflowSums
from flowllm.storage.monitoring import Gauge
from flowllm.views.gauges import FRESH

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One name with its values by their labels."""

    name: str
    kind: str
    help: str
    values: Sequence[tuple[Mapping[str, str], float]] = field(default_factory=tuple)

    def lines(self) -> Iterable[str]:
        """As they are written."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, value in self.values:
            named = ",".join(f'{name}="{text.translate(_ESCAPES)}"' for name, text in labels.items())
            yield f"{self.name}{{{named}}} {_number(value)}" if named else f"{self.name} {_number(value)}"


def _number(value: float) -> str:
    return repr(value) if isinstance(value, int) or math.isfinite(value) else "NaN"


def exposition(sums: Sequence[WorkflowSums], gauges: Sequence[Gauge], *, now: float) -> str:
    """All of it. `sums` are in the order of their workflows, `gauges` in that in which they were noted."""
    metrics = [*_of_runs(sums), *_of_accounts(gauges, now=now)]
    return "".join(f"{line}\n" for metric in metrics for line in metric.lines())


_DIRECTIONS: Final[Mapping[str, Callable[[Spend], int]]] = {
    "input": lambda spend: spend.known_input,
    "output": lambda spend: spend.known_output,
    "cached": lambda spend: spend.usage.cached_input_tokens or 0,
}
_SPENT: Final[Mapping[str, tuple[str, str, Callable[[Spend], float]]]] = {
    "flowllm_requests_total": ("counter", "Requests that were sent to models.", lambda spend: spend.requests),
    "flowllm_cost_usd_total": ("counter", "US dollars that are known.", lambda spend: spend.known_usd),
    "flowllm_requests_of_unknown_cost": (
        "gauge",
        "Requests whose price or tokens are unknown: what they cost is not in flowllm_cost_usd_total; those in flight too.",
        lambda spend: spend.unpriced + spend.unknown,
    ),
}
_FIGURES: Final[Mapping[str, tuple[str, Callable[[Gauge], float]]]] = {
    "flowllm_requests_in_flight": ("Requests on their way to an account.", lambda gauge: gauge.in_flight),
    "flowllm_requests_last_minute": ("Requests sent in the last minute.", lambda gauge: gauge.requests_sent),
    "flowllm_rate_limited_last_minute": (
        "Requests refused with a 429 in the last minute.",
        lambda gauge: gauge.refused,
    ),
    "flowllm_tokens_last_minute": ("Tokens of requests answered in the last minute.", lambda gauge: gauge.tokens_used),
    "flowllm_pause_seconds": ("Seconds until the server's pause is over.", lambda gauge: gauge.pause_s),
}


def _of_runs(sums: Sequence[WorkflowSums]) -> Iterable[Metric]:
    by_status = [({"workflow": one.workflow, "status": one.status.value}, one) for one in sums]
    yield Metric(
        name="flowllm_runs",
        kind="gauge",
        help="Runs on record, by status.",
        values=[(labels, one.runs) for labels, one in by_status],
    )
    nodes = Counter[tuple[str, str]]()
    for one in sums:
        for status, count in one.totals.nodes.items():
            ended = status is NodeStatus.RUNNING and one.status is not RunStatus.RUNNING
            nodes[one.workflow, NodeStatus.CANCELLED if ended else status] += count
    yield Metric(
        name="flowllm_nodes",
        kind="gauge",
        help="Nodes on record, items too, by status.",
        values=[({"workflow": workflow, "status": status}, count) for (workflow, status), count in nodes.items()],
    )
    spends = {
        workflow: [one.totals.spend for one in alike] for workflow, alike in groupby(sums, lambda one: one.workflow)
    }
    yield Metric(
        name="flowllm_tokens_total",
        kind="counter",
        help="Tokens that are known, by direction; cached is the part of input that the provider had in its cache.",
        values=[
            ({"workflow": workflow, "direction": direction}, sum(map(count, many)))
            for workflow, many in spends.items()
            for direction, count in _DIRECTIONS.items()
        ],
    )
    for name, (kind, text, value) in _SPENT.items():
        values = [({"workflow": workflow}, math.fsum(map(value, many))) for workflow, many in spends.items()]
        yield Metric(name=name, kind=kind, help=text, values=values)


def _of_accounts(gauges: Sequence[Gauge], *, now: float) -> Iterable[Metric]:
    newest = {(gauge.process, gauge.account): gauge for gauge in gauges if gauge.at >= now - FRESH}
    labelled = [({"account": gauge.account, "process": gauge.process}, gauge) for gauge in newest.values()]
    for name, (text, value) in _FIGURES.items():
        yield Metric(name=name, kind="gauge", help=text, values=[(labels, value(gauge)) for labels, gauge in labelled])
    yield Metric(
        name="flowllm_requests_waiting",
        kind="gauge",
        help="Requests that wait for an account's limits, by reason and priority.",
        values=[
            ({**labels, "reason": reason, "priority": priority}, count)
            for labels, gauge in labelled
            for reason, counts in gauge.waits.items()
            for priority, count in counts.items()
        ],
    )
