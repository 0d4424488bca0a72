"""What the nodes of one graph, or the items of one foreach, have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flowllm.core.cancel import CancelToken
from flowllm.core.types import Json, NodeId
from flowllm.language.workflow import Step
from flowllm.runtime.compiled_graph import CompiledGraph
from flowllm.runtime.usage import UsageTotals
from flowllm.steps.base import ItemPosition
from flowllm.steps.lazy import Lazy
from flowllm.storage.base import NodeRecord


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
    totals: UsageTotals = field(default_factory=UsageTotals)
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
    """One node to execute, with all that it needs to begin."""

    node_id: NodeId
    step: Step
    values: Mapping[str, Json]
    """What its templates see."""
    position: ItemPosition
    scope: Scope
    totals: UsageTotals
    """Where what it takes is added up."""
    earlier: NodeRecord | None = None
    """What an earlier attempt left of it."""
    within: Sequence[NodeRecord] | None = None
    """The nodes within it that an earlier attempt left; None: not looked up yet."""
    missed: Callable[[], None] | None = None
    """To be called when it is known that something must really be done."""
    is_row: bool = False
    """It is a row of `--over`: the item itself gives the inputs."""
    many: bool = True
    """Its step's `foreach` is still to be gone through; False for one item of it."""
    graph: CompiledGraph | None = None
    """The graph that it belongs to; None for a row of `--over`."""
    waits: Mapping[str, float] | None = None
    """Seconds that it waited before it could begin."""
