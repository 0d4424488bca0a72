"""What several processes share: a database, a server, machines; and what must hold of them at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol
from unittest.mock import patch

from flowllm.app.flowllm import FlowLLM
from flowllm.app.wiring import Providers
from flowllm.core.cancel import StopSignal
from flowllm.core.errors import StorageFailed
from flowllm.core.request import ChatRequest, Completion
from flowllm.core.types import Usage
from flowllm.language.workflow import Workflow
from flowllm.providers.base import Account
from flowllm.storage.base import Owner
from flowllm.storage.liveness import LEASE, STALLED
from flowllm.storage.sql.jobs import Job
from tests.support.processes.databases import EPOCH, Database
from tests.support.processes.gates import GATE, Gate
from tests.support.processes.store import Machine, ProcessStore, loop_time
from tests.support.virtual import LoopClock

ACCOUNT = Account(type="fake", base_url="fake:")
Work = Callable[[FlowLLM], Awaitable[object]]


class Broken(Exception):
    """A promise was broken."""


class Server(Protocol):
    """Who answers."""

    def receive(self, process: Process, request: ChatRequest) -> asyncio.Future[Completion]: ...

    def hung_up(self, process: Process) -> None: ...


class World:
    """One database and the processes at it."""

    def __init__(self, seed: int, database: Database, server: Callable[[World], Server]) -> None:
        self.draw = random.Random(seed)
        self.database = database
        self.server = server(self)
        self.processes: list[Process] = []
        self.broken: list[str] = []
        self.epochs: dict[str, int] = {}
        """Of each run."""
        self.registered: dict[int, Process] = {}
        """By their numbers at the database: one may register again."""
        self.ended: set[int] = set()
        self.claimed: dict[str, list[tuple[float, Process]]] = {}
        self.repeats = 0
        """So many requests may have been sent in vain, as their process could not come to their end."""
        self.machines = [Machine(self, name) for name in ("one", "two")]

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def alive(self) -> set[int]:
        return {process.number for process in self.processes if not process.dead}

    def process(self, machine: Machine | None = None) -> Process:
        made = Process(self, len(self.processes) + 1, machine or self.draw.choice(self.machines))
        self.processes.append(made)
        return made

    def break_(self, what: str) -> None:
        """Kept for the end: raised where it is found it would only fail a node."""
        self.broken.append(f"{self.now:.2f}s: {what}")

    @contextlib.contextmanager
    def writing(self, process: Process, jobs: Sequence[Job]) -> Iterator[None]:
        """A process commits a group."""
        yield
        done = [job for job in jobs if job.error is None]
        for job in done:
            process.noted(job)
        number = process.store.presence.number
        if number is not None and number not in self.registered:
            self.registered[number] = process
            process.fenced_with = None
        query = "SELECT process_id FROM processes WHERE ended_at IS NOT NULL"
        ended = {number for (number,) in self.database.rows(query)}
        for number in sorted(ended - self.ended):
            self._check_end(process, self.registered[number])
        self.ended = ended
        self._check_claims(process)
        for job in done:
            self._check_fence(process, job)

    def _check_end(self, process: Process, former: Process) -> None:
        """A process was ended, by itself or another one."""
        if former is process or former.dead or former.done:
            return
        if not former.silent(STALLED if former.machine is process.machine else LEASE):
            self.break_(f"P6: {process} ended {former}, which is alive")
        former.fence()

    def _check_claims(self, process: Process) -> None:
        here = dict(self.database.rows("SELECT run_id, epoch FROM runs"))
        for run, epoch in here.items():
            if epoch != self.epochs.get(run):
                process.claimed(run)
                self.claimed.setdefault(run, []).append((self.now, process))
        self.epochs = here

    def _check_fence(self, process: Process, job: Job) -> None:
        for lease in job.unit.leases:
            epoch = self.epochs.get(lease.run_id)
            if epoch != lease.epoch:
                self.break_(f"P6: {process} wrote under epoch {lease.epoch} of {lease.run_id}, which is at {epoch}")
            if process.store.presence.holder(lease.run_id) in self.ended:
                self.break_(f"P6: {process} was ended, and wrote under its lease of {lease.run_id}")

    @contextlib.asynccontextmanager
    async def open(self) -> Any:
        """In here processes can be started. At the end they are all gone."""

        async def open_store(*_: object, **__: object) -> ProcessStore:
            process = GATE.get().process
            process.store = ProcessStore(process)
            return process.store

        def this_process(clock: object) -> Owner:
            process = GATE.get().process
            return Owner(pid=process.number, host=process.machine.name, since=process.clock.now())

        with (
            loop_time(),
            self.database.in_loop_time(),
            patch.multiple("flowllm.app.flowllm", open_store=open_store, this_process=this_process),
            patch("flowllm.app.run_worker.this_process", this_process),
        ):
            try:
                yield self
            finally:
                for process in self.processes:
                    await process.bury()


class Process:
    """One flowllm process, which something may happen to."""

    def __init__(self, world: World, number: int, machine: Machine) -> None:
        self.world = world
        self.number = number
        self.machine = machine
        self.gate = Gate(self)
        self.clock = LoopClock(EPOCH + world.draw.choice([0.0, world.draw.uniform(-9000, 9000)]))
        self.stop = StopSignal()
        self.store: ProcessStore | None = None
        self.task: asyncio.Task[object] | None = None
        self.dead = False
        self.buried = False
        self.open: dict[str, str] = {}
        """The run of each attempt on record without an outcome."""
        self.fenced_with: int | None = None
        """So many requests may still go out that it put on record before others took its run."""
        self.sent = 0
        self.at_death: list[Callable[[], object]] = []
        """What the kernel does then."""
        self.at_work_since = 0.0
        """When it began, or went on."""
        self._stopped: list[tuple[float, float]] = []
        """When it stood still."""

    def __repr__(self) -> str:
        return f"process {self.number} on {self.machine.name}"

    def start(self, work: Work) -> asyncio.Task[object]:
        self.at_work_since = self.world.now
        self.task = asyncio.get_running_loop().create_task(self._live(work), context=self.gate.context())
        return self.task

    async def _live(self, work: Work) -> object:
        app = FlowLLM(database=self.world.database.url, clock=self.clock, environ={})
        app._providers = lambda workflow, *_: _Wired(workflow, self, app)
        async with app:
            app._line._draw = self.world.draw.random
            return await work(app)

    @property
    def done(self) -> bool:
        return self.task is None or self.task.done()

    @property
    def stopped(self) -> bool:
        return self.gate.shut and not self.dead

    @property
    def paused(self) -> bool:
        """It stood still once: what it was about to send then comes when it should not."""
        return bool(self._stopped)

    def check(self) -> None:
        """Nothing that it still does counts."""
        if self.buried:
            raise StorageFailed("the process is dead")

    # what happens to it

    def kill(self) -> None:
        """It is gone, as with SIGKILL."""
        self.dead, self.gate.shut = True, True
        self.died = self.world.now
        for release in self.at_death:
            release()
        self.world.repeats += len(self.open)
        self.world.server.hung_up(self)

    def pause(self) -> None:
        """It stands still, as with SIGSTOP."""
        self.gate.shut = True
        self._stopped.append((self.world.now, float("inf")))

    def go_on(self) -> None:
        self._stopped[-1] = (self._stopped[-1][0], self.world.now)
        self.at_work_since = self.world.now
        self.gate.open()

    def fence(self) -> None:
        """Others have taken what it had."""
        self.world.repeats += len(self.open)
        self.fenced_with = len(self.open)
        self.open.clear()

    def silent(self, seconds: float) -> bool:
        """Whether it may not have been heard of for so long: it stood still, and hardly has had time since."""
        since, until = self._stopped[-1] if self._stopped else (float("inf"), 0.0)
        return since + seconds - 5.0 <= self.world.now <= until + 5.0

    async def bury(self) -> None:
        """Its tasks end, and nothing comes of that."""
        if self.task is None:
            return
        self.dead = self.buried = True
        self.gate.open()
        while not self.task.done():
            self.task.cancel()
            await asyncio.wait([self.task], timeout=100.0)
        if not self.task.cancelled():
            self.task.exception()
        if self.store is not None:
            self.store.discard()

    # what it does

    def noted(self, job: Job) -> None:
        """A unit of its is on record."""
        if job.unit.opens and not job.passed:
            self.open[job.unit.opens] = job.unit.leases[0].run_id
        self.open.pop(job.unit.closes, None)

    def claimed(self, run: str) -> None:
        """It has a run; what others have on their way of that run counts no more."""
        self.fenced_with = None
        for process in self.world.processes:
            if not process.dead:
                lost = [attempt for attempt, of in process.open.items() if of == run]
                self.world.repeats += len(lost)
                for attempt in lost:
                    del process.open[attempt]

    async def send(self, request: ChatRequest) -> Completion:
        self.check()
        self.sent += 1
        if self.fenced_with is not None:
            self.fenced_with -= 1
            if self.fenced_with < 0:
                self.world.break_(f"P6: {self} sends requests for a run that others have")
        return await self.world.server.receive(self, request)


class _Wired(Providers):
    """Every provider is the world's server."""

    def __init__(self, workflow: Workflow, process: Process, app: FlowLLM) -> None:
        self._process = process
        super().__init__(workflow, environ={}, pool=app._pool, clock=app._clock, prices={})

    def _make(self, settings: object) -> Client:
        return Client(self._process)


class Client:
    """The server as one process has it."""

    def __init__(self, process: Process) -> None:
        self.name = "fake"
        self.account = ACCOUNT
        self._process = process

    def encode(self, request: ChatRequest) -> dict:
        schema = None if request.output is None else request.output.schema
        return {"model": request.model, "messages": list(request.messages), "schema": schema, **request.params}

    def cost(self, model: str, usage: Usage, *, tier: str = "") -> float:
        return 0.001

    async def ready(self) -> None:
        pass

    async def complete(self, request: ChatRequest, *, timeout: float) -> Completion:
        return await self._process.send(request)
