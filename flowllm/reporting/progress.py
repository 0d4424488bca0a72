"""One line for each thing that happens to a step, and now and then one for all the items of a foreach."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

from flowllm.core.events import (
    Event,
    FailuresHigh,
    FallbackTaken,
    FanOutCounted,
    FanOutStarted,
    NodeEnded,
    NodeEvent,
    NodeHedged,
    NodeRetrying,
    NodeStarted,
    NodeSuspended,
    NodeWaiting,
    Notice,
    RequestEnded,
    RequestJoined,
    RequestSent,
    RunEnded,
    RunStarted,
    StopRequested,
)
from flowllm.core.types import Json, NodeId, NodeStatus, StepKind, WaitReason
from flowllm.reporting.base import AccountState
from flowllm.reporting.followed import ItemsRead
from flowllm.reporting.foreach_progress import ROWS, SELDOM, ForeachProgress
from flowllm.reporting.open_work import OpenWork
from flowllm.reporting.screen import Part, Screen
from flowllm.reporting.taken import Taken, figures
from flowllm.reporting.text import (
    duration,
    error_text,
    item_shares,
    one_line,
    plural,
    reason_word,
    short_path,
    suspended_text,
    visible,
    without_items,
)

SIMULATED_NOTICE: Final = (
    "simulated answers: no API key was found, so nothing was sent to a model (set OPENAI_API_KEY for real answers)"
)
MOST_ITEM_ERRORS: Final = 5
"""Errors of items that are printed one by one, for each foreach; the rest is counted."""
_LONG = 1.0
"""Seconds of a wait of a step that has a line."""
_WIDEST = 9
"""Characters of the longest word, CANCELLED."""
_STYLES = {
    "RUN": "blue",
    "OK": "green",
    **dict.fromkeys(("CACHED", "REUSED", "JOINED"), "cyan"),
    **dict.fromkeys(("SKIPPED", "RETRY", "HEDGE", "FALLBACK", "CANCELLED", "WAITING"), "yellow"),
    "BLOCKED": "red",
    "ERROR": "bold red",
}
_AT_ONCE = frozenset({StepKind.PYTHON, StepKind.SHELL, StepKind.HTTP})
"""Kinds whose work begins with the node; of others it begins with their first request."""


class Progress:
    """Writes `3 of 6  OK  intro [1.2s, 180 tokens]`; the numbers are steps done of all.

    Items, and the nodes within them, are summed up in lines of their foreach: what is kept does not grow with them.
    """

    def __init__(self, screen: Screen, *, tracebacks: bool = False) -> None:
        """`tracebacks`: of errors in functions of the user's, too."""
        self._screen = screen
        self._tracebacks = tracebacks
        self._done = 0
        self._total = 0
        self._over = False
        self._open = OpenWork()
        self._quiet_since = 0.0
        self._written = 0
        """Since when nothing was written, and what the screen had been written by then."""
        self._taken: defaultdict[str, Taken] = defaultdict(Taken)
        """By now by each node that will have a line, and what is within it."""
        self._foreaches: dict[str, ForeachProgress] = {}

    def handle(self, event: Event) -> None:  # noqa: C901, PLR0912 - a case for each event
        """Show one event, if it is one that people follow."""
        match event:
            case NodeStarted():
                if event.kind in _AT_ONCE:
                    self._running(event)
            case NodeWaiting():
                self._node_waits(event)
            case NodeSuspended() if "[" not in event.node_id:
                self._open.waits.pop(event.node_id, None)
                self._open.nodes.pop(event.node_id, None)
                self._say("WAITING", event.node_id, suspended_text(event.kind, event.token, event.due_at))
            case RequestSent():
                self._request_sent(event)
            case RequestEnded():
                self._request_ended(event)
            case NodeHedged():
                self._hedged(event)
            case NodeEnded():
                self._node_ended(event)
            case RequestJoined() if "[" not in event.node_id:
                self._say("JOINED", event.node_id, "waits for an equal request in flight")
            case NodeRetrying():
                self._retrying(event)
            case FallbackTaken():
                self._say_unless_many(
                    "FALLBACK", event.node_id, f"to {one_line(event.model)}: {error_text(event.error)}"
                )
            case FanOutStarted() if "[" not in event.node_id:
                self._foreach_started(event)
            case FanOutCounted() if event.node_id in self._foreaches:
                self._foreaches[event.node_id].total = event.total
            case RunStarted():
                self._started(event)
            case ItemsRead() if event.node_id in self._foreaches:
                self._items_read(self._foreaches[event.node_id], event)
            case StopRequested():
                self._report_all(event)
            case RunEnded() if not self._over:
                self._report_all(event)
            case _:
                pass

    def look(self, now: float, accounts: Mapping[str, AccountState]) -> None:
        """Say every 30 s what is waited for where nothing was written. See `reporting.base.Watching`."""
        if self._screen.written != self._written or now < self._quiet_since:
            self._written, self._quiet_since = self._screen.written, now
        elif now - self._quiet_since >= SELDOM:
            found = [one.text(now, self._waits_of(one)) for one in self._foreaches.values()]
            found += self._open.texts(now, accounts, without=self._foreaches)
            if found:
                self._quiet_since = now
                for text in found:
                    self._still(text)
            self._written = self._screen.written

    def _started(self, event: RunStarted) -> None:
        self._total = event.nodes
        self._done = 0
        self._over = event.over is not None
        verb = "resuming" if event.resumed else "run"
        what = f"each row of {short_path(event.over)}" if event.over else plural(event.nodes, "step")
        text = f": {one_line(event.workflow)}, {what}, provider {one_line(event.provider)}"
        self._screen.line(f"{verb} ", (event.run_id, "bold"), text)
        if event.simulated:
            self._screen.line((SIMULATED_NOTICE, "yellow"))

    def _node_waits(self, event: NodeWaiting) -> None:
        node, known = event.node_id, self._open.waits.get(event.node_id)
        self._open.waits[node] = event
        found = self._foreach_of(node)
        if found is not None:
            self._report(found, event.at)
        elif (
            event.until is not None
            and event.until - event.at >= _LONG
            and (known is None or known.reason is not event.reason)
        ):
            self._say("WAITING", node, f"about {duration(event.until - event.at)}: {reason_word(event.reason)}")

    def _request_sent(self, event: RequestSent) -> None:
        self._open.sent(event)
        found = self._foreach_of(event.node_id)
        if found is not None:
            found.asked(event.at)
        for name in self._nodes_of(event.node_id):
            self._taken[name].sent += 1
        self._running(event)

    def _request_ended(self, event: RequestEnded) -> None:
        self._open.answered(event)
        found = self._foreach_of(event.node_id)
        if found is not None:
            found.paid(event)
        for name in self._nodes_of(event.node_id):
            self._taken[name].ended(event)

    def _nodes_of(self, node: NodeId) -> Iterator[str]:
        """Those of it and of all that it is within which have lines: of a foreach of few items, each of these too."""
        found = self._foreach_of(node)
        name = node[: node.find("]") + 1] if found is not None and found.few else node.partition("[")[0]
        while name:
            yield name
            name = name[: max(name.rfind("."), name.rfind("["), 0)]

    def _hedged(self, event: NodeHedged) -> None:
        found = self._foreach_of(event.node_id)
        if found is not None:
            found.hedged += 1
        self._say_unless_many("HEDGE", event.node_id, "takes long: sent once more, the first answer counts")

    def _running(self, event: NodeEvent) -> None:
        """The first of its requests goes out; until then it may turn out to be cached, or wait in the queue."""
        node = event.node_id
        if "[" not in node and node not in self._open.nodes:
            self._open.nodes[node] = event.at
            self._say("RUN", node)

    def _node_ended(self, event: NodeEnded) -> None:
        node = event.node_id
        self._open.waits.pop(node, None)
        if "[" in node:
            found = None if event.place is None else self._foreaches.get(event.parent)
            if found is not None:
                self._item_ended(found, event)
            return
        if not event.parent:
            self._done, self._total = event.done, event.total or self._total
        self._open.nodes.pop(node, None)
        self._foreaches.pop(node, None)
        if node != ROWS:  # the summary, which follows at once, has its figures
            self._ended(event)

    def _ended(self, event: NodeEnded) -> None:
        match event.status:
            case NodeStatus.SUCCEEDED if event.reused:
                self._say("REUSED", event.node_id, items(event))
            case NodeStatus.SUCCEEDED if event.cached:
                self._say("CACHED", event.node_id, items(event))
            case NodeStatus.SUCCEEDED:
                taken = self._taken.pop(event.node_id, None) or Taken()
                self._say("OK", event.node_id, f"{items(event)} {figures(event, taken)}".strip())
            case NodeStatus.FAILED if event.reused:
                text = f"failed before: {error_text(event.error)} (--retry-failed runs it again)"
                self._say("REUSED", event.node_id, text)
            case NodeStatus.FAILED:
                self._failed(event, event.error or {})
            case status:
                because = f"because {one_line(event.reason)}" if event.reason else ""
                self._say(status.value.upper(), event.node_id, because)

    def _failed(self, event: NodeEnded, error: Mapping[str, Json]) -> None:
        """With what to do about it, where that is not the same for many items."""
        error = without_items(event.node_id, error)  # the first ones have been shown
        goes_on = " (on_error: continue)" if event.tolerated else ""
        self._say("ERROR", event.node_id, error_text(error) + goes_on)
        if event.place is None:
            for line in str(error.get("hint") or "").splitlines():
                self._screen.line(f"  {visible(line)}")
        for line in str(error.get("traceback") or "").splitlines() if self._tracebacks else ():
            self._screen.line(f"    {visible(line)}")

    def _retrying(self, event: NodeRetrying) -> None:
        found = self._foreach_of(event.node_id)
        if found is not None:
            found.retried += 1
        self._say_unless_many("RETRY", event.node_id, f"in {duration(event.delay_s)}: {error_text(event.error)}")

    def _say_unless_many(self, word: str, node: NodeId, detail: str) -> None:
        found = self._foreach_of(node)
        if found is None or found.few:
            self._say(word, node, detail)

    # items

    def _foreach_of(self, node: NodeId) -> ForeachProgress | None:
        """The foreach of the node, or of the outermost item that it is within."""
        return self._foreaches.get(node.partition("[")[0])

    def _foreach_started(self, event: FanOutStarted) -> None:
        node = event.node_id
        self._foreaches[node] = ForeachProgress(event)
        if node != ROWS and node not in self._open.nodes:
            self._open.nodes[node] = event.at
            self._say("RUN", node, "" if event.total is None else plural(event.total, "item"))

    def _item_ended(self, found: ForeachProgress, event: NodeEnded) -> None:
        found.count(event)
        if found.few or (event.status is NodeStatus.FAILED and found.failed <= MOST_ITEM_ERRORS):
            self._ended(event)
        self._report(found, event.at)

    def _items_read(self, found: ForeachProgress, event: ItemsRead) -> None:
        found.read(event)
        for node, error in event.errors[: MOST_ITEM_ERRORS - found.shown]:
            found.shown += 1
            self._say("ERROR", node, error_text(error))
        self._report(found, event.at)

    def _report(self, found: ForeachProgress, now: float) -> None:
        if found.due(now):
            self._line_of(found, now)

    def _line_of(self, found: ForeachProgress, now: float) -> None:
        found.told = found.ended
        self._still(found.text(now, self._waits_of(found)))

    def _still(self, text: str) -> None:
        """What goes on."""
        self._screen.line(*self._count(), "" if self._over else f"{'...':<{_WIDEST}} ", text)

    def _waits_of(self, found: ForeachProgress) -> Mapping[WaitReason, int]:
        """Nodes within its items that wait, by reason."""
        within = f"{found.node}["
        return Counter(wait.reason for node, wait in self._open.waits.items() if node.startswith(within))

    def _report_all(self, event: Event) -> None:
        """How far each has come, before the run goes on without new items, or ends."""
        for found in self._foreaches.values():
            if found.told != found.ended:
                self._line_of(found, event.at)

    # lines

    def _count(self) -> list[Part]:
        if self._over or not self._total:
            return []
        total = f"{self._total:,}"
        return [(f"{self._done:>{len(total)},} of {total}  ", "dim")]

    def _say(self, word: str, step: str, detail: str = "") -> None:
        parts: list[Part] = [*self._count(), (f"{word:<{_WIDEST}} ", _STYLES.get(word, ""))]
        self._screen.line(*parts, f"{step} {detail}".rstrip())


def items(event: NodeEnded) -> str:
    """The counts of the items of a foreach: `50 items: 47 succeeded, 3 failed`; empty for other nodes."""
    counts = event.counts
    if counts is None:
        return ""
    text = plural(counts["total"], "item")
    return text if counts["succeeded"] == counts["total"] else f"{text}: {item_shares(counts)}"


def what_ended(event: FailuresHigh) -> str:
    """Steps, items of a foreach, or both."""
    if not event.items:
        return "steps"
    return "items" if event.items == event.ended else "steps and items"


class Notices:
    """Says what a person must know whatever else is shown: notices, and what happens when a run is asked to stop."""

    def __init__(self, screen: Screen, *, grace: float | None = None) -> None:
        """`grace`: seconds that calls in flight get."""
        self._screen = screen
        self._most = "" if grace is None else f" (up to {grace:g} s)"

    def handle(self, event: Event) -> None:
        """Show one event, if it is one of these."""
        match event:
            case Notice():
                self._screen.line(("notice: ", "yellow"), visible(event.message))
            case FailuresHigh():
                text = f"{event.failed:,} of {event.ended:,} {what_ended(event)} failed so far ({event.share:.0%})"
                self._screen.line(("alert: ", "bold red"), text)
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
