"""Runs side by side at one database, whose processes are killed, stopped for a while, and late; others go on with them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from itertools import pairwise

from flowllm.app.flowllm import FlowLLM
from flowllm.core.errors import AttemptTimedOut, OwnershipLost, RateLimited, RequestRejected, RunOwned, ServerFailed
from flowllm.core.request import ChatRequest, Completion
from flowllm.core.types import RunStatus, Usage
from flowllm.runtime.options import RunOptions
from flowllm.storage.base import RunRecord
from tests.support.processes.gates import run_gated
from tests.support.processes.world import Broken, Database, Process, World
from tests.support.random_graphs import Author, invalid_at_first, key_of, rejected, reply
from tests.support.simulation import OUTPUT, compare
from tests.support.workflows import workflow

ENDED = {RunStatus.SUCCEEDED, RunStatus.FAILED}
TAKEN_OVER = 15.0
"""Seconds in which somebody has a run whose process was killed."""
AT_ONCE = 5.0
"""The same where one of those who want it is of the same machine: as soon as it has looked twice at the process before."""
HANGS = 3600.0
"""Seconds in which all has ended, if it ever does."""
PATIENCE = 0.5
"""Seconds between looks at whether a run is free."""


class Server:
    """Its answers are a function of the request, and its troubles are drawn."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._aloft: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.kept: set[str] = set()
        """Outputs that are on record."""

    def hung_up(self, process: Process) -> None:
        pass

    def receive(self, process: Process, request: ChatRequest) -> asyncio.Future[Completion]:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        prompt = request.messages[0]["content"]
        for found in OUTPUT.finditer(prompt):
            if found[0] not in self.kept and not self._kept(found[0]):
                self._world.break_(f"P1: {found[0]} was built on before it was on disk")
        loop.start(self._answer(request, prompt, future))
        return future

    def _kept(self, output: str) -> bool:
        database = self._world.database
        for (run,) in database.rows("SELECT run_id FROM runs"):
            self.kept.update(found[0] for found in OUTPUT.finditer(json.dumps(database.nodes(run))))
        return output in self.kept

    async def _answer(self, request: ChatRequest, prompt: str, future: asyncio.Future[Completion]) -> None:
        draw, schema = self._world.draw, None if request.output is None else request.output.schema
        key, again = key_of(prompt, schema), len(request.messages) > 1
        await asyncio.sleep(draw.expovariate(1.0))
        fate = draw.random()
        error: Exception | None = None
        if rejected(key):
            error = RequestRejected("400: this prompt is never accepted", status=400)
        elif fate < 0.08:
            error = ServerFailed("500", status=500)
        elif fate < 0.12:
            self.paid[key] += 1
            self._world.repeats += 1
            error = AttemptTimedOut("late")
        elif fate < 0.2:
            error = RateLimited("429", retry_after=draw.choice([0.5, 3.0]))
        if error is not None:
            if not future.done():
                future.set_exception(error)
            return
        if schema is not None and invalid_at_first(key) and not again:
            text = '{"z": "<not:kept>"}'
        else:
            self.paid[key] += 1
            self._world.repeats += future.cancelled()
            value = reply(prompt, key, schema)
            text = value if schema is None else json.dumps(value)
        if not future.done():
            future.set_result(Completion(text=text, model=request.model, usage=Usage(output_tokens=1)))


