"""The one writer of a process: a thread that commits in groups.

Callers hand over units and wait. The thread drains what all callers of a tick handed over, and what came
meanwhile, writes it in one transaction and wakes the waiters, once a group. So one disk sync serves all that wait, and a lone caller still waits for just
one. A group that fails is tried unit by unit: only the bad unit fails. Results that the database cannot take go to the
files of spill.py, and come before whatever is written next.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from flowllm.core.errors import StorageFailed, StoreError
from flowllm.core.records import dataclass
from flowllm.storage.base import RunLease
from flowllm.storage.sql.engine import Connection, Engine
from flowllm.storage.sql.faults import Lost, kept_in, no_room
from flowllm.storage.sql.flights import Flights
from flowllm.storage.sql.groups import apply, take_back
from flowllm.storage.sql.jobs import Job, outlast, wake
from flowllm.storage.sql.patience import Patience
from flowllm.storage.sql.presence import Presence
from flowllm.storage.sql.spill import SENT, Spill
from flowllm.storage.sql.statements import Unit, packed
from flowllm.storage.sql.texts import Texts

GROUP: Final = 1000
"""From so many units on a transaction takes no more: bounds its memory and the wait of its first unit."""

RIDERS: Final = 10_000
"""Units that nobody waits for which are kept for the next commit; of more the oldest are lost."""

ROOM: Final = 1 << 16
"""Bytes that are kept free for the result of a request, compressed; as many as the largest so far had, if those were
more."""

SETTLING: Final = 0.2
"""Seconds for whoever removes or moves a whole folder to come to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failpoints:
    """Hooks for tests, called in the writer's thread around every commit."""

    before_commit: Callable[[], None] | None = None
    after_commit: Callable[[], None] | None = None
    before_wake: Callable[[], None] | None = None


