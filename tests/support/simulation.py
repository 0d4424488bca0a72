"""A whole run under a virtual clock, with a network, a disk and crashes that a seed decides."""

from __future__ import annotations

import asyncio
import json
import random
import re

from flowllm.backends.local import LocalBackend
from flowllm.calls.flight import Flights
from flowllm.calls.line import Line
from flowllm.calls.memo import Memo
from flowllm.engine.scheduler import Ending, Scheduler
from flowllm.engine.stop import StopSignal
from flowllm.errors import AttemptTimedOut, RateLimited, RequestRejected, ServerFailed, StorageFailed
from flowllm.events import NodeEnded, NodeStarted
from flowllm.limits.limiter import Limiter
from flowllm.providers.base import Account
from flowllm.redact import Redactor
from flowllm.request import Completion
from flowllm.result import RunOptions
from flowllm.steps.llm import LlmKind
from flowllm.steps.value import ValueKind
from flowllm.store.base import Owner, RunRecord
from flowllm.store.memory import MemoryStore
from flowllm.types import Limits, NodeStatus, RunStatus, StepKind, Usage, step_path
from tests.support.random_graphs import Author, expected, invalid_at_first, key_of, rejected, reply
from tests.support.virtual import LoopClock
from tests.support.workflows import workflow as workflow_of

OUTPUT = re.compile(r"<([a-z0-9_]+):([0-9a-f]{8})>")
ACCOUNT = Account(type="fake", base_url="fake:")


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
        self.memory = MemoryStore()
        self.paid: dict[str, int] = {}
        self.requests = 0
        self.quiet_until = 0.0
        self.lost_in_crashes = 0
        self.broken: list[str] = []
        self.max_concurrent = self.draw.randint(1, 6)


