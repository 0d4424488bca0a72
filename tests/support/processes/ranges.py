"""Rows of a data set that workers execute, which are killed, stand still, leave and come late; and so does the coordinator."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from pathlib import Path
from unittest.mock import patch

from flowllm.app.flowllm import FlowLLM
from flowllm.app.worker_pool import PoolEvents, Workers
from flowllm.core.types import ROW, NodeStatus, RunId
from flowllm.datasets.file_writes import OutputLock
from flowllm.runtime.options import RunOptions
from flowllm.storage.base import RunRecord
from tests.support.processes.databases import Database
from tests.support.processes.gates import GATE, run_gated
from tests.support.processes.runs import Run, Server, finish
from tests.support.processes.world import Broken, Process, World
from tests.support.project import as_yaml
from tests.support.random_graphs import key_of, rejected, reply
from tests.support.stores import FAST
from tests.support.workflows import workflow

WORKFLOW = {
    "name": "over",
    "inputs": {"q": {"type": "string"}},
    "steps": {
        name: {"prompt": prompt, "model": "m", "timeout": "7d", "retry": {"max_attempts": 1000, "max_delay": "5s"}}
        for name, prompt in (("a", "a {{ inputs.q }}"), ("b", "b {{ a }}"))
    },
    "outputs": {"found": "{{ b }}"},
}


def answer_to(word: str, text: str) -> str | None:
    """What the server says; None: it refuses that."""
    prompt = f"{word} {text}"
    key = key_of(prompt, None)
    return None if rejected(key) else reply(prompt, key, None)


class Lock(OutputLock):
    """One that is given back when its process is killed."""

    def __init__(self, path: Path, run_id: RunId) -> None:
        super().__init__(path, run_id)
        GATE.get().process.at_death.append(self.release)


class Pool(Workers):
    """The workers that are started with a run."""

    def __init__(self, world: World, size: int) -> None:
        super().__init__(size)
        self._world = world
        self._processes: set[Process] = set()

    async def close(self, *, cancel: bool) -> None:
        self._closing.set()
        if cancel:
            for process in self._processes:
                process.stop.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _one(self, number: int, run_id: RunId, events: PoolEvents) -> tuple[int, str]:
        parent = GATE.get().process
        process = self._world.process(parent.machine)
        self._processes.add(process)

        async def work(app: FlowLLM) -> None:
            app._stored = lambda *_: self._world.workflow
            leaving = asyncio.ensure_future(self._leave(parent, process))
            await app.work(run_id, stop=process.stop, started=True)
            leaving.cancel()

        process.start(work)
        while not (process.done or process.dead):
            await asyncio.sleep(0.1)
        self._processes.discard(process)
        events.gone()
        if process.dead or process.task.cancelled():
            return -9, ""
        error = process.task.exception()
        return (0, "") if error is None else (1, str(error))

    async def _leave(self, parent: Process, process: Process) -> None:
        """Its standard input ends."""
        while not (parent.dead or self._closing.is_set()):
            await asyncio.sleep(0.1)
        process.stop.request("its run is over")


class Over(Run):
    """A run over a data set."""

    def __init__(self, world: World, folder: Path) -> None:
        super().__init__(world, "over")
        draw = world.draw
        self.workflow = world.workflow = workflow(as_yaml(WORKFLOW))
        self.rows = [f"q{draw.randrange(60)}" for _ in range(draw.choice([1, 7, 60]))]
        data, self.output = folder / "rows.jsonl", folder / "out.jsonl"
        data.write_text("".join(json.dumps({"q": row}) + "\n" for row in self.rows))
        self.ordered = draw.random() < 0.5
        self.options = RunOptions(
            over=str(data),
            output=str(self.output),
            ordered=self.ordered,
            max_concurrent=draw.randint(1, 6),
            grace=60.0,
            config=None,
        )
        self.size = draw.choice([None, 1, 3])

    def more(self) -> dict[str, object]:
        return {} if self.size is None else {"workers": Pool(self.world, self.size)}

    async def join(self) -> None:
        """Workers come by themselves, and something happens to all that there are."""
        draw, world = self.world.draw, self.world
        joined: list[Process] = []
        faults = draw.randint(0, 5)
        for _ in range(draw.randint(0, 3)):
            await asyncio.sleep(draw.choice([0.0, 10.0]) * draw.random())
            joined.append(process := world.process())
            process.start(lambda app, process=process: self._work(process, app))
        while not self.ended:
            await asyncio.sleep(6.0 * draw.random())
            able = [one for one in world.processes if one not in self.crew and not (one.dead or one.done)]
            if faults and able:
                faults -= 1
                await self.disturb(draw.choice(able))
        for process in joined:
            self.go_on(process)
            process.stop.request("sim")

    async def _work(self, process: Process, app: FlowLLM) -> None:
        app._stored = lambda *_: self.workflow
        await app.work(stop=process.stop)

    def check(self, run: RunRecord) -> None:
        wanted = {}
        for index, row in enumerate(self.rows):
            first = answer_to("a", row)
            wanted[index] = None if first is None else answer_to("b", first)
        nodes = self.world.database.nodes(run.run_id)
        rows = Counter(
            status for name, (status, _) in nodes.items() if name.startswith(f"{ROW}[") and name.endswith("]")
        )
        right = {index: found for index, found in wanted.items() if found is not None}
        counts = Counter({NodeStatus.SUCCEEDED: len(right), NodeStatus.FAILED: len(wanted) - len(right)})
        if +rows != +counts:
            raise Broken(f"P5: rows are {rows} instead of {counts}")
        text = self.output.read_text() if right else ""  # where every row has failed there is no file
        lines = [json.loads(line) for line in text.splitlines()]
        indexes = [line["index"] for line in lines]
        if Counter(indexes) != Counter(right.keys()):
            raise Broken(f"P5: the output has {sorted(indexes)} instead of {sorted(right)}")
        if self.ordered and indexes != sorted(indexes):
            raise Broken(f"P5: the output is not in order: {indexes}")
        for line in lines:
            if line["outputs"] != {"found": right[line["index"]]} or line["row"] != {"q": self.rows[line["index"]]}:
                raise Broken(f"P5: the output has {line}")


async def live(seed: int, database: Database) -> World:
    """Raises Broken."""
    world = World(seed, database, Server)
    place = tempfile.TemporaryDirectory(prefix="flowllm-sim-", dir=FAST)
    with place as folder, patch("flowllm.app.dataset_run.OutputLock", Lock):
        async with world.open():
            run = Over(world, Path(folder))
            await asyncio.gather(run.keep(), run.join())
            await finish(world, [run])
    return world


def play(seed: int, database: Database) -> World:
    return run_gated(live(seed, database))
