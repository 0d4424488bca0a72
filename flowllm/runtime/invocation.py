"""What the nodes of one graph, or the items of one foreach, have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from flowllm.core.cancel import CancelToken
from flowllm.core.types import Json, NodeId, Usage
from flowllm.language.workflow import Step
from flowllm.runtime.compiled_graph import CompiledGraph
from flowllm.steps.base import ItemPosition
from flowllm.steps.lazy import Lazy
from flowllm.storage.base import NodeRecord


class UsageTotals:
    """What the nodes within a node took, added up."""

    def __init__(self, above: UsageTotals | None = None) -> None:
        self._above = above
        self.sent = 0
        """Requests that went out."""
        self.attempts = 0
        self.answered = 0
        """Nodes with an answer from the memo."""
        self.usage = Usage()
        self.cost_usd: float | None = 0.0
        self.queue_s = 0.0
        self.call_s = 0.0

    def note_sent(self) -> None:
        """A request goes out."""
        tally: UsageTotals | None = self
        while tally is not None:
            tally.sent += 1
            tally = tally._above  # noqa: SLF001 - another one of this class

    def add(self, record: NodeRecord) -> None:
        """A node that does the work itself has ended."""
        if not (record.attempts or record.cached or record.cost_usd is None):
            return
        tally: UsageTotals | None = self
        while tally is not None:
            tally.attempts += record.attempts
            tally.answered += record.cached
            tally.usage += record.usage
            unknown = tally.cost_usd is None or record.cost_usd is None
            tally.cost_usd = None if unknown else (tally.cost_usd or 0.0) + (record.cost_usd or 0.0)
            tally.queue_s += record.queue_s
            tally.call_s += record.call_s
            tally = tally._above  # noqa: SLF001

    def figures(self) -> dict[str, Json]:
        """The sums as fields of a node's record."""
        return {
            "attempts": self.attempts,
            "cached": self.attempts == 0 and self.answered > 0,
            "usage": self.usage,
            "cost_usd": self.cost_usd,
            "queue_s": self.queue_s,
            "call_s": self.call_s,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What templates look at of one foreach; None where nothing does."""

    output: list[Json] | None = None
    rows: Json = None
    lazy: Lazy | None = None


@dataclass(slots=True, kw_only=True)
class Scope:
    """Where a graph or a foreach stands within its run."""

    token: CancelToken
    tally: UsageTotals = field(default_factory=UsageTotals)
    fail_fast: bool = False
    """A failure in it ends the run."""
    done: int = 0
    total: int = 0
    """Nodes that have ended, and all of them; 0 where that is not known."""
    missed: Callable[[], None] | None = None
    """To be called when it is known of a node in it that something must really be done."""
    results: dict[NodeId, Result] = field(default_factory=dict)
    """Of foreaches in the graph, from their end until the graph has taken note of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInvocation:
    """One node to carry out, with all that it needs to begin."""

    node_id: NodeId
    step: Step
    values: Mapping[str, Json]
    """What its templates see."""
    standing: ItemPosition
    scope: Scope
    tally: UsageTotals
    """Where what it takes is added up."""
    earlier: NodeRecord | None = None
    """What an earlier sitting left of it."""
    within: Sequence[NodeRecord] | None = None
    """The nodes within it that an earlier sitting left; None: not looked up yet."""
    missed: Callable[[], None] | None = None
    """To be called when it is known that something must really be done."""
    is_row: bool = False
    """It is a row of `--over`: the item itself gives the inputs."""
    many: bool = True
    """Its step's `foreach` is still to be gone through; False for one item of it."""
    blueprint: CompiledGraph | None = None
    """The graph in which it stands; None for a row of `--over`."""


Carry: TypeAlias = "Callable[[NodeInvocation], Awaitable[NodeRecord | None]]"
"""Carries a node of any kind to its end. Gives its record, durable; None if the run stopped before. Does not raise."""
