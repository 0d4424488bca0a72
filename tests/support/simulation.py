"""A whole run under a virtual clock, with a network, a disk and crashes that a seed decides."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from flowllm.app.flowllm import FlowLLM
from flowllm.app.result import RunResult
from flowllm.app.wiring import Providers
from flowllm.calls.batch import Batches
from flowllm.calls.executor import CallExecutor
from flowllm.calls.hedge_policy import HedgePolicy, Line
from flowllm.calls.response_cache import ResponseCache
from flowllm.calls.single_flight import InFlightCalls
from flowllm.core.cancel import StopSignal
from flowllm.core.errors import AttemptTimedOut, RateLimited, RequestRejected, ServerFailed, StorageFailed
from flowllm.core.events import NodeEnded, NodeStarted
from flowllm.core.request import Completion
from flowllm.core.types import NodeStatus, RunStatus, StepKind, Usage, step_path
from flowllm.providers.base import Account
from flowllm.runtime.options import RunOptions
from tests.support.disk import Disk, File, Memory
from tests.support.random_graphs import Author, expected, invalid_at_first, key_of, rejected, reply
from tests.support.virtual import LoopClock
from tests.support.workflows import workflow as workflow_of

OUTPUT = re.compile(r"<([a-z0-9_]+):([0-9a-f]{8})>")
ACCOUNT = Account(type="fake", base_url="fake:")
FILES = 4
"""Every how many-th seed has a real database."""


class Broken(Exception):
    """A promise was broken."""


def broken(world: World, what: str) -> None:
    """Raised here it would only fail a node: it is kept for the end."""
    world.broken.append(what)
    raise Broken(what)


class World:
    """What outlives a process: the store, and the provider's own books."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.store = (File if seed % FILES == 0 else Memory)(self.draw)
        self.kept: dict[str, tuple[NodeStatus, object]] = {}
        self.paid: dict[str, int] = {}
        self.requests = 0
        self.quiet_until = 0.0
        self.lost_in_crashes = 0
        self.hedged = seed % 2
        """So many second attempts may be out beside a first one."""
        self.broken: list[str] = []
        self.max_concurrent = self.draw.randint(1, 6)
        self.options = RunOptions(max_concurrent=self.max_concurrent, grace=self.draw.choice([0.1, 60.0]), config=None)
        self.workflow = workflow_of(Author(self.draw).workflow())
        self.result: RunResult | None = None
        self.gone = False
        """Its database was removed once it had ended, and nobody is to blame."""


class Network:
    """A provider whose answers are a function of the request, and whose troubles are drawn."""

    def __init__(self, world: World) -> None:
        self.name = "fake"
        self.account = ACCOUNT
        self._world = world
        self._aloft: Counter[str] = Counter()

    def encode(self, request: object) -> dict:
        schema = None if request.output is None else request.output.schema
        return {"model": request.model, "messages": list(request.messages), "schema": schema, **request.params}

    def cost(self, model: str, usage: Usage, *, tier: str = "") -> float:
        return 0.001

    async def ready(self) -> None:
        pass

    async def complete(self, request: object, *, timeout: float) -> Completion:
        world, prompt = self._world, request.messages[0]["content"]
        schema = None if request.output is None else request.output.schema
        key, again = key_of(prompt, schema), len(request.messages) > 1
        self._check(request, key)
        world.requests += 1
        self._aloft[key] += 1
        try:
            await asyncio.sleep(world.draw.expovariate(1.0))
        finally:
            self._aloft[key] -= 1
        fate = world.draw.random()
        if rejected(key):
            raise RequestRejected("400: this prompt is never accepted", status=400)
        if fate < 0.08:
            raise ServerFailed("500", status=500)
        if fate < 0.12:
            world.paid[key] = world.paid.get(key, 0) + 1
            world.lost_in_crashes += 1
            raise AttemptTimedOut("late")
        if fate < 0.2:
            wait = world.draw.choice([0.5, 3.0])
            world.quiet_until = asyncio.get_running_loop().time() + wait
            raise RateLimited("429", retry_after=wait)
        if schema is not None and invalid_at_first(key) and not again:
            return Completion(text='{"z": "<not:kept>"}', model=request.model, usage=Usage(output_tokens=1))
        world.paid[key] = world.paid.get(key, 0) + 1
        value = reply(prompt, key, schema)
        text = value if schema is None else json.dumps(value)
        return Completion(text=text, model=request.model, usage=Usage(output_tokens=1))

    def _check(self, request: object, key: str) -> None:
        if self._aloft[key] > self._world.hedged:
            broken(self._world, f"P3: an equal request is in flight already: {request}")
        if self._aloft.total() >= self._world.max_concurrent:
            broken(self._world, "P9: more requests than max_concurrent")
        if asyncio.get_running_loop().time() < self._world.quiet_until - 1e-6:
            broken(self._world, "P9: sent while the account was told to wait")
        outputs = [output for _, output in self._world.kept.values()]
        kept = {output for output in outputs if isinstance(output, str)}
        kept |= {
            text for output in outputs if isinstance(output, dict) for text in output.values() if isinstance(text, str)
        }
        for found in OUTPUT.finditer(request.messages[0]["content"]):
            if found[0] not in kept:
                broken(self._world, f"P1: {found[0]} was built on before it was on disk")


