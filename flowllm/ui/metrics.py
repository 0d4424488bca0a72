"""The Prometheus text format, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats): what is on record of all runs,
and how accounts stand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from flowllm.core.money import Spend
from flowllm.core.records import dataclass, field
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
    """All of it. `gauges` are in the order in which they were noted."""
    metrics = [*_of_runs(sums), *_of_accounts(gauges, now=now)]
    return "".join(f"{line}\n" for metric in metrics for line in metric.lines())


_DIRECTIONS: Final[Mapping[str, Callable[[Spend], int]]] = {
    "input": lambda spend: spend.known_input,
    "output": lambda spend: spend.known_output,
    "cached": lambda spend: spend.usage.cached_input_tokens or 0,
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
    nodes: dict[tuple[str, str], int] = {}
    for one in sums:
        for status, count in one.totals.nodes.items():
            nodes[one.workflow, status.value] = nodes.get((one.workflow, status.value), 0) + count
    yield Metric(
        name="flowllm_nodes",
        kind="gauge",
        help="Nodes on record, items too, by status.",
        values=[({"workflow": workflow, "status": status}, count) for (workflow, status), count in nodes.items()],
    )
    spends = [
        (workflow, [one.totals.spend for one in sums if one.workflow == workflow])
        for workflow in dict.fromkeys(one.workflow for one in sums)
    ]
    yield Metric(
        name="flowllm_requests_total",
        kind="counter",
        help="Requests that were sent to models.",
        values=[({"workflow": workflow}, sum(spend.requests for spend in many)) for workflow, many in spends],
    )
    yield Metric(
        name="flowllm_tokens_total",
        kind="counter",
        help="Tokens that are known, by direction; cached is the part of input that the provider had in its cache.",
        values=[
            ({"workflow": workflow, "direction": direction}, sum(count(spend) for spend in many))
            for workflow, many in spends
            for direction, count in _DIRECTIONS.items()
        ],
    )
    yield Metric(
        name="flowllm_cost_usd_total",
        kind="counter",
        help="US dollars that are known.",
        values=[({"workflow": workflow}, math.fsum(spend.known_usd for spend in many)) for workflow, many in spends],
    )
    yield Metric(
        name="flowllm_requests_of_unknown_cost",
        kind="gauge",
        help="Requests whose price or tokens are unknown: what they cost is not in flowllm_cost_usd_total; those in flight too.",
        values=[
            ({"workflow": workflow}, sum(spend.unpriced + spend.unknown for spend in many)) for workflow, many in spends
        ],
    )


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
