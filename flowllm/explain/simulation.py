"""One run, simulated by events, next event first (as J. Banks et al., Discrete-Event System Simulation, chapter 3). Pure.

Requests of one account go in the order in which they are ready; each takes as long as one of the earlier ones did, drawn at random
(bootstrap: B. Efron, 1979).
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Callable
from itertools import count, cycle, islice
from random import Random
from statistics import fmean

from flowllm.core.records import dataclass
from flowllm.explain.load import Accepts, Calls, Lane, Lanes, Load, Many, Parts


def simulated(graph: Parts, lanes: Lanes, *, scale: float, draw: Random) -> Simulation:
    """One run of that graph, to its end; for `scale` and `draw` see Simulation."""
    simulation = Simulation(lanes, scale=scale, draw=draw)
    simulation.begin(graph, lambda: None, top=True)
    simulation.run()
    return simulation


class _Line:
    """The requests of one account, in the order in which they came."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.slots = lane.slots
        self.in_flight = 0
        self.heard = self.opens = False
        self._rates = [_Rate(lane.requests_per_second, lane.burst), _Rate(lane.tokens_per_second, lane.token_burst)]

    def departs(self, now: float, requests: float, tokens: float) -> float:
        """When the next one may go."""
        return max(rate.departs(now, amount) for rate, amount in zip(self._rates, (requests, tokens), strict=True))


@dataclass(slots=True)
class _Waiting:
    """A request that is ready."""

    order: int
    load: Calls
    size: float
    over: Callable[[], None]


class _Account:
    """The requests to one account: each model has its own queue, and the account's limits besides."""

    def __init__(self, own: Lane, lane_of: Callable[[str], Lane]) -> None:
        self.own = _Line(own)
        self.models: dict[str, _Line] = {}
        self.waiting: defaultdict[str, deque[_Waiting]] = defaultdict(deque)
        self._lane_of = lane_of

    def add(self, one: _Waiting) -> None:
        """One more."""
        model = one.load.model
        if model not in self.models:
            self.models[model] = _Line(self._lane_of(model))
        self.waiting[model].append(one)

    def next(self) -> tuple[_Line, _Waiting] | None:
        """The one that came first among those that have a slot."""
        if self.own.in_flight >= self.own.slots:
            return None
        lines = ((self.models[model], queue) for model, queue in self.waiting.items() if queue)
        free = [(queue[0].order, line, queue) for line, queue in lines if line.in_flight < line.slots]
        if not free:
            return None
        _, line, queue = min(free, key=lambda one: one[0])
        return line, queue.popleft()


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


class Simulation:
    """One run; when the steps at the top began and ended, in seconds, is in `begins` and `ends`."""

    def __init__(self, lanes: Lanes, *, scale: float, draw: Random) -> None:
        """`scale`: so many requests are simulated as one, which takes so many times as long. `draw` draws what differs from
        run to run."""
        self._lanes = lanes
        self._accounts: dict[str, _Account] = {}
        self._scale = scale
        self._draw = draw
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

    def _account(self, load: Calls) -> _Account:
        name = self._lanes.accounts.get(load.provider, load.provider)
        if name not in self._accounts:
            whole = self._lanes.whole.get(name, Lane())
            self._accounts[name] = _Account(whole, lambda model: self._lanes.of_model(name, model))
        return self._accounts[name]

    def _calls(self, load: Calls, done: Callable[[], None]) -> None:
        if load.count <= 0:
            self._at(self._now, done)
            return
        account = self._account(load)
        left = max(1, math.ceil(load.count - 1e-9))
        size = load.count if load.count < 1 else 1.0  # a part of one that others share, or that may not be needed
        over = _countdown(left, done)
        for _ in range(left):
            account.add(_Waiting(next(self._order), load, size, over))
        self._pump(account)

    def _pump(self, account: _Account) -> None:
        while (found := account.next()) is not None:
            self._send(account, *found)
        for model, line in account.models.items():
            if account.waiting[model] and line.lane.opening and not line.opens:
                line.opens = True
                self._open(account, line)

    def _send(self, account: _Account, line: _Line, one: _Waiting) -> None:
        load, size = one.load, one.size * self._scale
        lines = (account.own, line)
        moment = max(
            each.departs(self._now, size, size * (load.tokens if each.lane.charges_usage else load.reserved))
            for each in lines
        )
        for each in lines:
            each.in_flight += 1

        def ended() -> None:
            line.heard = True
            if line.slots < line.lane.grows_to:
                line.slots += 1
            for each in lines:
                each.in_flight -= 1
            one.over()
            self._pump(account)

        seconds = self._draw.choice(load.seconds) if self._scale == 1 else fmean(load.seconds)
        self._at(moment + seconds * size, ended)

    def _open(self, account: _Account, line: _Line) -> None:
        """More and more slots by the clock, while nothing was answered."""

        def more() -> None:
            if not line.heard and line.slots < line.lane.unheard:
                line.slots += 1
                self._pump(account)
                self._open(account, line)

        self._at(self._now + 1 / line.lane.opening, more)

    def _many(self, load: Many, done: Callable[[], None]) -> None:
        number = math.ceil(load.count / self._scale - 1e-9)
        if number <= 0 or not load.items:
            self._at(self._now, done)
            return
        if load.accepts is not None and self._scale == 1:
            self._until_enough(load, load.accepts, done)
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

    def _until_enough(self, load: Many, accepts: Accepts, done: Callable[[], None]) -> None:
        items = islice(cycle(load.items), accepts.total)
        needed, in_flight = accepts.wanted, 0

        def begin_more() -> None:
            nonlocal in_flight
            most = min(load.window or math.inf, math.ceil(accepts.overshoot * needed))
            while in_flight < most and (item := next(items, None)) is not None:
                in_flight += 1
                self.begin(item, one_over)
            if not in_flight:
                done()

        def one_over() -> None:
            nonlocal in_flight, needed
            in_flight -= 1
            needed -= needed > 0 and self._draw.random() < accepts.share
            begin_more()

        begin_more()

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
