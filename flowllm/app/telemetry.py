"""What a FlowLLM tells OpenTelemetry, where somebody listens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from flowllm.app.observer_hub import complain
from flowllm.core.errors import PackageMissing, describe_error
from flowllm.core.types import NodeId, RunId
from flowllm.reporting.base import Observer
from flowllm.reporting.telemetry import content_of
from flowllm.reporting.telemetry_export import TelemetryExport
from flowllm.reporting.text import one_line
from flowllm.storage.base import Store


class RunTelemetry:
    """One for each FlowLLM. Makes nothing until a run begins while somebody listens."""

    def __init__(self, environ: Mapping[str, str], tell: Callable[[str], object]) -> None:
        """`tell` hears why nothing is told although the environment wants it."""
        self._environ = environ
        self._tell = tell
        self._export: TelemetryExport | None = None

    def with_observer(self, observers: Sequence[Observer], store: Store) -> Sequence[Observer]:
        """A run's observers, with one for OpenTelemetry where that is wanted."""
        if not TelemetryExport.wanted(self._environ):
            return observers
        try:
            self._export = self._export or TelemetryExport(self._environ)
        except PackageMissing as missing:
            self._tell(f"{missing.message}: {missing.hint}")
            return observers
        except Exception as error:  # noqa: BLE001 - a run does not need it, whatever an SDK finds wrong with its settings
            self._tell(f"nothing is told to OpenTelemetry: {describe_error(error)}")
            return observers

        def content(run_id: RunId, node_id: NodeId) -> Mapping[str, str]:
            node = store.results(run_id).node(node_id)
            return {} if node is None else content_of(node.parts, node.output)

        return [*observers, self._export.observer(content)]

    async def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        export, self._export = self._export, None
        if export is not None:
            wrong = await asyncio.to_thread(export.close)
            if wrong:
                complain(f"OpenTelemetry: {one_line(wrong)}")
