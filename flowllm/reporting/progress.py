"""One line for each thing that happens to a step, and now and then one for all the items of a foreach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from flowllm.core.errors import ItemsFailed
from flowllm.core.events import (
    Event,
    FailuresHigh,
    FallbackTaken,
    FanOutStarted,
    NodeEnded,
    NodeEvent,
    NodeRetrying,
    NodeStarted,
    Notice,
    RequestJoined,
    RequestSent,
    RunEnded,
    RunStarted,
    StopRequested,
)
from flowllm.core.types import NodeId, NodeStatus, StepKind
from flowllm.reporting.fans import MOST_ERRORS, ROWS, Fan
from flowllm.reporting.screen import Part, Screen
from flowllm.reporting.text import dollars, duration, error_text, item_shares, one_line, plural, short_path, visible

SIMULATED_NOTICE: Final = (
    "simulated answers: no API key was found, so nothing was sent to a model (set OPENAI_API_KEY for real answers)"
)
_WIDEST = 9
"""Characters of the longest word, CANCELLED."""
_STYLES = {
    "RUN": "blue",
    "OK": "green",
    "CACHED": "cyan",
    "REUSED": "cyan",
    "JOINED": "cyan",
    "SKIPPED": "yellow",
    "BLOCKED": "red",
    "ERROR": "bold red",
    "RETRY": "yellow",
    "FALLBACK": "yellow",
    "CANCELLED": "yellow",
}
_AT_ONCE = frozenset({StepKind.PYTHON, StepKind.SHELL, StepKind.HTTP})
"""Kinds whose work begins with the node; of others it begins with their first request."""


class Progress:
    """Writes `3 of 6  OK  intro [1.2s, 180 tokens]`; the numbers are steps done of all.

    Items, and the nodes within them, are told in lines that sum them up: what is kept does not grow with them.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._done = 0
        self._total = 0
        self._over = False
        self._sent: set[NodeId] = set()
        """Nodes that are not in a foreach: no more than the workflow's file names."""
        self._requests: Counter[str] = Counter()
        """Sent by now for each of those nodes and what is within it."""
        self._fans: dict[str, Fan] = {}
        self._tellers: dict[type[Event], Callable[[Any], None]] = {
            RunStarted: self._started,
            NodeStarted: self._node_started,
            RequestSent: self._request_sent,
            FanOutStarted: self._fan_started,
            NodeEnded: self._node_ended,
            RequestJoined: self._joined,
            NodeRetrying: self._retrying,
            FallbackTaken: self._fell_back,
            StopRequested: self._tell_fans,
            RunEnded: self._run_ended,
        }

    def handle(self, event: Event) -> None:
        """Tell one event, if it is one that people follow."""
        tell = self._tellers.get(type(event))
        if tell is not None:
            tell(event)

    def _started(self, event: RunStarted) -> None:
        self._total = event.nodes
        self._done = 0
        self._over = event.over is not None
        verb = "resuming" if event.resumed else "run"
        what = f"each row of {short_path(event.over)}" if event.over else plural(event.nodes, "step")
        self._screen.line(
            f"{verb} ",
            (event.run_id, "bold"),
            f": {one_line(event.workflow)}, {what}, provider {one_line(event.provider)}",
        )
        if event.simulated:
            self._screen.line((SIMULATED_NOTICE, "yellow"))

    def _node_started(self, event: NodeStarted) -> None:
        if event.kind in _AT_ONCE:
            self._running(event)

    def _request_sent(self, event: RequestSent) -> None:
        name = event.node_id.partition("[")[0]
        while name:
            self._requests[name] += 1
            name = name.rpartition(".")[0]
        self._running(event)

    def _running(self, event: NodeEvent) -> None:
        """The first of its requests goes out; until then it may turn out to be cached, or wait in the queue."""
        node = event.node_id
        if "[" not in node and node not in self._sent:
            self._sent.add(node)
            self._say("RUN", node)

    def _node_ended(self, event: NodeEnded) -> None:
        node = event.node_id
        if "[" in node:
            fan = None if event.place is None else self._fans.get(event.parent)
            if fan is not None:
                self._item_ended(fan, event)
            return
        if not event.parent:
            self._done, self._total = event.done, event.total or self._total
        self._sent.discard(node)
        self._fans.pop(node, None)
        if node != ROWS:  # the summary, which follows at once, tells of it
            self._ended(event)

    def _ended(self, event: NodeEnded) -> None:
        match event.status:
            case NodeStatus.SUCCEEDED if event.reused:
                self._say("REUSED", event.node_id, items(event))
            case NodeStatus.SUCCEEDED if event.cached:
                self._say("CACHED", event.node_id, items(event))
            case NodeStatus.SUCCEEDED:
                sent = self._requests.pop(event.node_id, 0)
                self._say("OK", event.node_id, f"{items(event)} {figures(event, sent)}".strip())
            case NodeStatus.FAILED if event.reused:
                told = f"failed before: {error_text(event.error)} (--retry-failed runs it again)"
                self._say("REUSED", event.node_id, told)
            case NodeStatus.FAILED if event.error and event.error.get("type") == ItemsFailed.__name__:
                self._say("ERROR", event.node_id, items(event))  # the first ones have been told
            case NodeStatus.FAILED:
                goes_on = " (on_error: continue)" if event.tolerated else ""
                self._say("ERROR", event.node_id, error_text(event.error) + goes_on)
            case status:
                because = f"because {one_line(event.reason)}" if event.reason else ""
                self._say(status.value.upper(), event.node_id, because)

    def _joined(self, event: RequestJoined) -> None:
        if "[" not in event.node_id:
            self._say("JOINED", event.node_id, "waits for an equal request in flight")

    def _retrying(self, event: NodeRetrying) -> None:
        fan = self._fan_of(event.node_id)
        if fan is not None:
            fan.retried += 1
        if fan is None or fan.few:
            self._say("RETRY", event.node_id, f"in {duration(event.delay_s)}: {error_text(event.error)}")

    def _fell_back(self, event: FallbackTaken) -> None:
        fan = self._fan_of(event.node_id)
        if fan is None or fan.few:
            self._say("FALLBACK", event.node_id, f"to {one_line(event.model)}: {error_text(event.error)}")

    # items

    def _fan_of(self, node: NodeId) -> Fan | None:
        """The foreach of the node, or of the outermost item that it is within."""
        return self._fans.get(node.partition("[")[0])

    def _fan_started(self, event: FanOutStarted) -> None:
        node = event.node_id
        if "[" in node:
            return
        self._fans[node] = Fan(event)
        if node != ROWS and node not in self._sent:
            self._sent.add(node)
            self._say("RUN", node, "" if event.total is None else plural(event.total, "item"))

    def _item_ended(self, fan: Fan, event: NodeEnded) -> None:
        fan.count(event)
        if fan.few or (event.status is NodeStatus.FAILED and fan.failed <= MOST_ERRORS):
            self._ended(event)
        live = self._screen.colour
        if fan.due(event.at, live=live):
            if live:
                self._screen.live("  ".join(one.text() for one in self._fans.values()))
            else:
                self._tell_fan(fan)

    def _tell_fan(self, fan: Fan) -> None:
        self._screen.line(*self._count(), "" if self._over else f"{'...':<{_WIDEST}} ", fan.text())

    def _tell_fans(self, event: Event) -> None:
        """How far each has come, before the run goes on without new items, or ends."""
        for fan in self._fans.values():
            fan.due(event.at, live=True)
            self._tell_fan(fan)

    def _run_ended(self, event: RunEnded) -> None:
        if not self._over:
            self._tell_fans(event)
        self._screen.clear()

    # lines

    def _count(self) -> list[Part]:
        if self._over or not self._total:
            return []
        width = len(str(self._total))
        return [(f"{self._done:>{width}} of {self._total}  ", "dim")]

    def _say(self, word: str, step: str, detail: str = "") -> None:
        parts: list[Part] = [*self._count(), (f"{word:<{_WIDEST}} ", _STYLES.get(word, ""))]
        self._screen.line(*parts, f"{step} {detail}".rstrip())


