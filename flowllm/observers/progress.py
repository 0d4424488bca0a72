"""One line for each thing that happens to a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowllm.events import (
    Event,
    FailuresHigh,
    FallbackTaken,
    NodeEnded,
    NodeRetrying,
    NodeStarted,
    Notice,
    RequestJoined,
    RequestSent,
    RunStarted,
    StopRequested,
)
from flowllm.observers.text import dollars, duration, error_text, one_line, plural, visible
from flowllm.types import NodeStatus, StepKind

if TYPE_CHECKING:
    from flowllm.observers.screen import Part, Screen
    from flowllm.types import NodeId

SIMULATED_NOTICE: Final = "simulated answers: no API key was found, so nothing was sent to a model (set OPENAI_API_KEY for real answers)"
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


class Progress:
    """Writes `3 of 6  OK  intro [1.2s, 180 tokens]`; the numbers are steps done of all."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._done = 0
        self._total = 0
        self._sent: set[NodeId] = set()

    def handle(self, event: Event) -> None:
        """Tell one event, if it is one that people follow."""
        match event:
            case RunStarted():
                self._started(event)
            case NodeStarted(kind=StepKind.PYTHON) | RequestSent():
                self._running(event.node_id)
            case NodeEnded():
                self._done, self._total = event.done, event.total
                self._sent.discard(event.node_id)
                self._ended(event)
            case RequestJoined():
                self._say("JOINED", event.node_id, "waits for an equal request in flight")
            case NodeRetrying():
                self._say("RETRY", event.node_id, f"in {duration(event.delay)}: {error_text(event.error)}")
            case FallbackTaken():
                self._say("FALLBACK", event.node_id, f"to {one_line(event.model)}: {error_text(event.error)}")
            case _:
                pass

    def _started(self, event: RunStarted) -> None:
        self._total = event.nodes
        self._done = 0
        verb = "resuming" if event.resumed else "run"
        self._screen.line(
            f"{verb} ",
            (event.run_id, "bold"),
            f": {one_line(event.workflow)}, {plural(event.nodes, 'step')}, provider {one_line(event.provider)}",
        )
        if event.simulated:
            self._screen.line((SIMULATED_NOTICE, "yellow"))

    def _running(self, node: NodeId) -> None:
        """The first of its requests goes out; until then it may turn out to be cached, or wait in the queue."""
        if node not in self._sent:
            self._sent.add(node)
            self._say("RUN", node)

    def _ended(self, event: NodeEnded) -> None:
        match event.status:
            case NodeStatus.SUCCEEDED if event.reused:
                self._say("REUSED", event.node_id)
            case NodeStatus.SUCCEEDED if event.cached:
                self._say("CACHED", event.node_id)
            case NodeStatus.SUCCEEDED:
                self._say("OK", event.node_id, figures(event))
            case NodeStatus.FAILED:
                goes_on = " (on_error: continue)" if event.tolerated else ""
                self._say("ERROR", event.node_id, error_text(event.error) + goes_on)
            case status:
                because = f"because {one_line(event.reason)}" if event.reason else ""
                self._say(status.value.upper(), event.node_id, because)

    def _say(self, word: str, step: str, detail: str = "") -> None:
        width = len(str(self._total))
        count = f"{self._done:>{width}} of {self._total}  "
        parts: list[Part] = [(count, "dim"), (f"{word:<{_WIDEST}} ", _STYLES.get(word, ""))]
        self._screen.line(*parts, f"{step} {detail}".rstrip())


def figures(event: NodeEnded) -> str:
    """What a step took: `[1.2s, 180 tokens, $0.0004, 2 attempts, truncated]`."""
    if event.kind is StepKind.VALUE:
        return ""
    found = [duration(event.call_s)] if event.call_s else []
    if tokens := event.usage.input_tokens + event.usage.output_tokens:
        found.append(plural(tokens, "token"))
        if event.cost_usd:
            found.append(dollars(event.cost_usd))
    if event.attempts > 1:
        found.append(f"{event.attempts} attempts")
    if event.truncated:
        found.append("truncated")
    return f"[{', '.join(found)}]" if found else ""


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
                told = f"{event.failed} of {event.ended} steps failed so far ({event.share:.0%})"
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
