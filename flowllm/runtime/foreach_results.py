"""What a foreach holds in memory of its items: only what a template of its graph looks at."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from flowllm.core.fingerprint import canonical
from flowllm.core.fingerprint import digest as digest_of
from flowllm.core.types import Json, NodeStatus, Part
from flowllm.runtime.foreach_state import ForeachState
from flowllm.runtime.invocation import NodeInvocation, Result
from flowllm.runtime.run_context import RunContext
from flowllm.steps.base import Lazy
from flowllm.storage.base import NodeRecord

_DIGEST_BITS = 256


def item_row(record: NodeRecord) -> dict[str, Json]:
    """What templates see of an item in `steps.<id>.rows`."""
    return {
        "index": record.place or 0,
        "item": record.item,
        "status": record.status.value,
        "output": record.output if record.status is NodeStatus.SUCCEEDED else None,
        "error": record.error,
    }


class ForeachResults:
    """Outputs, rows and a digest of one foreach, as far as something looks at them."""

    def __init__(self, invocation: NodeInvocation) -> None:
        graph, step = invocation.scope.graph, invocation.step.id
        self._node = invocation.node_id
        self._holds_outputs = graph is not None and graph.looks_at(step, Part.OUTPUT)
        accepting = invocation.step.foreach is not None and invocation.step.foreach.accept is not None
        self._collects = self._holds_outputs and not accepting  # what is accepted is held by who chooses
        self._holds_rows = graph is not None and graph.looks_at(step, Part.ROWS)
        self._streams = graph is not None and graph.streams(step)
        self._outputs: dict[int, Json] = {}
        self._rows: dict[int, Json] = {}
        self._digest = 0

    def add(self, record: NodeRecord) -> None:
        """An item ended."""
        index = record.place or 0
        output = record.output if record.status is NodeStatus.SUCCEEDED else None
        if self._collects:
            self._outputs[index] = output
        if self._holds_rows:
            self._rows[index] = item_row(record)
        if self._streams:
            self._add_digest(index, output)

    def _add_digest(self, index: int, output: Json) -> None:
        """Items end in any order: the digest is a sum of those of all items."""
        own = hashlib.sha256(f"{index}:{canonical(output)}".encode()).digest()
        self._digest = (self._digest + int.from_bytes(own)) % (1 << _DIGEST_BITS)

    def replaced(self, record: NodeRecord) -> None:
        """An item that was added has failed after all."""
        index = record.place or 0
        if self._holds_rows:
            self._rows[index] |= {"status": record.status.value, "output": None, "error": record.error}

    def result(self, context: RunContext, state: ForeachState) -> Result:
        """What templates look at, once the foreach is over."""
        return self.chosen(context, state.chosen(), state.chosen_outputs)

    def chosen(
        self, context: RunContext, numbers: Sequence[int] | None, chosen_outputs: Callable[[], list[Json]]
    ) -> Result:
        """The same, given the numbers of the items that `accept` chose, None without it, and their outputs."""
        if not self._holds_outputs:
            outputs = None
        elif numbers is None:
            outputs = [self._outputs[index] for index in sorted(self._outputs)]
        else:
            outputs = chosen_outputs()
        rows = [self._rows[index] for index in sorted(self._rows)] if self._holds_rows else None
        lazy = None
        if self._streams:
            # which other items have ended is a matter of timing: only those that were chosen count
            digest = f"{self._digest:064x}" if numbers is None else digest_of(canonical(chosen_outputs()))
            lazy = Lazy(sequence=context.store.outputs(context.run.run_id, self._node, numbers=numbers), digest=digest)
        return Result(output=outputs, rows=rows, lazy=lazy)
