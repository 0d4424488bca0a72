"""What a run waits for while nothing happens that would have a line."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import islice

from flowllm.core.events import NodeWaiting, RequestEnded, RequestSent
from flowllm.core.types import NodeId
from flowllm.reporting.base import AccountState
from flowllm.reporting.text import duration, one_line, plural, reason_word

MOST = 3
"""Nodes that are named, those that have waited longest first; the rest is counted."""


class OpenWork:
    """The nodes, requests and waits that have begun and not ended; no more than are in flight."""

    __slots__ = ("nodes", "requests", "waits")

    def __init__(self) -> None:
        self.nodes: dict[NodeId, float] = {}
        """Nodes that are not in a foreach, no more than the workflow's file names: since when (wall clock)."""
        self.waits: dict[NodeId, NodeWaiting] = {}
        """Nodes that wait now."""
        self.requests: dict[tuple[NodeId, int], RequestSent] = {}
        """By node and attempt, in the order in which they were sent."""

    def sent(self, event: RequestSent) -> None:
        """A request is in flight."""
        self.waits.pop(event.node_id, None)
        self.requests[event.node_id, event.attempt] = event

    def answered(self, event: RequestEnded) -> None:
        """It is no longer."""
        self.requests.pop((event.node_id, event.attempt), None)

    def texts(
        self, now: float, accounts: Mapping[str, AccountState], *, without: Collection[str] = ()
    ) -> Iterator[str]:
        """`headline: no answer for 45.0s from gpt-4o at openai (api.openai.com)`, and the like; `accounts` are the
        providers' by their names, `without` are nodes that are told of elsewhere."""
        oldest = islice(self.requests.values(), MOST)
        found = [(event.at, unanswered(event, now, accounts)) for event in oldest]
        busy = {node for node, _ in self.requests}
        for node, wait in self.waits.items():
            if "[" not in node and node not in busy:
                found.append((wait.at, f"{node}: waits for {_since(wait.at, now)}: {reason_word(wait.reason)}"))
        for node, at in self.nodes.items():
            if not (node in busy or node in self.waits or node in without):
                found.append((at, f"{node}: has run for {_since(at, now)}"))
        found.sort(key=lambda one: one[0])
        yield from (text for _, text in found[:MOST])
        if len(self.requests) > MOST:
            yield f"{plural(len(self.requests), 'request')} in flight"


def unanswered(event: RequestSent, now: float, accounts: Mapping[str, AccountState]) -> str:
    """Of one request."""
    attempt = f", attempt {event.attempt:,}" if event.attempt > 1 else ""
    address = accounts[event.provider].address if event.provider in accounts else ""
    where = f"{one_line(event.model)} at {one_line(event.provider)}{f' ({one_line(address)})' if address else ''}"
    return f"{event.node_id}: no answer for {_since(event.at, now)} from {where}{attempt}"


def _since(at: float, now: float) -> str:
    """A whole number of seconds; none where the clock was set back."""
    seconds = max(0, round(now - at))
    return f"{seconds}s" if seconds < 60 else duration(seconds)  # noqa: PLR2004 - a minute
