"""A worker of any run: finds one that has something to do, joins it, and leaves it."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from flowllm.app.cluster_workers import ClusterWorkers, worker_environ
from flowllm.app.prepare import PreparedRun, unsplit
from flowllm.app.run_attempt import SharedServices
from flowllm.app.run_worker import WANTED, RunWorker
from flowllm.app.settings import Settings
from flowllm.app.worker_pool import LocalWorkers, WorkerPool
from flowllm.core.cancel import StopSignal
from flowllm.core.clock import Clock
from flowllm.core.errors import FlowLLMError, OwnershipLost, UsageError
from flowllm.core.types import RunId
from flowllm.language.files import DiskFiles, Unreadable
from flowllm.reporting.base import Observer
from flowllm.storage.base import RunRecord, Store
from flowllm.storage.open import address_of, is_memory, is_postgres
from flowllm.storage.ranges import LeasedRange, RangeReport

LOOK: Final = (0.05, 0.5)
"""Seconds from one look for something to do to the next: at first, and at most."""
LINGER: Final = 2.0
"""Seconds for which a worker of any run stays at one that has nothing to do."""
Joined: TypeAlias = tuple[PreparedRun, SharedServices]


class Worker:
    """One worker process."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        join: Callable[[RunRecord], Joined],
        *,
        observers: Callable[[RunRecord], Sequence[Observer]],
        tell: Callable[[str], None],
        started: bool,
    ) -> None:
        """`join` prepares a run; `tell` hears why this worker cannot work at one of several; `started`: this process was
        started by the run itself."""
        self._store = store
        self._clock = clock
        self._join = join
        self._observers = observers
        self._tell = tell
        self._started = started
        self._refused: set[RunId] = set()
        self._asked = -math.inf

    async def work(self, run_id: str | None, *, idle: float | None, stop: StopSignal) -> None:
        """See `FlowLLM.work`."""
        wanted = None if run_id is None else (await self._store.run(RunId(run_id))).run_id
        stopped, pause, since = asyncio.Event(), LOOK[0], self._clock.monotonic()
        stop.listen(stopped, stopped.set)
        try:
            while not stop.stopped:
                worked = await self._one(wanted, stop, idle)
                now = self._clock.monotonic()
                since = now if worked else since
                pause = LOOK[0] if worked else min(LOOK[1], pause * 1.5)
                if wanted is not None and not worked and await self._over(wanted):
                    return
                if idle is not None and now >= since + idle:
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopped.wait(), pause)
        finally:
            stop.forget(stopped)

    async def _over(self, run_id: RunId) -> bool:
        """The run has ended. Of one whose process is silent nobody knows: what was started by it ends with it, by its input."""
        run = await self._store.run(run_id)
        return not run.going and run.finished_at is not None

    async def _one(self, wanted: RunId | None, stop: StopSignal, idle: float | None) -> bool:
        """Work at one run for as long as there is something to do; false: there was nothing."""
        for run_id in [wanted] if wanted is not None else await self._store.work():
            if run_id in self._refused:
                continue
            run = await self._store.run(run_id)
            leased = await self._store.lease_range(run_id) if run.going else None
            if leased is None and wanted is not None and run.going and not self._started:
                await self._want(run_id)
            if leased is not None:
                try:
                    await self._join_run(run, leased, stop, idle if wanted is not None else LINGER)
                except UsageError as error:
                    if wanted is not None:
                        raise
                    self._refused.add(run_id)
                    self._tell(f"{error.message}\n  {error.hint}".rstrip())
                return True
        return False

    async def _want(self, run_id: RunId) -> None:
        """Say so once in a while: a run without workers hands out items to who comes."""
        now = self._clock.monotonic()
        if now >= self._asked + WANTED:
            self._asked = now
            await self._store.want_range(run_id)

    async def _join_run(self, run: RunRecord, leased: LeasedRange, stop: StopSignal, idle: float | None) -> None:
        try:
            run = await self._store.run(run.run_id)  # as it is in the attempt whose range this is
            if not self._started:
                check_files(run)
            prepared, shared = self._join(run)
        except FlowLLMError as error:
            report = RangeReport(number=leased.number, given_back=True)
            await self._store.report_range(leased.lease, report)
            self._store.leave_run(run.run_id)
            raise UsageError(f"no work at run {run.run_id} here: {error.message}", hint=error.hint) from error
        worker = RunWorker(prepared, run, shared, observers=self._observers(run), leased=leased, idle=idle)
        with contextlib.suppress(OwnershipLost):  # another attempt at the run has begun, or it was deleted
            await worker.execute(stop)


def check_files(run: RunRecord) -> None:
    """Functions of the user's are here as the run has them. Raises UsageError: what they import from beside them may be
    another version too."""
    disk, other = DiskFiles(), []
    for path, text in run.snapshot.items():
        if path.endswith(".py"):
            try:
                same = disk.read(path) == text
            except Unreadable:
                same = False
            other += [] if same else [path]
    if other:
        raise UsageError(
            f"{', '.join(other)} {'is' if len(other) == 1 else 'are'} not here as the run has it",
            hint="a worker needs the files of the workflow at the same place, in the same version: by a shared folder, or an image",
        )


def pool_of(
    workers: int | WorkerPool | None, prepared: PreparedRun, settings: Settings
) -> tuple[WorkerPool | None, list[str]]:
    """What starts the workers of a run, and what is to be told where it can have none."""
    cluster = prepared.cluster
    if workers is None and (cluster is None or not cluster.remote or not is_postgres(settings.database)):
        return None, []
    if why := unsplit(prepared, in_memory=is_memory(settings.database)):
        told = f"no workers: {why}; this process executes all of it"
        return None, [] if workers is None else [told]
    if workers is not None and not isinstance(workers, int):
        return workers, []
    url = address_of(settings.database)
    if cluster is not None and workers != 0:
        return ClusterWorkers(workers, cluster, worker_environ(prepared, settings, url)), []
    own = {"FLOWLLM_DATABASE_URL": url}
    if settings.path is not None:
        own["FLOWLLM_CONFIG"] = str(settings.path.absolute())
    alone = [] if workers else ["no worker is started: items wait for those that join, with `flowllm work`"]
    return LocalWorkers(workers or 0, {**settings.environ, **own}), alone