class Writer:
    """Writes units in the order in which they were given, all from one event loop.

    Opens the database at the first one.
    """

    def __init__(self, engine: Engine, *, failpoints: Failpoints | None = None) -> None:
        self.presence = Presence()
        self._flights = Flights(self.presence)
        self._engine = engine
        self.patience = Patience(engine)
        self._failpoints = failpoints or Failpoints()
        self._queue: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._riders: deque[Unit] = deque(maxlen=RIDERS)
        self._fresh: list[Job] = []
        """Units of this tick, not yet handed over."""
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._closed = False
        self._watch = engine.watch()
        self._texts = Texts()
        self._spill = Spill(engine.home)
        self._lost: Lost | None = None
        self._lost_told = False
        """Somebody who waited has heard of it."""
        self._asked: list[threading.Event] = []
        self._gaps: dict[RunLease, Exception] = {}
        """Owners of which a result is on record nowhere, and why: what sums up others is not written for them any more."""
        self._open: set[str] = set()
        """Attempts that are out: each needs room for its result."""
        self._largest = self._room = ROOM
        """Characters of the largest result, and bytes that are kept free for each."""

    async def write(self, unit: Unit) -> Any:
        """Write a unit and give its action's result, once it is durable.

        A unit that is queued will be written: a caller that is cancelled waits for it all the same, then the
        cancellation goes on. Raises StoreError, or ValueError for a value that the database cannot hold.
        """
        if self._closed:
            raise StorageFailed(f"The database {self._engine.name} has been closed.")
        job = Job(unit, asyncio.get_running_loop())
        if not self._fresh:
            job.loop.call_soon(self._hand_over)
        self._fresh.append(job)
        try:
            await job.future
        except asyncio.CancelledError:
            await outlast(job)
            raise
        if job.error is not None:
            raise job.error
        return job.result

    def ride(self, unit: Unit, *, hurries: bool = False) -> None:
        """Write a unit with the next one that somebody waits for; it may be lost. Needs no running loop, but for one that
        `hurries`: it does not wait where another one that rides does so already."""
        if not self._closed:
            self._riders.append(unit)
            if hurries and len(self._riders) > 1:
                self._hand_over(riders=True)

    def others_wrote(self, within: float) -> bool:
        """Whether another process may have written to the database in so many last seconds."""
        return self._watch.others_wrote(within)

    def loss(self) -> StorageFailed | None:
        """What became of the database if it is no longer the one that was opened: what is read of it now is another's.
        Waits for the writer's look at it, for any thread but the writer's own."""
        thread, looked = self._thread, threading.Event()
        if thread is not None and self._lost is None and self._engine.is_file:
            self._asked.append(looked)
            self._queue.put([])
            while not looked.wait(0.1) and thread.is_alive():
                pass
        return None if self._lost is None else self._lost.error()

    async def close(self) -> None:
        """Write what is queued, then give back the connection. May be called twice."""
        self._closed = True
        self.patience.hurry()
        self._hand_over()
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            await asyncio.get_running_loop().run_in_executor(None, thread.join)
        self.presence.forget()

    def _hand_over(self, *, riders: bool = False) -> None:
        if not (self._fresh or riders):
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="flowllm-writer", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        jobs, self._fresh = [*(Job(unit, loop) for unit in self._riders), *self._fresh], []
        self._riders.clear()
        self._queue.put(jobs)

    # everything below runs in the writer's thread

    def _run(self) -> None:
        going = True
        while going:
            jobs, going = self._drain()
            if jobs:
                self._carry_out(jobs)
                wake(jobs)
            elif going and self.presence.due:
                self._keep(self.presence.beat)
            self._tell_asked()
        self._keep(self.presence.leave)
        self._disconnect()
        self._spill.close()

    def _carry_out(self, jobs: Sequence[Job]) -> None:
        try:
            self._look()
            self._commit(self._admitted(jobs))
            self._spill.sync()
            for job in jobs:
                self._note(job)
            self._note_results(jobs)
            if self._failpoints.before_wake is not None:
                self._failpoints.before_wake()
        except Exception as error:  # noqa: BLE001 - a waiter that is never woken would hang the run
            for job in jobs:
                job.error = self._engine.explain(error)

    def _tell_asked(self) -> None:
        if self._asked:
            with contextlib.suppress(OSError):
                self._look()
        while self._asked:
            self._asked.pop().set()

    def _look(self) -> None:
        """Whether the database still is the one that was opened. If not, go on in the one that has its content."""
        sunk = self._lost is not None and self._lost.place is None
        if self._connection is None or sunk or (loss := self._watch.loss(self._connection)) is None:
            return
        time.sleep(SETTLING)
        loss = self._watch.loss(self._connection) or loss
        try:
            rescued = self._engine.rescued(self._connection, loss)
        except self._engine.errors as error:
            self._lost = Lost(name=self._engine.name, what=loss.what, place=None, why_not=f"{error}")
            return
        self._disconnect()
        place = rescued.home
        self._lost = Lost(name=self._engine.name, what=loss.what, place=place, again=place == self._engine.home)
        self._spill.close()
        self._engine = rescued
        self._watch, self._spill = rescued.watch(), Spill(place)

    def _admitted(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Those that are written: nothing is begun after a loss, nor without room for its result."""
        if self._lost is not None:
            return [job for job in jobs if job.unit.is_result or job.unit.always]
        opening = [job for job in jobs if job.unit.opens]
        if not opening:
            return jobs
        self._open.update(job.unit.opens for job in opening)
        try:
            self._spill.reserve(len(self._open), self._room)
        except OSError as error:
            for job in opening:
                job.error = no_room(error, self._engine.name)
        return [job for job in jobs if job.error is None]

    def _note(self, job: Job) -> None:
        """What the next ones need to know of one that was carried out."""
        unit = job.unit
        if self._lost is not None and not (unit.always and self._lost_told):
            job.error = job.error or self._lost.error()
            self._lost_told = self._lost_told or not unit.rides
        self._open.discard(unit.closes)
        if job.error is not None or job.passed:
            self._open.discard(unit.opens)
        if job.error is None and unit.is_result and unit.size > self._largest:
            self._largest = unit.size
            self._room = max(self._room, len(packed(unit)) * 5 // 4)

    def _note_results(self, jobs: Sequence[Job]) -> None:
        done = [job.unit for job in jobs if job.error is None and not job.passed]
        noted = [SENT + unit.opens for unit in done if unit.opens]
        noted += [unit.closes for unit in done if unit.closes]
        if noted:
            self._spill.note(noted)
        if any(job.unit.removes for job in jobs):
            self._spill.forget()
            self._texts.forget()

    def _drain(self) -> tuple[list[Job], bool]:
        """What was handed over, nothing if a heartbeat is due first; and whether there may be more."""
        jobs: list[Job] = []
        try:
            more = self._queue.get(timeout=self.presence.wait())
        except queue.Empty:
            return jobs, True
        while more is not None:
            jobs += more
            if len(jobs) >= GROUP:
                return jobs, True
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                return jobs, True
        return jobs, False

    def _commit(self, jobs: Sequence[Job]) -> None:
        if self._lost is not None and self._lost.place is None:
            for job in jobs:
                self._fail([job], self._lost.error())
            return
        if len(jobs) > 1 and (apart := [job for job in jobs if job.unit.apart]):
            for part in ([job for job in jobs if not job.unit.apart], *([job] for job in apart)):
                self._commit(part)
            return
        jobs = self._without_gaps(jobs) if self._gaps else jobs
        error = self._attempt(jobs) if jobs else None
        if error is not None and len(jobs) > 1 and self._engine.worth_one_by_one(error):
            for job in (job for job in jobs if not job.unit.rides):
                job.reset()
                if self._spill.holds and job.unit.is_result and not self._engine.concerns_data(error):
                    self._fail([job], error)  # its place is behind those that wait
                else:
                    self._commit([job])
            return
        if error is not None and self._spill.holds and all(job.unit.always for job in jobs):
            error = self._attempt(jobs, after_results=False)
        if error is not None:
            self._fail(jobs, error)

    def _without_gaps(self, jobs: Sequence[Job]) -> Sequence[Job]:
        whole = []
        for job in jobs:
            gap = next((self._gaps[lease] for lease in job.unit.leases if lease in self._gaps), None)
            if gap is not None and job.unit.sums_up:
                self._fail([job], gap, keep=False)
            else:
                whole.append(job)
        return whole

    def _fail(self, jobs: Sequence[Job], error: Exception, *, keep: bool = True) -> None:
        """Tell the jobs, and keep what are results."""
        for job in (job for job in jobs if not job.unit.rides):
            # Each its own: an exception that several tasks raise would mix their tracebacks.
            job.error = failure = self._engine.explain(error)
            if failure is not error:
                failure.__cause__ = error
            if not isinstance(failure, StoreError):
                continue
            if keep and job.unit.is_result:
                try:
                    self._spill.append(packed(job.unit, self.presence.works_as))
                except (OSError, ValueError) as fault:
                    self._gaps |= dict.fromkeys(job.unit.leases, error)
                    failure.hint += f"\nOne result is lost: it could not be kept beside it either ({fault})."
            if self._spill.holds:
                failure.hint = f"{failure.hint}\n{kept_in(self._spill.paths)}".strip()

    def _attempt(self, jobs: Sequence[Job], *, after_results: bool = True) -> Exception | None:
        """`_try` until it has gone through, or there is no use in waiting."""
        self._engine.afresh()
        return self.patience.outlasts(lambda again: self._try(jobs, after_results, again=again))

    def _try(self, jobs: Sequence[Job], after_results: bool, *, again: bool) -> Exception | None:
        """One transaction for all jobs, and for the results that could not be written before; the error if it failed
        and nothing was written."""
        try:
            connection = self._connect()
            if again and self._engine.settled(connection):
                self._forget_kept(after_results)
                return None
            for job in jobs if again else ():
                job.reset()
            connection.begin()
            self._watch.opened(connection)
            self._flights.pass_over(connection, self._watch, jobs)
            if beats := self.presence.due:
                self.presence.beat(connection)
            if after_results and self._spill.holds:
                take_back(connection, self._spill.results(), self._texts)
            apply(connection, jobs, self._texts, self.presence)
            if self._failpoints.before_commit is not None:
                self._failpoints.before_commit()
            connection.commit()
        except Exception as error:  # noqa: BLE001 - whatever it is, the waiters must hear of it
            self._undo(error)
            return error
        if beats:
            self.presence.beaten()
        self._forget_kept(after_results)
        if self._failpoints.after_commit is not None:
            self._failpoints.after_commit()
        return None

    def _forget_kept(self, after_results: bool) -> None:
        """The results that could not be written before are, now."""
        if after_results and self._spill.holds:
            with contextlib.suppress(OSError):  # written once more, they change nothing
                self._spill.clear()

    def _keep(self, say: Callable[[Connection], None]) -> None:
        """Say that this process is alive, or has ended. What is wrong with the database those hear who wait for something."""
        self.presence.missed()
        if self.presence.number is None or (self._lost is not None and self._lost.place is None):
            return
        try:
            connection = self._connect()
            if self._watch.loss(connection) is not None:
                return
            connection.begin()
            self._watch.opened(connection)
            say(connection)
            connection.commit()
        except Exception as error:  # noqa: BLE001 - this thread must go on
            self._undo(error)
        else:
            self.presence.beaten()

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.writer()
            self._spill.take_over()
        return self._connection

    def _undo(self, error: Exception) -> None:
        """Roll back; after a fault of the storage the next group starts on a fresh connection."""
        self._texts.forget()
        try:
            if self._connection is not None:
                self._connection.rollback()
        except self._engine.errors:
            self._disconnect()
        if not self._engine.concerns_data(error):
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._watch.closed()
        if connection is not None:
            connection.close()