class Disk:
    """The memory store with commits that take time, in order, and that die with their process."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lock = asyncio.Lock()
        self.dead = False

    def __getattr__(self, name: str) -> object:
        verb = getattr(self._world.memory, name)
        if name not in {"begin_attempt", "settle", "finish_run"}:
            return verb

        async def write(*args: object, **kwargs: object) -> None:
            async def commit() -> None:
                async with self._lock:
                    await asyncio.sleep(self._world.draw.random() / 50)
                    if self.dead:
                        raise StorageFailed("the process is dead")
                    await verb(*args, **kwargs)

            await asyncio.shield(asyncio.ensure_future(commit()))

        return write


class Network:
    """A provider whose answers are a function of the request, and whose troubles are drawn."""

    def __init__(self, world: World) -> None:
        self.name = "fake"
        self.account = ACCOUNT
        self._world = world
        self._aloft: set[str] = set()

    def encode(self, request: object) -> dict:
        schema = None if request.output is None else request.output.schema
        return {
            "model": request.model,
            "messages": list(request.messages),
            "schema": schema,
            **request.params,
        }

    def cost(self, model: str, usage: Usage) -> float:
        return 0.001

    async def ready(self) -> None:
        pass

    async def complete(self, request: object, *, timeout: float) -> Completion:
        world, prompt = self._world, request.messages[0]["content"]
        schema = None if request.output is None else request.output.schema
        key, again = key_of(prompt, schema), len(request.messages) > 1
        self._check(request, key)
        world.requests += 1
        self._aloft.add(key)
        try:
            await asyncio.sleep(world.draw.expovariate(1.0))
        finally:
            self._aloft.discard(key)
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
        if key in self._aloft:
            broken(self._world, f"P3: an equal request is in flight already: {request}")
        if len(self._aloft) >= self._world.max_concurrent:
            broken(self._world, "P9: more requests than max_concurrent")
        if asyncio.get_running_loop().time() < self._world.quiet_until - 1e-6:
            broken(self._world, "P9: sent while the account was told to wait")
        tables = [table._nodes for table in self._world.memory._nodes.values()]
        outputs = [node.output for nodes in tables for node in nodes.values()]
        kept = {output for output in outputs if isinstance(output, str)}
        kept |= {
            text
            for output in outputs
            if isinstance(output, dict)
            for text in output.values()
            if isinstance(text, str)
        }
        for found in OUTPUT.finditer(request.messages[0]["content"]):
            if found[0] not in kept:
                broken(self._world, f"P1: {found[0]} was built on before it was on disk")


class Process:
    """One process that runs or resumes the run of a world."""

    def __init__(self, world: World, workflow: object) -> None:
        self.world = world
        self.workflow = workflow
        self._steps = steps_of(workflow.graph)
        self.clock = LoopClock()
        self.disk = Disk(world)
        self.limiter = Limiter(self.clock)
        self.limiter.configure(ACCOUNT, Limits(max_concurrent=world.max_concurrent), holder="sim")
        self.flights = Flights(
            Memo(
                Line(self.limiter, self.disk, self.clock, draw=world.draw.random),
                self.disk,
                self.clock,
            ),
            self.clock,
        )
        self.stop = StopSignal()
        self.events: list = []

    async def go(self, *, grace: float = 60.0) -> Ending:
        network = Network(self.world)
        self.world.quiet_until = 0.0  # a new process has not heard the 429 of the last one
        run = await self._claim()
        scheduler = Scheduler(
            workflow=self.workflow,
            run=run,
            before=await self.world.memory.nodes(run.run_id),
            options=RunOptions(grace=grace),
            steps=self.workflow.steps,
            backend=LocalBackend(
                {StepKind.PROMPT: LlmKind(lambda _: network, self.flights), StepKind.VALUE: ValueKind()}
            ),
            store=self.disk,
            clock=self.clock,
            redactor=Redactor(),
            emit=self._told,
            stop=self.stop,
        )
        ending = await scheduler.run()
        await self.flights.drain()
        if ending.failure is None:
            self._check_frontier()
        return ending

    async def _claim(self) -> RunRecord:
        owner = Owner(pid=1, host="sim", since=0.0)
        if not self.world.memory._runs:
            record = RunRecord(
                run_id="run", workflow="sim", path="", status=RunStatus.RUNNING, started_at=0.0, owner=owner
            )
            return await self.world.memory.create_run(record)
        return await self.world.memory.claim_run("run", owner)

    def crash(self) -> None:
        """The process is gone, with all that was not on disk."""
        self.disk.dead = True
        self.world.lost_in_crashes += self.limiter._account(ACCOUNT).gates.in_flight
        self.world.memory._held.clear()

    def _told(self, event: object) -> None:
        self.events.append(event)
        if isinstance(event, NodeStarted):
            self._check_durable(event.node_id)

    def _check_durable(self, node: str) -> None:
        """P1: what a node builds on is on disk before it starts."""
        for need in self._needs(node):
            step, record = self._steps[step_path(need)], self.world.memory._nodes["run"].get(need)
            if step.foreach is None and not costs(step):
                continue  # it is for nothing to compute it again
            ended = {event.node_id: event.status for event in self.events if isinstance(event, NodeEnded)}
            if ended[need] in {NodeStatus.SUCCEEDED, NodeStatus.FAILED} and (
                record is None or record.status is not ended[need]
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
        return any(
            one.foreach is not None or one.kind is not StepKind.VALUE
            for one in step.body.graph.steps.values()
        )
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


async def live(seed: int) -> World:
    """A run, from its beginning through crashes and stops to its end. Raises Broken."""
    world = World(seed)
    workflow = workflow_of(Author(world.draw).workflow())
    world.workflow = workflow
    for _ in range(world.draw.randint(0, 4)):
        process = Process(world, workflow)
        going = asyncio.ensure_future(process.go(grace=world.draw.choice([0.1, 60.0])))
        await asyncio.sleep(world.draw.random() * 6)
        if world.draw.random() < 0.6:
            process.crash()
            going.cancel()
        else:
            before = world.requests
            process.stop.request("sim")
            await asyncio.sleep(0)
            if world.requests > before:
                raise Broken("P7: a request was sent after the stop")
            await asyncio.sleep(world.draw.random())
            if world.draw.random() < 0.5:
                aloft = process.limiter._account(ACCOUNT).gates.in_flight
                world.lost_in_crashes += aloft
                process.stop.cancel()
            elif going.done() is False:
                world.lost_in_crashes += process.limiter._account(ACCOUNT).gates.in_flight
        outcome = (await asyncio.gather(going, return_exceptions=True))[0]
        if isinstance(outcome, Broken):
            raise outcome
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.1)
        world.memory._held.clear()
    world.ending = await Process(world, workflow).go()
    return world


def check(world: World) -> None:
    """The books at the end."""
    if world.broken:
        raise Broken(world.broken[0])
    repeats = sum(count - 1 for count in world.paid.values())
    if repeats > world.lost_in_crashes:
        raise Broken(
            f"P2: {repeats} answers were paid twice, {world.lost_in_crashes} were in flight at crashes"
        )
    nodes = world.memory._nodes["run"]._nodes
    wanted = expected(world.workflow)
    found = {name: node.status for name, node in nodes.items()}
    for name in {*found, *wanted.status}:
        left_over = name in wanted.perhaps and found.get(name) in {None, NodeStatus.RUNNING}
        if found.get(name) is not wanted.status.get(name) and not left_over:
            raise Broken(f"P5: {name} is {found.get(name)} instead of {wanted.status.get(name)}")
    if world.ending.outputs != wanted.outputs:
        raise Broken(f"P5: the outputs are {world.ending.outputs} instead of {wanted.outputs}")
