"""Workers that a cluster keeps going, and what they are given of this process's environment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flowllm.app.cluster_workers import ClusterWorkers, check_workers, worker_environ
from flowllm.app.prepare import PreparedRun
from flowllm.app.settings import Settings
from flowllm.app.worker_pool import PoolEvents
from flowllm.cluster.base import Cluster, ClusterWorker
from flowllm.core.errors import ClusterDown, UsageError
from flowllm.core.types import RunId
from flowllm.language.project import Project
from flowllm.runtime.options import RunOptions
from tests.support.workflows import workflow

URL = "postgresql://db.example.com/flowllm"


class Nodes:
    """A cluster of three nodes, whose workers end as they are told to."""

    def __init__(self, end: Callable[[int], tuple[int, str]]) -> None:
        self.end = end
        self.workers: list[ClusterWorker] = []
        self.stopped: list[bool] = []

    async def nodes(self) -> int:
        return 3

    async def work(self, worker: ClusterWorker, said: Callable[[str], None]) -> tuple[int, str]:
        self.workers.append(worker)
        said("hello")
        await asyncio.sleep(0)
        return self.end(len(self.workers))

    def stop_workers(self, *, cancel: bool) -> None:
        self.stopped.append(cancel)


class Told:
    """What a pool tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.gone = 0
        self.lost = 0

    @property
    def events(self) -> PoolEvents:
        return PoolEvents(tell=self.lines.append, gone=self._gone, lost=self._lost)

    def _gone(self) -> None:
        self.gone += 1

    def _lost(self) -> None:
        self.lost += 1


def pooled(size: int | None, end: Callable[[int], tuple[int, str]]) -> tuple[Nodes, Told, int]:
    async def main() -> tuple[Nodes, Told, int]:
        nodes, told = Nodes(end), Told()
        pool = ClusterWorkers(size, cast("Cluster", nodes), {"A": "b"})
        await pool.open()
        await pool.start(RunId("r"), told.events)
        while told.gone < pool.size:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        await pool.close(cancel=True)
        return nodes, told, pool.size

    return asyncio.run(main())


@pytest.mark.parametrize(("asked", "size"), [(None, 3), (5, 5)])
def test_there_is_one_on_each_node_or_as_many_as_asked(asked: int | None, size: int) -> None:
    nodes, told, found = pooled(asked, lambda _: (0, ""))
    assert found == len(nodes.workers) == size
    assert nodes.workers[0] == ClusterWorker(words=["work", "r", "--started"], environ={"A": "b"})
    assert nodes.stopped == [True]
    assert [line for line in told.lines if "hello" in line] == ["worker 1: hello"], "what all say is told once"


def test_a_cluster_that_is_lost_leaves_the_rest_to_this_process() -> None:
    def lost(_: int) -> tuple[int, str]:
        raise ClusterDown("gone")

    nodes, told, _ = pooled(2, lost)
    assert len(nodes.workers) == 2
    assert told.lost == 1
    assert told.lines[-2:] == [
        "worker 2 is not started again: gone",
        "no worker is left: this process executes the rest",
    ]


def test_workers_get_the_database_and_keys_and_nothing_else() -> None:
    loaded = workflow(
        "secrets: [TOKEN]\n"
        "providers: {own: {type: openai, base_url: 'http://x.example.com', api_key_env: OWN, headers: {X-Team: '${TEAM}'}}}\n"
        "steps: {a: {value: 1}}\n"
    )
    environ = {
        "TOKEN": "t",
        "OWN": "o",
        "TEAM": "tea",
        "OPENAI_API_KEY": "k",
        "FLOWLLM_MODEL": "m",
        "HOME": "/home/me",
        "FLOWLLM_CONFIG": "/home/me/flowllm.yaml",
        "FLOWLLM_DATABASE_URL": "x",
        "PATH": "/bin",
    }
    settings = Settings(database=URL, project=Project(), path=None, environ=environ)
    prepared: Any = SimpleNamespace(workflow=loaded)
    assert worker_environ(cast("PreparedRun", prepared), settings, URL) == {
        "TOKEN": "t",
        "OWN": "o",
        "TEAM": "tea",
        "OPENAI_API_KEY": "k",
        "FLOWLLM_MODEL": "m",
        "FLOWLLM_DATABASE_URL": URL,
    }


@pytest.mark.parametrize(
    ("workers", "cluster", "database", "refused"),
    [
        (2, "ray://head:10001", "runs.db", True),
        (2, "ray:auto", "sqlite:///runs.db", True),
        (2, "ray://head:10001", URL, False),
        (2, "ray", "runs.db", False),
        (0, "ray://head:10001", "runs.db", False),
        (None, "ray://head:10001", "runs.db", False),
        (2, None, "runs.db", False),
    ],
)
def test_a_file_is_no_database_for_workers_elsewhere(
    workers: int | None, cluster: str | None, database: str, refused: bool
) -> None:
    options = RunOptions(cluster=cluster)
    if not refused:
        check_workers(workers, options, database)
        return
    with pytest.raises(UsageError, match="all its machines reach"):
        check_workers(workers, options, database)
