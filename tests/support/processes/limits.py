"""One limit for many processes, at a server that counts: they come late, leave, are killed, and stop for a while."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from flowllm.app.flowllm import FlowLLM
from flowllm.core.errors import RateLimited
from flowllm.core.request import ChatRequest, Completion
from flowllm.core.types import Json, Usage
from flowllm.runtime.options import RunOptions
from tests.support.processes.databases import Database
from tests.support.processes.gates import run_gated
from tests.support.processes.world import Broken, Process, World
from tests.support.project import as_yaml
from tests.support.workflows import workflow

FREE = 10.0
"""Seconds in which others use what a process had that is no more."""
KNOWN = 0.95
UNKNOWN = 0.85
"""So much of a limit is used that is known, or is not."""
REFUSED = 0.05
"""At most so many requests are refused where it is not known."""
JITTER = 0.01
TOKENS = 80
"""That each request takes; as many as are set aside for its answer,"""
SET_ASIDE = 94
"""and for its prompt too."""
BURSTS = 0.8
"""A strict window comes in bursts, of which some fall in times that do not count."""
LATE = 1.0
"""By so many requests a clock in another process may be off."""


@dataclass
class Allowed:
    """What the server allows: requests a second with a burst, at once, and in each span of seconds."""

    rate: float = 1e9
    burst: float = 1e9
    slots: int | None = None
    window: tuple[int, float] | None = None
    known: dict[str, Json] = field(default_factory=dict)
    """As the workflow says it."""


class Server:
    """A token bucket, a sliding window, a number of slots."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.allowed = Allowed()
        self.latency = world.draw.choice([0.2, 1.0])
        self.told = world.draw.random() < 0.5
        self.accepted: list[float] = []
        self.refused: list[tuple[float, Process]] = []
        self.aloft: dict[Process, int] = {}
        self._level: float | None = None
        self._at = 0.0

    def hung_up(self, process: Process) -> None:
        self.aloft.pop(process, None)

    def receive(self, process: Process, request: ChatRequest) -> asyncio.Future[Completion]:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.start(self._answer(process, future))
        return future

    async def _answer(self, process: Process, future: asyncio.Future[Completion]) -> None:
        draw, world = self._world.draw, self._world
        await asyncio.sleep(draw.random() * JITTER)
        if process.dead:
            return
        fits = self._take(world.now)
        (self.accepted.append(world.now) if fits else self.refused.append((world.now, process)))
        self.aloft[process] = self.aloft.get(process, 0) + 1
        if self.allowed.slots is not None and sum(self.aloft.values()) > self.allowed.slots:
            world.break_(f"P9: {sum(self.aloft.values())} requests at once of {self.allowed.slots}: {self.aloft}")
        await asyncio.sleep(self.latency * (0.5 + draw.random()) if fits else 0.01)
        if process in self.aloft:
            self.aloft[process] -= 1
        if future.done():
            return
        if fits:
            usage = Usage(input_tokens=5, output_tokens=TOKENS - 5)
            future.set_result(Completion(text="x", model="m", usage=usage, headers=self._headers()))
        else:
            future.set_exception(RateLimited("429"))

    def _take(self, now: float) -> bool:
        allowed = self.allowed
        level = allowed.burst + LATE if self._level is None else self._level
        self._level = min(allowed.burst + LATE, level + (now - self._at) * allowed.rate)
        self._at = now
        if allowed.window is not None:
            count, span = allowed.window
            if sum(at > now - span for at in self.accepted[-count - 1 :]) >= count:
                return False
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True

    def _headers(self) -> dict[str, str]:
        allowed = self.allowed
        if allowed.known or not self.told:
            return {}
        missing = allowed.burst - max(0.0, self._level - LATE)
        return {
            "x-ratelimit-limit-requests": f"{allowed.rate * 60:.0f}",
            "x-ratelimit-remaining-requests": f"{int(max(0.0, self._level - LATE))}",
            "x-ratelimit-reset-requests": f"{missing / allowed.rate:.3f}s",
        }


def drawn(world: World) -> Allowed:
    draw = world.draw
    match draw.choice(["rate", "rate", "tokens", "slots", "window", "unknown", "unknown"]):
        case "rate":
            a_minute = draw.choice([120, 300, 600])
            return Allowed(rate=a_minute / 60, burst=max(1.0, a_minute / 60), known={"requests_per_minute": a_minute})
        case "tokens":
            a_minute = draw.choice([12_000, 60_000])
            return Allowed(rate=a_minute / TOKENS / 60, burst=a_minute / TOKENS, known={"tokens_per_minute": a_minute})
        case "slots":
            slots = draw.choice([1, 3, 10])
            return Allowed(slots=slots, known={"max_concurrent": slots})
        case "window":
            count, span = draw.choice([(10, 1.0), (30, 10.0)])
            return Allowed(window=(count, span), known={"windows": [{"requests": count, "per": f"{span:.0f}s"}]})
    return Allowed(rate=draw.choice([5.0, 10.0]), burst=10.0)


