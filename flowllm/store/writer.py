"""The one writer of a process: a thread that commits in groups.

Callers hand over units and wait. The thread drains what all callers of a tick handed over, and what came
meanwhile, writes it in one transaction and wakes the waiters, once a group. So one disk sync serves all that wait, and a lone caller still waits for just
one. A group that fails is tried unit by unit: only the bad unit fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from flowllm.errors import FlowLLMError, StorageFailed
from flowllm.store import statements
from flowllm.store.connection import BUSY_TIMEOUT, begin, connect_writer, rollback
from flowllm.store.faults import concerns_data, explain, worth_one_by_one
from flowllm.store.refusals import ownership_lost
from flowllm.store.text import to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from flowllm.errors import OwnershipLost
    from flowllm.store.base import Fence

GROUP: Final = 1000
"""From so many units on a transaction takes no more: bounds its memory and the wait of its first unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What is written wholly or not at all: rows by statement, under fences; or an action of its own.

    An action runs inside the transaction. It checks before it writes: a FlowLLMError that it raises is its
    caller's alone and must leave nothing written.
    """

    fences: tuple[Fence, ...] = ()
    rows: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    action: Callable[[sqlite3.Connection], Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failpoints:
    """Hooks for tests, called in the writer's thread around every commit."""

    before_commit: Callable[[], None] | None = None
    after_commit: Callable[[], None] | None = None
    before_wake: Callable[[], None] | None = None


class _Job:
    """A unit, who waits for it, and what became of it."""

    __slots__ = ("done", "error", "future", "loop", "result", "unit")

    def __init__(self, unit: Unit, loop: asyncio.AbstractEventLoop) -> None:
        self.unit = unit
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None


class Writer:
    """Writes units in the order in which they were given, all from one event loop.

    Opens the database at the first one.
    """

    def __init__(
        self, path: Path, *, busy_timeout: float = BUSY_TIMEOUT, failpoints: Failpoints | None = None
    ) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._failpoints = failpoints or Failpoints()
        self._queue: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._fresh: list[_Job] = []
        """Units of this tick, not yet handed over."""
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    async def write(self, unit: Unit) -> Any:
        """Write a unit and give its action's result, once it is durable.

        A unit that is queued will be written: a caller that is cancelled waits for it all the same, then the
        cancellation goes on. Raises StoreError, or ValueError for a value that the database cannot hold.
        """
        if self._closed:
            raise StorageFailed(f"The database {self._path} has been closed.")
        job = _Job(unit, asyncio.get_running_loop())
        if not self._fresh:
            job.loop.call_soon(self._hand_over)
        self._fresh.append(job)
        try:
            await job.future
        except asyncio.CancelledError:
            await _outlast(job)
            raise
        if job.error is not None:
            raise job.error
        return job.result

    async def close(self) -> None:
        """Write what is queued, then give back the connection. May be called twice."""
        self._closed = True
        self._hand_over()
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            await asyncio.get_running_loop().run_in_executor(None, thread.join)

    def _hand_over(self) -> None:
        if not self._fresh:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="flowllm-writer", daemon=True)
            self._thread.start()
        jobs, self._fresh = self._fresh, []
        self._queue.put(jobs)

    # everything below runs in the writer's thread

    def _run(self) -> None:
        going = True
        while going:
            jobs, going = self._drain()
            if jobs:
                self._carry_out(jobs)
                _wake(jobs)
        self._disconnect()

    def _carry_out(self, jobs: Sequence[_Job]) -> None:
        try:
            self._commit(jobs)
            if self._failpoints.before_wake is not None:
                self._failpoints.before_wake()
        except Exception as error:  # noqa: BLE001 - a waiter that is never woken would hang the run
            for job in jobs:
                job.error = explain(error, self._path)

    def _drain(self) -> tuple[list[_Job], bool]:
        """What was handed over, at least one unit; and whether there may be more."""
        more = self._queue.get()
        jobs: list[_Job] = []
        while more is not None:
            jobs += more
            if len(jobs) >= GROUP:
                return jobs, True
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                return jobs, True
        return jobs, False

    def _commit(self, jobs: Sequence[_Job]) -> None:
        error = self._attempt(jobs)
        if error is None:
            return
        if len(jobs) > 1 and worth_one_by_one(error):
            for job in jobs:
                job.result = job.error = None
                self._commit([job])
            return
        for job in jobs:
            # Each its own: an exception that several tasks raise would mix their tracebacks.
            job.error = explain(error, self._path)
            job.error.__cause__ = error

    def _attempt(self, jobs: Sequence[_Job]) -> Exception | None:
        """One transaction for all jobs; the error if it failed and nothing was written."""
        try:
            connection = self._connect()
            begin(connection)
            _apply(connection, jobs)
            if self._failpoints.before_commit is not None:
                self._failpoints.before_commit()
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - whatever it is, the waiters must hear of it
            self._undo(error)
            return error
        if self._failpoints.after_commit is not None:
            self._failpoints.after_commit()
        return None

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect_writer(self._path, busy_timeout=self._busy_timeout)
        return self._connection

    def _undo(self, error: Exception) -> None:
        """Roll back; after a fault of the storage the next group starts on a fresh connection."""
        try:
            if self._connection is not None:
                rollback(self._connection)
        except sqlite3.Error:
            self._disconnect()
        if not concerns_data(error):
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


async def _outlast(job: _Job) -> None:
    """Wait until a job is done, through any further cancellation."""
    while not job.done:
        job.future = job.loop.create_future()
        try:
            await job.future
        except asyncio.CancelledError:
            continue


def _wake(jobs: Sequence[_Job]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
        jobs[0].loop.call_soon_threadsafe(_deliver, jobs)


def _deliver(jobs: Iterable[_Job]) -> None:
    """In the waiters' loop: every future of these jobs is theirs alone."""
    for job in jobs:
        job.done = True
        if not job.future.done():
            job.future.set_result(None)


def _apply(connection: sqlite3.Connection, jobs: Iterable[_Job]) -> None:
    """Carry out the jobs in order; like rows of neighbours go in one statement."""
    batch: list[_Job] = []
    for job in jobs:
        action = job.unit.action
        if action is None:
            batch.append(job)
            continue
        _apply_rows(connection, batch)
        batch = []
        job.error = _stale(connection, job.unit.fences, {})
        if job.error is None:
            try:
                job.result = action(connection)
            except FlowLLMError as error:
                job.error = error
    _apply_rows(connection, batch)


def _apply_rows(connection: sqlite3.Connection, jobs: Iterable[_Job]) -> None:
    epochs: dict[str, int | None] = {}
    rows: dict[str, list[tuple[Any, ...]]] = {statement: [] for statement in statements.ORDER}
    for job in jobs:
        job.error = _stale(connection, job.unit.fences, epochs)
        if job.error is None:
            for statement, row in job.unit.rows:
                rows[statement].append(row)
    for statement, values in rows.items():
        if values:
            connection.executemany(statement, values)


def _stale(
    connection: sqlite3.Connection, fences: Iterable[Fence], epochs: dict[str, int | None]
) -> OwnershipLost | None:
    """The error for a unit of which one fence is behind its run's epoch; epochs once read are kept."""
    for fence in fences:
        run_id = fence.run_id
        if run_id not in epochs:
            found = connection.execute(statements.EPOCH, (to_text(run_id),)).fetchone()
            epochs[run_id] = found[0] if found else None
        if epochs[run_id] != fence.epoch:
            return ownership_lost(fence, epochs[run_id])
    return None