class Impatient(HedgePolicy):
    """Sends requests to models once more after so many seconds, within its budget."""

    def __init__(self, after: float) -> None:
        super().__init__()
        self._after = after

    def departed(self, flight: object, kind: tuple, fixed: float | None, now: float) -> Line:
        return super().departed(flight, kind, fixed or self._after, now)


class OfWorld(Providers):
    """Every provider is the network."""

    def _make(self, settings: object) -> Network:
        return self.network

    @classmethod
    def of(cls, world: World, workflow: object, app: FlowLLM) -> OfWorld:
        cls.network = Network(world)
        return cls(workflow, environ={}, pool=app._pool, clock=app._clock, prices={})


class Process:
    """One process that runs or resumes the run of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._steps = steps_of(world.workflow)
        self.clock = LoopClock()
        self.app = FlowLLM(database="memory:", clock=self.clock, environ={})
        self.app._providers = lambda workflow, *_: OfWorld.of(world, workflow, self.app)
        self.app._stored = lambda *_: world.workflow  # to read it again would take half of all the time
        self.disk = self.app._store = Disk(world.store.open(self.clock), world.draw, world.store.records)
        line = CallExecutor(self.app._limiter, self.disk, self.clock, draw=world.draw.random)
        line.hedges._policy = Impatient(math.inf if not world.hedged else 0.7)
        self.app._calls = InFlightCalls(ResponseCache(Batches(line, self.clock), self.disk, self.clock), self.clock)
        self.stop = StopSignal()
        self.events: list = []
        world.quiet_until = 0.0  # a new process has not heard the 429 of the last one
        world.kept = self.disk.kept

    async def go(self) -> None:
        told = {"stop": self.stop, "observers": [self]}
        if await self.disk.runs():
            self.world.result = await self.app.resume(**told)
        else:
            self.world.result = await self.app.run(self.world.workflow, options=self.world.options, **told)
        self._check_frontier()

    async def end(self) -> None:
        if self.disk.most_open > self.world.max_concurrent:
            self.world.broken.append("P2: more requests without a durable outcome than max_concurrent")
        await self.app._calls.drain()
        with asyncio.get_running_loop().outside():
            await self.app.__aexit__()

    @property
    def in_flight(self) -> int:
        return len(self.disk.open)

    def handle(self, event: object) -> None:
        self._told(event)

    def _told(self, event: object) -> None:
        self.events.append(event)
        if isinstance(event, NodeStarted):
            self._check_durable(event.node_id)

    def _check_durable(self, node: str) -> None:
        """P1: what a node builds on is on disk before it starts."""
        for need in self._needs(node):
            step, record = self._steps[step_path(need)], self.world.kept.get(need)
            if step.foreach is None and not costs(step):
                continue  # it is for nothing to compute it again
            ended = {event.node_id: event.status for event in self.events if isinstance(event, NodeEnded)}
            if ended[need] in {NodeStatus.SUCCEEDED, NodeStatus.FAILED} and (
                record is None or record[0] is not ended[need]
            ):
                broken(self.world, f"P1: {node} started before {need} was on disk")

    def _needs(self, node: str) -> list[str]:
        """What a node waits for; an item of a foreach waits for nothing of its own."""
        if node.endswith("]"):
            return []
        step = self._steps[step_path(node)]
        within = node[: len(node) - len(step.id)]
        return [f"{within}{need}" for need in step.edges]

    def _check_frontier(self) -> None:
        """P10: a node starts in the very instant in which the last of its inputs is there."""
        ended, started, begun = {}, {}, None
        for event in self.events:
            if isinstance(event, NodeEnded):
                ended[event.node_id] = event.at
            elif isinstance(event, NodeStarted):
                started[event.node_id] = event.at
                begun = event.at if begun is None else begun
        for node, at in started.items():
            if node.endswith("]"):
                continue  # it waits for room in its foreach's window
            within = node.rpartition(".")[0]
            due = max((ended[need] for need in self._needs(node)), default=started.get(within, begun))
            if at != due:
                raise Broken(f"P10: {node} started at {at}, its inputs were there at {due}")


def costs(step: object) -> bool:
    """Its record may not ride with a later commit."""
    if step.kind is StepKind.WORKFLOW:
        return any(one.foreach is not None or one.kind is not StepKind.VALUE for one in step.body.graph.steps.values())
    return step.kind is not StepKind.VALUE


def steps_of(graph: object, within: str = "") -> dict[str, object]:
    """All steps of a graph by their paths, those of graphs within too."""
    found = {}
    for step in graph.steps.values():
        path = f"{within}{step.id}"
        found[path] = step
        if step.kind is StepKind.WORKFLOW:
            found |= steps_of(step.body.graph, f"{path}.")
    return found


# what happens to a process


async def crash(process: Process, going: asyncio.Task[None]) -> None:
    """It is gone, with all that was not on disk."""
    process.disk.dead = True
    process.world.lost_in_crashes += process.in_flight
    going.cancel()


async def stop(process: Process, going: asyncio.Task[None]) -> None:
    """A signal, and perhaps a second one."""
    world, before = process.world, process.world.requests
    process.stop.request("sim")
    await asyncio.sleep(0)
    if world.requests > before:
        raise Broken("P7: a request was sent after the stop")
    await asyncio.sleep(world.draw.random())
    second = world.draw.random() < 0.5
    if second or not going.done():  # the grace may be over before they have answered
        world.lost_in_crashes += process.in_flight
    if second:
        process.stop.cancel()


async def cancel(process: Process, going: asyncio.Task[None]) -> None:
    """The program around it cancels the call of `run` or `resume`."""
    process.world.lost_in_crashes += process.in_flight
    going.cancel()


async def vanish(process: Process, going: asyncio.Task[None]) -> None:
    """Somebody removes, moves or replaces the database. Once the last of the run is written nobody looks any more."""
    if process.disk.owns:
        process.world.gone = process.disk.finished
        process.world.store.vanish()


async def fill(process: Process, going: asyncio.Task[None]) -> None:
    """The disk is full until the process has ended."""
    process.world.store.fill()


Fault = Callable[[Process, "asyncio.Task[None]"], Awaitable[None]]
FAULTS: tuple[Fault, ...] = (crash, crash, stop, cancel, cancel)
FAULTS_OF_FILES: tuple[Fault, ...] = (crash, stop, cancel, vanish, vanish, fill, fill)


async def disturbed(world: World) -> None:
    """A process that something happens to, at any moment: in its beginning too, and in the middle of a write."""
    process, draw = Process(world), world.draw
    fault = draw.choice(FAULTS_OF_FILES if isinstance(world.store, File) else FAULTS)
    going = asyncio.ensure_future(process.go())
    tasks: list[asyncio.Task[None]] = []
    before = world.store.vanished
    if draw.random() < 0.3:
        process.disk.writes_left = draw.choice([1, 1, 2, 3, draw.randint(1, 40)])
        process.disk.at_write = lambda: tasks.append(asyncio.ensure_future(fault(process, going)))
    else:
        await asyncio.sleep(draw.choice([0.05, 6.0]) * draw.random())
        if not going.done():
            await fault(process, going)
    outcome = (await asyncio.gather(going, return_exceptions=True))[0]
    await asyncio.gather(*tasks)
    if isinstance(outcome, Exception) and not (
        isinstance(outcome, StorageFailed) and (process.disk.dead or fault in {vanish, fill})
    ):
        raise outcome
    if fault is vanish and world.store.vanished > before and not (world.gone or isinstance(outcome, StorageFailed)):
        raise Broken("P8: the database is gone, and nobody noticed")
    if not (process.disk.dead or world.gone or isinstance(outcome, StorageFailed)):
        held = [run for run in await process.disk.runs() if run.status is RunStatus.RUNNING]
        if held:
            raise Broken(f"P6: nobody carries {held[0].run_id} on, and it is running still")
    await process.end()
    world.store.restore()
    if isinstance(outcome, StorageFailed) and outcome.database:
        world.store.path = Path(outcome.database)


async def live(seed: int) -> World:
    """A run, from its beginning through crashes and stops to its end. Raises Broken."""
    world = World(seed)
    try:
        for _ in range(world.draw.randint(0, 4)):
            await disturbed(world)
            if world.gone:
                return world
        process = Process(world)
        await process.go()
        await process.end()
        world.nodes = world.store.records()
    finally:
        world.store.restore()
        world.store.remove()
    return world


def check(world: World) -> None:
    """The books at the end."""
    if world.broken:
        raise Broken(world.broken[0])
    if world.gone:
        return
    repeats = sum(count - 1 for count in world.paid.values())
    if repeats > world.lost_in_crashes:
        raise Broken(f"P2: {repeats} answers were paid twice, {world.lost_in_crashes} were in flight at crashes")
    compare(world.workflow, {name: status for name, (status, _) in world.nodes.items()}, world.result.outputs)


def compare(workflow: object, found: dict[str, NodeStatus], outputs: object) -> None:
    """What came of a workflow with what has to. Raises Broken."""
    wanted = expected(workflow)
    for name in {*found, *wanted.status}:
        left_over = name in wanted.perhaps and found.get(name) in {None, NodeStatus.RUNNING}
        if found.get(name) is not wanted.status.get(name) and not left_over:
            raise Broken(f"P5: {name} is {found.get(name)} instead of {wanted.status.get(name)}")
    if outputs != wanted.outputs:
        raise Broken(f"P5: the outputs are {outputs} instead of {wanted.outputs}")
