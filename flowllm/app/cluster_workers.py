"""Workers of a run on the nodes of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from flowllm.app.prepare import PreparedRun
from flowllm.app.settings import Settings
from flowllm.app.wiring import VARIABLE
from flowllm.app.worker_pool import WRONG_USAGE, PoolEvents, Workers
from flowllm.cluster.base import Cluster, ClusterWorker, cluster_address
from flowllm.core.errors import ClusterDown, UsageError
from flowllm.core.types import RunId
from flowllm.runtime.options import RunOptions
from flowllm.storage.open import is_postgres


def check_workers(workers: object, options: RunOptions, database: str) -> None:
    """Raises UsageError for workers on machines that do not see the database."""
    asked = isinstance(workers, int) and workers > 0
    if (
        asked
        and options.cluster is not None
        and not cluster_address(options.cluster).local
        and not is_postgres(database)
    ):
        raise UsageError(
            "workers on a cluster need a database that all its machines reach, and this one is a file",
            hint="keep runs in PostgreSQL: --db postgresql://…; without `--workers` this process executes all but steps with `resources`",
        )


def worker_environ(prepared: PreparedRun, settings: Settings, url: str) -> dict[str, str]:
    """What workers of a run need of this process's environment: the database, keys of providers, secrets, settings."""
    providers, environ = prepared.workflow.providers.values(), settings.environ
    named = {name for one in providers for text in one.headers.values() for name in VARIABLE.findall(text)}
    named |= {one.api_key_env for one in providers if one.api_key_env} | {*prepared.workflow.secrets}
    named |= {name for name in environ if name.startswith(("OPENAI_", "FLOWLLM_"))} - {
        "FLOWLLM_CONFIG",
        "FLOWLLM_CLUSTER",
    }
    return {**{name: environ[name] for name in named if name in environ}, "FLOWLLM_DATABASE_URL": url}


class ClusterWorkers(Workers):
    """Workers that a cluster starts, spreads over its nodes, and starts again where a node dies."""

    def __init__(self, size: int | None, cluster: Cluster, environ: Mapping[str, str]) -> None:
        """`size` None: one on each node. `environ` is what they need besides what their nodes have: the database, and keys."""
        super().__init__(size or 0)
        self._one_a_node = size is None
        self._cluster = cluster
        self._environ = environ

    async def open(self) -> None:
        """See `WorkerPool`. Raises ClusterDown."""
        asked, self._size = self._size, 0  # none where there is no cluster
        nodes = await self._cluster.nodes()
        self._size = self._left = nodes if self._one_a_node else asked

    async def close(self, *, cancel: bool) -> None:
        """See `WorkerPool`."""
        self._closing.set()
        self._cluster.stop_workers(cancel=cancel)
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _one(self, number: int, run_id: RunId, events: PoolEvents) -> tuple[int, str]:
        worker = ClusterWorker(words=["work", run_id, "--started"], environ=self._environ)
        try:
            return await self._cluster.work(worker, lambda line: self._say(number, line, events))
        except ClusterDown as error:
            return WRONG_USAGE, error.message  # to have it anew would change nothing
        finally:
            events.gone()
