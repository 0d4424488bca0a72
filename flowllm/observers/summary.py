"""What is said when a run is over."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from flowllm.events import Event, FailuresHigh, NodeEnded, RunEnded, RunStarted
from flowllm.observers.progress import SIMULATED_NOTICE
from flowllm.observers.text import dollars, duration, error_text, one_line, plural, visible
from flowllm.types import RUN_RESUMABLE, NodeStatus, RunStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowllm.observers.screen import Part
    from flowllm.types import Json

WORTH_TELLING = 0.5
"""Share of a rate in use from which it is told."""
MOST_ERRORS = 20
"""Errors told one by one; the rest is counted."""
_STYLES = {RunStatus.SUCCEEDED: "bold green", RunStatus.FAILED: "bold red"}
_ORDER = ("succeeded", "cached", "reused", "failed", "skipped", "blocked", "cancelled")


class Summary:
    """Keeps what the end of a run needs, and puts it into lines."""

    def __init__(self) -> None:
        self.ended: RunEnded | None = None
        self._simulated = False
        self._nodes = 0
        self._outcomes: Counter[str] = Counter()
        self._errors: list[NodeEnded] = []
        self._truncated: list[str] = []
        self._unpriced: set[str] = set()
        self._failures: FailuresHigh | None = None

    def handle(self, event: Event) -> None:
        """Take note of one event."""
        match event:
            case RunStarted():
                self._simulated, self._nodes = event.simulated, event.nodes
            case NodeEnded():
                self._node(event)
            case FailuresHigh():
                self._failures = event
            case RunEnded():
                self.ended = event
            case _:
                pass

    def _node(self, event: NodeEnded) -> None:
        outcome = event.status.value
        if event.status is NodeStatus.SUCCEEDED:
            outcome = "reused" if event.reused else "cached" if event.cached else outcome
        self._outcomes[outcome] += 1
        if event.error is not None and event.status is NodeStatus.FAILED:
            self._errors.append(event)
        if event.truncated:
            self._truncated.append(event.node_id)
        if event.cost_usd is None and event.model:
            self._unpriced.add(event.model)

    def lines(self, resume_command: str = "") -> list[tuple[Part, ...]]:
        """The whole summary; empty before the run ended. `resume_command` goes on with this run."""
        if self.ended is None:
            return []
        status = self.ended.status
        found = [self._headline(self.ended), *figures(self.ended.stats, self._unpriced), *self._notes()]
        if self.ended.error is not None:
            found += error_lines("", self.ended.error)
        for event in self._errors[:MOST_ERRORS]:
            found += error_lines(event.node_id, event.error or {})
        if len(self._errors) > MOST_ERRORS:
            found.append((f"and {len(self._errors) - MOST_ERRORS} more",))
        if status in RUN_RESUMABLE and resume_command:
            found.append(("resume it with: ", (resume_command, "bold")))
        return found

    def _headline(self, ended: RunEnded) -> tuple[Part, ...]:
        total = sum(self._outcomes.values())
        shares = [f"{self._outcomes[name]} {name}" for name in _ORDER if self._outcomes[name]]
        told = "" if self._outcomes["succeeded"] == total else f", {', '.join(shares)}"
        count = plural(total, "step") if total >= self._nodes else f"{total} of {plural(self._nodes, 'step')}"
        steps = f": {count}{told}" if total else ""
        status = (ended.status.value, _STYLES.get(ended.status, "bold yellow"))
        return (status, f" in {duration(ended.duration_s)}{steps}")

    def _notes(self) -> list[tuple[Part, ...]]:
        found: list[tuple[Part, ...]] = []
        if self._truncated:
            names = ", ".join(sorted(self._truncated)[:MOST_ERRORS])
            found.append(
                (("cut at max_tokens: ", "yellow"), f"{names} (raise max_tokens to get whole answers)")
            )
        if self._failures is not None:
            found.append((("many steps failed", "bold red"), " (more than 5 % of those carried out)"))
        if self._simulated:
            found.append(((SIMULATED_NOTICE, "yellow"),))
        return found


def error_lines(step: str, error: Mapping[str, Json]) -> list[tuple[Part, ...]]:
    """An error and, below it, what to do about it."""
    where = f" {step}:" if step else ""
    lines: list[tuple[Part, ...]] = [(("error:", "bold red"), f"{where} {error_text(error)}")]
    if hint := error.get("hint"):
        lines += [(f"  {visible(line)}",) for line in str(hint).splitlines()]
    return lines


def figures(stats: Mapping[str, Json], unpriced: set[str]) -> list[tuple[Part, ...]]:
    """Requests, tokens, cost and latency, on two lines."""
    requests, usage = stats.get("requests", {}), stats.get("usage", {})
    counts = [f"{requests.get('sent', 0)} sent"]
    counts += [
        f"{requests[name]} {name.replace('_', ' ')}"
        for name in ("cached", "joined", "retried", "rate_limited")
        if requests.get(name)
    ]
    tokens = f"{usage.get('input_tokens', 0):,} in, {usage.get('output_tokens', 0):,} out"
    cost = dollars(stats.get("cost_usd"))
    if stats.get("cost_usd") is None and unpriced:
        cost += f" (no price for {one_line(', '.join(sorted(unpriced)))})"
    found: list[tuple[Part, ...]] = [(f"requests: {', '.join(counts)}; tokens: {tokens}; cost: {cost}",)]
    latency = stats.get("latency_s", {})
    if latency.get("p50") is not None:
        shown = ", ".join(f"{name} {duration(latency.get(name))}" for name in ("p50", "p90", "p99"))
        found.append((f"latency: {shown}",))
    found += [(line,) for line in limits(stats.get("limits", {}))]
    return found


def limits(gauges: Mapping[str, Mapping[str, Json]]) -> list[str]:
    """How busy each account was kept, where it has a rate."""
    return [
        f"limit of {one_line(name)}: {gauge['requests_per_minute']:.0f} requests a minute, "
        f"{gauge['utilisation']:.0%} used" + (", learned" if gauge["learned_per_minute"] is not None else "")
        for name, gauge in gauges.items()
        if gauge["requests_per_minute"] is not None and (gauge["utilisation"] or 0) >= WORTH_TELLING
    ]
