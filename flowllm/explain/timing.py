"""How long a run would take: its expected requests, one after the other as the graph has it, under the limits. Pure.

A simulation by events, next event first (as J. Banks et al., Discrete-Event System Simulation, chapter 3). Requests of one provider
go in the order in which they are ready; each takes the time that earlier ones took on average.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import count, cycle, islice
from typing import Final, TypeAlias

from flowllm.core.records import dataclass, field

MOST_SIMULATED = 20_000
"""Requests; of more, each that is simulated stands for several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Requests that may go at the same time, or work that a step does itself."""

    count: float
    seconds: float | None
    """Of one; None: nobody knows."""
    provider: str = ""
    """Empty for work of a step's own, which no limits of a provider hold back."""
    tokens: float = 0.0
    """That one takes,"""
    reserved: float = 0.0
    """and that are set aside for it before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A graph: parts by name, each after those that it needs."""

    parts: Mapping[str, Load]
    needs: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Many:
    """Items, so many at the same time; the first ones stand for the rest."""

    items: Sequence[Load]
    count: float
    window: int | None = None


Load: TypeAlias = Calls | Parts | Many
IDLE: Final = Calls(count=0, seconds=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """What one provider allows."""

    slots: float = math.inf
    grows_to: float = 0.0
    """Where the number of slots is found: each answer adds one, up to here;"""
    opening: float = 0.0
    """and before the first answer time does, so many a second,"""
    unheard: float = 0.0
    """up to here."""
    requests_per_second: float = math.inf
    burst: float = 1.0
    tokens_per_second: float = math.inf
    token_burst: float = 0.0
    charges_usage: bool = False
    """Tokens are charged as they are used, not as they are set aside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """When the steps at the top would begin and end, in seconds from the beginning of the run."""

    seconds: float | None
    """None: of a request nobody knows how long it takes."""
    begins: Mapping[str, float] = field(default_factory=dict)
    ends: Mapping[str, float] = field(default_factory=dict)

    def critical_path(self, graph: Parts) -> tuple[str, ...]:
        """Backwards from the step that ends last, each time the needed step that ended last; of several the later one."""
        path: list[str] = []
        at = max(reversed(list(self.ends)), key=self.ends.__getitem__, default=None)
        while at is not None:
            path.append(at)
            at = max(graph.needs.get(at, ()), key=lambda one: self.ends.get(one, 0.0), default=None)
        return tuple(reversed(path))


def timetable(graph: Parts, lanes: Mapping[str, Lane]) -> Timetable:
    """When everything would be over."""
    wanted, known = _sums(graph)
    if not known:
        return Timetable(seconds=None)
    simulation = _Simulation(lanes, scale=max(1.0, wanted / MOST_SIMULATED))
    simulation.begin(graph, lambda: None, top=True)
    simulation.run()
    ends = simulation.ends
    return Timetable(seconds=max(ends.values(), default=0.0), begins=simulation.begins, ends=ends)


def _sums(load: Load) -> tuple[float, bool]:
    """How many requests there are, and whether it is known of all how long they take."""
    if isinstance(load, Calls):
        return load.count, load.count == 0 or load.seconds is not None
    inner = [_sums(one) for one in (load.parts.values() if isinstance(load, Parts) else load.items)]
    number, known = sum(one for one, _ in inner), all(is_known for _, is_known in inner)
    return (number * load.count / len(load.items) if isinstance(load, Many) and load.items else number), known


class _Line:
    """The requests of one provider, in the order in which they came."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.slots = lane.slots
        self.waiting: deque[tuple[float, float, float, Callable[[], None]]] = deque()
        self.in_flight = 0
        self.heard = self.opens = False
        self._rates = [_Rate(lane.requests_per_second, lane.burst), _Rate(lane.tokens_per_second, lane.token_burst)]

    def departs(self, now: float, requests: float, tokens: float) -> float:
        """When the next one may go."""
        return max(rate.departs(now, amount) for rate, amount in zip(self._rates, (requests, tokens), strict=True))


class _Rate:
    """A token bucket that starts full."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._free = -math.inf
        """When what was taken is back, but for the burst."""

    def departs(self, now: float, amount: float) -> float:
        if self._rate == math.inf:
            return now
        self._free = max(self._free, now - self._burst / self._rate) + amount / self._rate
        return max(now, self._free)


class _Simulation:
    def __init__(self, lanes: Mapping[str, Lane], *, scale: float) -> None:
        """`scale`: so many requests are simulated as one, which takes so many times as long."""
        self._lines = {name: _Line(lane) for name, lane in lanes.items()}
        self._scale = scale
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._now = 0.0
        self.begins: dict[str, float] = {}
        self.ends: dict[str, float] = {}

    def run(self) -> None:
        """Until nothing is left."""
        while self._events:
            self._now, _, happen = heapq.heappop(self._events)
            happen()

    def _at(self, moment: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), happen))

    def begin(self, load: Load, done: Callable[[], None], *, top: bool = False) -> None:
        """Begin with it now; `done` is called when it is over."""
        if isinstance(load, Calls):
            self._calls(load, done)
        elif isinstance(load, Many):
            self._many(load, done)
        else:
            self._graph(load, done, top=top)

    def _calls(self, load: Calls, done: Callable[[], None]) -> None:
        if load.count <= 0:
            self._at(self._now, done)
            return
        line = self._lines.setdefault(load.provider, _Line(Lane()))
        size, left = 1.0, max(1, math.ceil(load.count - 1e-9))
        if load.count < 1:
            size = load.count  # a part of a request that others share, or that may not be needed
        over = _countdown(left, done)
        for _ in range(left):
            tokens = load.tokens if line.lane.charges_usage else load.reserved
            line.waiting.append((load.seconds or 0.0, size, tokens, over))
        self._pump(line)

    def _pump(self, line: _Line) -> None:
        scale = self._scale
        while line.waiting and line.in_flight < line.slots:
            seconds, size, tokens, over = line.waiting.popleft()
            line.in_flight += 1
            moment = line.departs(self._now, size * scale, tokens * scale)

            def ended(over: Callable[[], None] = over) -> None:
                line.in_flight -= 1
                line.heard = True
                if line.slots < line.lane.grows_to:
                    line.slots += 1
                over()
                self._pump(line)

            self._at(moment + seconds * size * scale, ended)
        if line.waiting and line.lane.opening and not line.opens:
            line.opens = True
            self._open(line)

    def _open(self, line: _Line) -> None:
        """More and more slots by the clock, while nothing was answered."""

        def more() -> None:
            if not line.heard and line.slots < line.lane.unheard:
                line.slots += 1
                self._pump(line)
                self._open(line)

        self._at(self._now + 1 / line.lane.opening, more)

    def _many(self, load: Many, done: Callable[[], None]) -> None:
        number = math.ceil(load.count / self._scale - 1e-9)
        if number <= 0 or not load.items:
            self._at(self._now, done)
            return
        items = islice(cycle(load.items), number)
        over = _countdown(number, done)

        def next_item() -> None:
            over()
            begin_one()

        def begin_one() -> None:
            item = next(items, None)
            if item is not None:
                self.begin(item, next_item)

        for _ in range(min(number, load.window or number)):
            begin_one()

    def _graph(self, load: Parts, done: Callable[[], None], *, top: bool) -> None:
        needs = {name: [need for need in load.needs.get(name, ()) if need in load.parts] for name in load.parts}
        left = {name: len(some) for name, some in needs.items()}
        after: dict[str, list[str]] = {name: [] for name in needs}
        for name, need in ((name, need) for name, some in needs.items() for need in some):
            after[need].append(name)
        over = _countdown(len(load.parts), done)

        def begin(name: str) -> None:
            if top:
                self.begins[name] = self._now
            self.begin(load.parts[name], lambda: ended(name))

        def ended(name: str) -> None:
            if top:
                self.ends[name] = self._now
            for follower in after[name]:
                left[follower] -= 1
                if not left[follower]:
                    begin(follower)
            over()

        for name in [name for name, number in left.items() if not number]:
            begin(name)
        if not load.parts:
            self._at(self._now, done)


def _countdown(number: int, done: Callable[[], None]) -> Callable[[], None]:
    """To be called so often; the last time it calls `done`."""
    left = number

    def one() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            done()

    return one
