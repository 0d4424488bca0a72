"""One node with all that is on record of it: what was sent, what came back, its attempts, why it ran and why it waited."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from flowllm.core.errors import UsageError
from flowllm.core.money import Spend
from flowllm.core.records import dataclass, replace
from flowllm.core.types import ABANDONED, NODE_TERMINAL, Json, NodeId
from flowllm.explain.why import Why
from flowllm.reporting.text import visible
from flowllm.storage.base import AttemptRecord, NodeRecord, RunRecord, Store
from flowllm.storage.browsing import Beside
from flowllm.storage.monitoring import SUSPENDED
from flowllm.views.items import item_row, took
from flowllm.views.nodes import counts_so_far
from flowllm.views.shown import shown
from flowllm.views.standing import as_seen, standing

MOST_WITHIN: Final = 500
"""Steps within a node that are named."""
_NO_REQUEST: Final = frozenset({"reason", "kind", "chosen", SUSPENDED})
_ALONE: Final = Beside(None, None, None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDetail:
    """A node for whoever looks at it alone."""

    run: RunRecord
    node: NodeRecord
    spend: Spend
    attempts: Sequence[AttemptRecord] = ()
    within: Sequence[NodeRecord] = ()
    """Steps within it, of a workflow or of a function that asks."""
    beside: Beside = _ALONE
    why: Why | None = None
    """None where the node's workflow cannot be read."""
    stored_at: float | None = None
    """When the answer was stored that the cache gave, wall clock seconds."""

    def as_dict(self) -> dict[str, Json]:
        """As JSON; texts are cut and made harmless (see `Shown`)."""
        node, spend = self.node, self.spend
        return {
            **{name: getattr(node, name) for name in _AS_THEY_ARE},
            "id": node.node_id,
            "run_id": self.run.run_id,
            "kind": node.kind.value,
            "status": standing(node.status, going=self.run.going).value,
            "index": node.place,
            "took_s": took(node),
            "usage": node.usage.as_dict(),
            "cost_usd": node.cost_usd,
            "cost_at_least": spend.known_usd,
            "counts": None if node.counts is None else node.counts.as_dict(),
            "waits": dict(node.waits),
            "stored_at": self.stored_at,
            "command": shlex.join(["flowllm", "show", self.run.run_id, node.node_id]),
            "item": None if node.item is None else shown(node.item).as_dict(),
            **request_of(node.parts),
            "output": None if node.output is None or node.counts is not None else shown(node.output).as_dict(),
            "error": None if node.error is None else error_of(node.error),
            "attempt_log": [_attempt(attempt) for attempt in self.attempts],
            "why": None if self.why is None else self.why.as_dict(),
            "within": [item_row(self.run, one) for one in self.within],
            **self.beside._asdict(),
        }


_AS_THEY_ARE: Final = (
    *("parent", "model", "provider", "cached", "reused", "truncated", "attempts", "key", "started_at", "finished_at"),
    *("queue_s", "call_s"),
)


async def node_detail(store: Store, run: RunRecord, node: NodeRecord, why: Why | None = None) -> NodeDetail:
    """All of one node; `why` is what `explain` says of it."""
    if node.counts is not None and node.status not in NODE_TERMINAL:
        node = replace(node, counts=await counts_so_far(store, node))
    attempts = [] if node.counts is not None else await store.attempts(run.run_id, node.node_id)
    within = [] if node.counts is not None else await store.nodes(run.run_id, node.node_id)
    memo = await store.memo(node.key) if node.cached and node.key else None
    beside = _ALONE if node.place is None else await store.beside(run.run_id, NodeId(node.parent), node.place)
    return NodeDetail(
        run=run,
        node=node,
        spend=await store.spend(run.run_id, node.node_id),
        attempts=[as_seen(attempt, run) for attempt in attempts],
        within=sorted(within, key=lambda one: (one.started_at or 0.0, one.seq))[:MOST_WITHIN],
        beside=beside,
        why=why,
        stored_at=None if memo is None else memo.created_at,
    )


def part_of(node: NodeRecord, part: str) -> Json:
    """One part of a node as a whole: `item`, `output`, `answer` (the last one of a node that failed), `request`, or
    `message.0`. Raises UsageError for one that there is not."""
    match part.partition("."):
        case ("item" | "output" as name, _, ""):
            return getattr(node, name)
        case ("answer", _, ""):
            return (node.error or {}).get("answer")
        case ("request", _, ""):
            return dict(node.parts)
        case ("message", _, number) if number.isdecimal() and int(number) < len(
            messages := Sent.of(node.parts).messages
        ):
            return messages[int(number)][1]
    raise UsageError(f"{node.node_id} has no part `{part}`")


class Sent(NamedTuple):
    """What is on record of a request, or of what a step that sends none was computed from."""

    messages: list[tuple[str, Json]]
    """Roles and contents; of texts to embed the role is `text`, or `texts` and the content a list."""
    settings: Mapping[str, Json]
    """The rest of the request."""
    computed_from: Mapping[str, Json]

    @classmethod
    def of(cls, parts: Mapping[str, Json]) -> Sent:
        """By the parts of a node's key."""
        body = parts.get("body")
        if not isinstance(body, dict):
            return cls([], {}, {name: value for name, value in parts.items() if name not in _NO_REQUEST})
        settings = {name: value for name, value in body.items() if name not in {"messages", "input"}}
        return cls(_messages(body), settings, {})


def request_of(parts: Mapping[str, Json]) -> dict[str, Json]:
    """`messages`, `settings`, `computed_from` (see `Sent`), `reason` and `suspended`."""
    messages, settings, rest = Sent.of(parts)
    return {
        "messages": [{"role": visible(role), "content": shown(content).as_dict()} for role, content in messages],
        "settings": shown(settings).as_dict() if settings else None,
        "computed_from": shown(rest).as_dict() if rest else None,
        "reason": parts.get("reason"),
        "suspended": parts.get(SUSPENDED),
    }


def _messages(body: Mapping[str, Json]) -> list[tuple[str, Json]]:
    found = body.get("messages") or body.get("input")
    if not isinstance(found, list):
        found = [] if found is None else [found]
    if all(isinstance(one, dict) for one in found):
        return [(str(one.get("role", "message")), one.get("content")) for one in found]
    return [("texts", found) if len(found) > 1 else ("text", found[0])]


def error_of(error: Mapping[str, Json]) -> dict[str, Json]:
    """An error for the eye: `type`, `message`, `hint`, the last `answer`, the `traceback` of a function."""
    texts = {name: visible(str(error.get(name) or "")) for name in ("type", "message", "hint", "traceback")}
    return {**texts, "answer": shown(error["answer"]).as_dict() if error.get("answer") else None}


def _attempt(attempt: AttemptRecord) -> dict[str, Json]:
    error = attempt.error
    return {
        "number": attempt.number,
        "status": attempt.status.value,
        "model": attempt.model or None,
        "started_at": attempt.started_at,
        "took_s": None if attempt.finished_at is None else attempt.finished_at - attempt.started_at,
        "error": error_of(error) if error else None,
        "abandoned": (error or {}).get("type") == ABANDONED,
        "usage": attempt.usage.as_dict(),
        "cost_usd": attempt.cost_usd if attempt.model else 0.0,
        "is_request": bool(attempt.model),
    }
