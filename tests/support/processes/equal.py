"""Equal calls of many processes: sent once while the process lives that has sent them, and once more for each that does not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from flowllm.app.flowllm import FlowLLM
from flowllm.core.errors import ServerFailed
from flowllm.core.request import ChatRequest, Completion
from flowllm.core.types import RunStatus, Usage
from flowllm.runtime.options import RunOptions
from flowllm.storage.liveness import LEASE, STALLED
from tests.support.processes.databases import Database
from tests.support.processes.gates import run_gated
from tests.support.processes.world import Broken, Process, World
from tests.support.project import as_yaml
from tests.support.workflows import workflow

WORKFLOW = {
    "name": "equal",
    "inputs": {"items": {"type": "array"}},
    "steps": {
        "ask": {"foreach": "{{ inputs.items }}", "prompt": "{{ item }}", "model": "m", "retry": {"hedge": "off"}}
    },
    "outputs": {"answers": "{{ ask }}"},
}
REPLACED = 15.0
"""Seconds in which others have sent what a process had on its way that is no more."""


@dataclass(eq=False)
class Sent:
    """One request."""

    process: Process
    failed: bool = False


class Server:
    """Answers late, and fails at times."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.sent: dict[str, list[Sent]] = {}
        self.slowest = world.draw.choice([1.0, 5.0, 100.0])

    def hung_up(self, process: Process) -> None:
        pass

    def receive(self, process: Process, request: ChatRequest) -> asyncio.Future[Completion]:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        prompt = request.messages[0]["content"]
        for before in self.sent.setdefault(prompt, []):
            late = self._unheard(before.process, process) or self._unheard(process, before.process)
            if not (before.failed or before.process.dead or late):
                self._world.break_(f"P3: {process} sends {prompt}, which {before.process} has sent")
        self.sent[prompt].append(sent := Sent(process))
        loop.start(self._answer(sent, prompt, future))
        return future

    @staticmethod
    def _unheard(former: Process, process: Process) -> bool:
        return former.silent(STALLED if former.machine is process.machine else LEASE)

    async def _answer(self, sent: Sent, prompt: str, future: asyncio.Future[Completion]) -> None:
        draw = self._world.draw
        await asyncio.sleep(min(draw.expovariate(4 / self.slowest), self.slowest))
        if future.done():
            return
        if draw.random() < 0.1:
            sent.failed = True
            future.set_exception(ServerFailed("500", status=500))
        else:
            future.set_result(Completion(text=f"<{prompt}>", model="m", usage=Usage(output_tokens=1)))


async def live(seed: int, database: Database) -> World:
    """Raises Broken."""
    world = World(seed, database, Server)
    draw = world.draw
    items = [f"q{number}" for number in range(draw.choice([1, 5, 40]))]
    loaded = workflow(as_yaml(WORKFLOW))
    ended: dict[Process, RunStatus] = {}

    async def one(process: Process) -> None:
        await asyncio.sleep(draw.choice([0.0, 0.0, 3.0]) * draw.random())
        asked = draw.choices(items, k=2 * len(items)) if draw.random() < 0.5 else items

        async def work(app: FlowLLM) -> None:
            options = RunOptions(max_concurrent=draw.choice([3, 100]), config=None)
            result = await app.run(loaded, inputs={"items": asked}, options=options)
            ended[process] = result.status
            if result.outputs["answers"] != [f"<{item}>" for item in asked]:
                world.break_(f"P5: {process} had {result.outputs}")

        await asyncio.wait(
            [process.start(work), alive := asyncio.ensure_future(_gone(process))], return_when="FIRST_COMPLETED"
        )
        alive.cancel()
        if process.done:
            process.task.result()

    async with world.open():
        processes = [world.process() for _ in range(draw.randint(2, 6))]
        going = asyncio.gather(*map(one, processes))
        troubles = asyncio.gather(*(_trouble(world, process) for process in processes[1:] if draw.random() < 0.5))
        last = await troubles
        began = world.now
        await going
        if world.broken:
            raise Broken(world.broken[0])
        if bad := {status for status in ended.values() if status is not RunStatus.SUCCEEDED}:
            raise Broken(f"P3: {bad}")
        rounds = 2 * len(items) * (1 + len(processes))
        if world.now - began > REPLACED * (1 + len(last)) + rounds * (world.server.slowest + 10):
            raise Broken(f"P3: they ended at {world.now}")
    return world


async def _gone(process: Process) -> None:
    while not process.dead:
        await asyncio.sleep(1.0)


async def _trouble(world: World, process: Process) -> None:
    draw = world.draw
    await asyncio.sleep(draw.choice([0.5, world.server.slowest]) * draw.random())
    if process.done:
        return
    if draw.random() < 0.6:
        process.kill()
    else:
        process.pause()
        await asyncio.sleep(draw.choice([3.0, 20.0, 90.0]))
        process.go_on()


def play(seed: int, database: Database) -> World:
    return run_gated(live(seed, database))