class Run:
    """One run, and those who want to bring it to its end."""

    def __init__(self, world: World, name: str) -> None:
        draw = world.draw
        self.world = world
        self.name = name
        self.workflow = workflow(Author(draw, name=name).workflow())
        self.options = RunOptions(max_concurrent=draw.randint(1, 6), grace=60.0, config=None)
        self.crew: list[Process] = []
        self.creator: Process | None = None
        self.faults = draw.randint(0, 4)
        self.ended = False

    async def keep(self) -> None:
        """Until it has ended, also where somebody resumed it who did not hear of its end, and was stopped."""
        draw = self.world.draw
        await asyncio.sleep(draw.choice([0.0, 20.0 * draw.random()]))
        await self._bring_to_its_end(draw.randint(1, 3))
        while self._stopped_after_its_end():
            self.ended = False
            await self._bring_to_its_end(1)

    def _stopped_after_its_end(self) -> bool:
        found = self.world.database.rows(f"SELECT status FROM runs WHERE workflow = '{self.name}'")
        return bool(found) and RunStatus(found[0][0]) is RunStatus.INTERRUPTED

    async def _bring_to_its_end(self, wanted: int) -> None:
        draw = self.world.draw
        while not self.ended:
            self.crew = [one for one in self.crew if not (one.dead or one.done)]
            while len(self.crew) < wanted:
                self._start()
            await asyncio.sleep(draw.choice([0.05, 6.0]) * draw.random())
            if self.world.now > HANGS:
                raise Broken(f"P10: {self.name} does not come to its end")
            if self.faults and draw.random() < 0.5:
                self.faults -= 1
                await self.disturb(draw.choice(self._busy() or self.crew))
        for one in self.crew:
            self.go_on(one)
            if not one.dead and (await asyncio.wait([one.task], timeout=HANGS))[1]:
                self.world.break_(f"P10: {one} does not come to its end")

    def _busy(self) -> list[Process]:
        return [one for one in self.crew if one.open and not one.gate.shut]

    def _start(self) -> None:
        process = self.world.process()
        self.crew.append(process)
        if self.creator is None or self.creator.dead or self.creator.done:
            self.creator = process
        process.start(lambda app: self._bring_on(process, app)).add_done_callback(self._over)

    def _over(self, task: asyncio.Task[object]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.world.break_(f"{type(error).__name__}: {error}")
            self.ended = True

    async def disturb(self, process: Process) -> None:
        draw = self.world.draw
        match draw.choice(["kill", "kill", "pause", "pause", "stop", "cancel"]):
            case "kill":
                process.kill()
            case "pause" if not process.stopped:
                process.pause()
                asyncio.get_running_loop().call_later(draw.choice([3.0, 20.0, 90.0]), self.go_on, process)
            case "stop":
                process.stop.request("sim")
                await asyncio.sleep(draw.random())
                if draw.random() < 0.5:
                    self.world.repeats += len(process.open)
                    process.stop.cancel()
            case "cancel":
                self.world.repeats += len(process.open)
                process.task.cancel()

    @staticmethod
    def go_on(process: Process) -> None:
        if process.stopped:
            process.go_on()

    def more(self) -> dict[str, object]:
        """What each attempt at the run is given besides."""
        return {}

    # what a process does

    async def _bring_on(self, process: Process, app: FlowLLM) -> None:
        """Whoever finds the run free takes it."""
        app._stored = lambda *_: self.workflow  # to read it again would take most of all the time
        while not self.ended and not process.stop.stopped:
            found = await self._found(app)
            if found is not None and found.status in ENDED:
                self.ended = True
                return
            try:
                if found is not None:
                    await app.resume(found.run_id, stop=process.stop, **self.more())
                elif self.creator is process:
                    await app.run(self.workflow, options=self.options, stop=process.stop, **self.more())
            except RunOwned:
                pass
            except OwnershipLost:
                process.at_work_since = self.world.now
            await process.clock.sleep(PATIENCE)

    async def _found(self, app: FlowLLM) -> RunRecord | None:
        runs = await app.store.runs(workflow=self.name)
        return runs[0] if runs else None

    # what must have come of it

    def check(self, run: RunRecord) -> None:
        found = {name: status for name, (status, _) in self.world.database.nodes(run.run_id).items()}
        compare(self.workflow, found, run.outputs)
        claims = self.world.claimed[run.run_id]
        for (_, former), (at, heir) in pairwise(claims):
            if former.dead and not former.done:
                free = max(former.died, heir.at_work_since)
                if at - free > (AT_ONCE if heir.machine is former.machine else TAKEN_OVER):
                    raise Broken(
                        f"P6: {heir} took {run.run_id} of {former} at {at:.2f}, which it could from {free:.2f}"
                    )


async def join(world: World, runs: list[Run]) -> None:
    """Workers that come late, to all of these runs, to which things happen as well."""
    draw = world.draw
    loaded = {run.name: run.workflow for run in runs}
    workers: list[Process] = []

    async def work(process: Process, app: FlowLLM) -> None:
        app._stored = lambda run, _: loaded[run.workflow]
        await app.work(stop=process.stop)

    for _ in range(draw.randint(1, 3)):
        await asyncio.sleep(4.0 * draw.random())
        workers.append(process := world.process())
        process.start(lambda app, process=process: work(process, app))
    faults = draw.randint(0, 3)
    while not all(run.ended for run in runs):
        await asyncio.sleep(6.0 * draw.random())
        able = [one for one in workers if not (one.dead or one.done)]
        if faults and able:
            faults -= 1
            await runs[0].disturb(draw.choice(able))
    for process in workers:
        Run.go_on(process)
        process.stop.request("sim")


async def live(seed: int, database: Database, *, workers: bool = False) -> World:
    """Runs from their beginning to their end. Raises Broken."""
    world = World(seed, database, Server)
    async with world.open():
        runs = [Run(world, f"r{number}") for number in range(world.draw.randint(1, 3))]
        await asyncio.gather(*(run.keep() for run in runs), *([join(world, runs)] if workers else []))
        await finish(world, runs)
    return world


async def finish(world: World, runs: list[Run]) -> None:
    """Look at what came of it. Raises Broken."""
    if world.broken:
        raise Broken(world.broken[0])
    records: dict[str, RunRecord] = {}

    async def look(app: FlowLLM) -> None:
        records.update({run.workflow: await app.store.run(run.run_id) for run in await app.store.runs()})

    await world.process().start(look)
    for run in runs:
        run.check(records[run.name])
    again = sum(count - 1 for count in world.server.paid.values() if count)
    if again > world.repeats:
        raise Broken(f"P2: {again} answers were paid twice, {world.repeats} were in flight")


def play(seed: int, database: Database) -> World:
    return run_gated(live(seed, database))