def items(event: NodeEnded) -> str:
    """What became of the items of a foreach: `50 items: 47 succeeded, 3 failed`; empty for other nodes."""
    counts = event.counts
    if counts is None:
        return ""
    told = plural(counts["total"], "item")
    return told if counts["succeeded"] == counts["total"] else f"{told}: {item_shares(counts)}"


def figures(event: NodeEnded, sent: int) -> str:
    """What a step took: `[1.2s, 180 tokens, $0.0004, 2 attempts, truncated]`; `sent` requests, of those within it too."""
    if event.kind is StepKind.VALUE:
        return ""
    many = event.counts is not None
    found = [duration(event.call_s)] if event.call_s and not many else []
    if event.usage.total is None:
        found.append("tokens unknown")
    elif tokens := event.usage.total:
        found.append(plural(tokens, "token"))
        if event.cost_usd:
            found.append(dollars(event.cost_usd))
    if many or event.kind in {StepKind.WORKFLOW, StepKind.EMBED}:
        found += [plural(sent, "request")] if sent > 1 else []
    elif event.attempts > 1:
        found.append(f"{event.attempts} attempts")
    if event.truncated:
        found.append("truncated")
    return f"[{', '.join(found)}]" if found else ""


def what_ended(event: FailuresHigh) -> str:
    """Steps, items of a foreach, or both."""
    if not event.items:
        return "steps"
    return "items" if event.items == event.ended else "steps and items"


class Notices:
    """Says what a person must know whatever else is shown: notices, and what happens when a run is told to stop."""

    def __init__(self, screen: Screen, *, grace: float | None = None) -> None:
        """`grace`: seconds that calls in flight get."""
        self._screen = screen
        self._most = "" if grace is None else f" (up to {grace:g} s)"

    def handle(self, event: Event) -> None:
        """Tell one event, if it is one of these."""
        match event:
            case Notice():
                self._screen.line(("notice: ", "yellow"), visible(event.message))
            case FailuresHigh():
                told = f"{event.failed} of {event.ended} {what_ended(event)} failed so far ({event.share:.0%})"
                self._screen.line(("alert: ", "bold red"), told)
            case StopRequested():
                self._stopping(event)
            case _:
                pass

    def _stopping(self, event: StopRequested) -> None:
        waiting = "nothing is in flight"
        if event.in_flight:
            calls = plural(event.in_flight, "call")
            waiting = f"waiting for {calls} in flight{self._most}; press Ctrl-C again to stop at once"
        reason = f" ({one_line(event.reason)})" if event.reason else ""
        self._screen.line((f"stopping{reason}: nothing new is sent, {waiting}", "yellow"))