class Trial:
    """Processes that always have something to ask."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.allowed = world.server.allowed = drawn(world)
        limits = {"limits": self.allowed.known} if self.allowed.known else {}
        step = {
            "foreach": "{{ range(100000) }}",
            "prompt": "{{ inputs.name }} {{ item }}",
            "model": "m",
            "max_tokens": 80,
        }
        step["retry"] = {"max_attempts": 1000, "hedge": "off"}
        loaded = {"name": "limits", "inputs": {"name": "x"}, **limits, "steps": {"ask": step}}
        self.workflow = workflow(as_yaml(loaded))
        self.unsettled: list[tuple[float, float]] = []
        """Spans in which not everything can be used."""

    def start(self) -> Process:
        process = self.world.process()

        async def work(app: FlowLLM) -> None:
            options = RunOptions(config=None, grace=60.0)
            await app.run(self.workflow, inputs={"name": f"p{process.number}"}, options=options, stop=process.stop)

        process.start(work)
        return process

    async def go(self, seconds: float) -> None:
        draw, world = self.world.draw, self.world
        first = self.start()
        self.unsettled.append((world.now, world.now + 3.0))
        for _ in range(draw.randint(1, 3)):
            asyncio.get_running_loop().call_later(draw.choice([0.0, seconds / 3 * draw.random()]), self.start)
        for _ in range(draw.randint(0, 2)):
            await asyncio.sleep(seconds / 4 * (0.5 + draw.random()))
            able = [one for one in world.processes if one is not first and not one.dead and not one.done]
            if able:
                self._disturb(draw.choice(able))
        await asyncio.sleep(seconds - world.now)

    def _disturb(self, process: Process) -> None:
        draw, now = self.world.draw, self.world.now
        self.unsettled.append((now, now + FREE))
        match draw.choice(["kill", "pause", "leave"]):
            case "kill":
                process.kill()
            case "pause":
                process.pause()
                asyncio.get_running_loop().call_later(draw.choice([3.0, 15.0]), process.go_on)
            case "leave":
                process.stop.request("sim")

    def check(self, seconds: float) -> None:
        server, allowed = self.world.server, self.allowed
        bad = [at for at, process in server.refused if not process.paused]
        if allowed.known and bad:
            raise Broken(
                f"P9: {len(bad)} requests were refused of {len(server.accepted)}, at {bad[:5]}, {allowed.known}"
            )
        total = len(server.refused) + len(server.accepted)
        if len(server.refused) > REFUSED * total + 2:
            raise Broken(f"P9: {len(server.refused)} requests were refused of {total}")
        used, possible = self._used(seconds)
        if used < possible:
            raise Broken(f"P9: {used} requests in the time of {possible:.0f}, {allowed}")

    def _used(self, seconds: float) -> tuple[int, float]:
        """Requests in settled times, and how many are to be there."""
        allowed, server = self.allowed, self.world.server
        settled = [at for at in server.accepted if at < seconds and not self._unsettled(at)]
        steps = range(int(seconds * 10))
        span = sum(not self._unsettled(step / 10) for step in steps) / 10
        rate = allowed.rate * (TOKENS / SET_ASIDE if "tokens_per_minute" in allowed.known else 1)
        if allowed.slots is not None:
            rate = 0.85 * allowed.slots / (server.latency + JITTER / 2 + 0.05)
        elif allowed.window is not None:
            rate = BURSTS * allowed.window[0] / allowed.window[1]
        return len(settled), (KNOWN if allowed.known else UNKNOWN) * rate * span - 2

    def _unsettled(self, at: float) -> bool:
        return any(begin <= at < end for begin, end in self.unsettled)


async def live(seed: int, database: Database, minutes: float = 1.0) -> World:
    """Raises Broken."""
    world = World(seed, database, Server)
    async with world.open():
        trial = Trial(world)
        seconds = 60.0 * minutes * (1 if trial.allowed.known else 3)
        await trial.go(seconds)
        if world.broken:
            raise Broken(world.broken[0])
        trial.check(seconds)
        for process in world.processes:
            if process.done and not process.dead:
                process.task.result()
    return world


def play(seed: int, database: Database) -> World:
    return run_gated(live(seed, database))
