"""Shares of limits: never more in sum than there is, whoever comes, goes, dies or is late; and all of it where it is needed."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowllm.core.shares import Balance, Grant, LearnedRate, Ledger, Pool, Report, Share
from flowllm.core.types import Limits, WindowLimit
from flowllm.limits.account_limiter import AccountLimiter
from flowllm.limits.shares import LEASE, TURN, balance, targets
from flowllm.limits.sharing import SharedScope

LIMITS = Limits(max_concurrent=7, requests_per_minute=600, burst=10, windows=(WindowLimit(requests=9, per=1.0),))


class Database:
    """The rows of one scope."""

    def __init__(self) -> None:
        self.pool: Pool | None = None
        self.shares: dict[int, Share] = {}
        self.gone: set[int] = set()

    def ledger(self, process: int, now: float) -> Ledger:
        return Ledger(
            process=process, pool=self.pool, shares=[*self.shares.values()], gone=frozenset(self.gone), now=now
        )

    def write(self, made: Balance) -> Grant:
        self.pool = made.pool
        for process in made.remove:
            del self.shares[process]
        for share in made.write:
            self.shares[share.process] = share
        return made.grant


class World:
    """Time, a server that counts arrivals, and processes whose clocks differ."""

    def __init__(self, seed: int, limits: Limits, *, burst: float) -> None:
        self.now = 1000.0
        self.draw = random.Random(seed)
        self.limits = limits
        self.database = Database()
        self.processes: list[Process] = []
        self.number = 0
        self.rate, self.burst = (limits.requests_per_minute or 0) / 60, burst
        self.level, self.at = burst, self.now
        self.log: deque[float] = deque()
        self.sent: list[float] = []
        self.in_flight = 0

    def arrive(self) -> None:
        """One more request, which the server has to be able to take."""
        self.level = min(self.burst, self.level + (self.now - self.at) * self.rate)
        self.at = self.now
        self.level -= 1
        assert not self.rate or self.level >= -1e-6, "the bucket is empty"
        for window in self.limits.windows:
            within = sum(at > self.now - window.per for at in self.log)
            assert within < window.requests, "the window is full"
        self.log.append(self.now)
        if len(self.log) > 100:
            self.log.popleft()
        self.sent.append(self.now)

    def join(self) -> Process:
        self.number += 1
        process = Process(self, self.number)
        self.processes.append(process)
        process.balance()
        return process

    def happen(self, *, stalls: bool) -> None:
        """Now and then somebody comes, dies, leaves, has something to do or nothing, or is late."""
        what, one = self.draw.random(), self.draw.choice(self.processes)
        if what < 0.01 and len(self.processes) < 6:
            self.join()
        elif 0.01 <= what < 0.015 and len(self.processes) > 1:
            one.settle()
            self.in_flight -= len(one.ends)
            self.processes.remove(one)
            if self.draw.random() < 0.5:  # else it shows when its share is over
                self.database.gone.add(one.number)
        elif 0.015 <= what < 0.02 and len(self.processes) > 1 and not one.ends and one.granted is None:
            one.ask(leaving=True)
            self.processes.remove(one)
        elif 0.02 <= what < 0.03:
            one.busy ^= True
        elif stalls and 0.03 <= what < 0.035:
            one.due = self.now + self.draw.uniform(0, 15)

    def go_on(self, seconds: float) -> None:
        """Everyone does what is due."""
        self.now += seconds
        for process in self.processes:
            process.settle()
            if process.granted is not None:
                process.take()
            elif self.now >= process.due:
                process.ask()
            while process.busy and process.send(self.draw.uniform(0.05, 3.0)):
                pass


class Process:
    """One with a clock of its own, which sends whenever it may."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.ahead = world.draw.uniform(-500, 500)
        self.account = AccountLimiter(self)
        self.account.scope.tune(world.limits, world.rate or None, self.monotonic())
        self.scope = SharedScope(self.account, None, self.monotonic())
        self.ends: list[float] = []
        self.granted: tuple[Grant, float] | None = None
        self.due = 0.0
        self.busy = True

    def monotonic(self) -> float:
        return self.world.now + self.ahead

    def now(self) -> float:
        return self.monotonic()

    def send(self, latency: float) -> bool:
        now, scope = self.monotonic(), self.account.scope
        if scope.full(scope.limits.max_concurrent, now) or scope.hold(0.0, now) or scope.wire_hold(now):
            return False
        scope.take(0.0, now)
        scope.wire.take(now)
        self.world.arrive()
        self.world.in_flight += 1
        self.ends.append(self.world.now + latency)
        return True

    def settle(self) -> None:
        now = self.monotonic()
        over = [at for at in self.ends if at <= self.world.now]
        for _ in over:
            self.account.scope.give_back(0.0, 0.0, now, sent=True)
            self.world.in_flight -= 1
        self.ends = [at for at in self.ends if at > self.world.now]

    def ask(self, *, leaving: bool = False) -> None:
        """The transaction; what it says arrives later."""
        asked, ahead = self.monotonic(), -self.ahead
        report = self.scope.report(asked, ahead, leaving=leaving)
        if not self.busy and self.scope.told:
            report = replace(report, need=0.0, need_slots=self.account.scope.in_flight)
        elif self.busy:
            report = replace(report, need=1.0, need_slots=50)
        made = balance(report, self.world.database.ledger(self.number, self.world.now))
        self.granted = self.world.database.write(made), asked

    def take(self) -> None:
        if self.granted is not None:
            self.scope.take(*self.granted, self.monotonic(), -self.ahead)
            self.granted = None
        self.due = self.world.now + min(1.0, self.scope.soon)

    def balance(self) -> None:
        self.ask()
        self.take()


@given(seed=st.integers(0, 10**6), stalls=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_server_never_sees_more_than_it_allows(seed: int, stalls: bool) -> None:
    world = World(seed, LIMITS, burst=10)
    world.join()
    for _ in range(600):
        world.happen(stalls=stalls)
        world.go_on(world.draw.uniform(0, 0.1))
        shares = world.database.shares.values()
        assert stalls or world.in_flight <= 7
        assert stalls or sum(share.slots for share in shares) <= 7
        assert sum(share.fraction for share in shares) <= 1 + 1e-9
        assert sum(share.windows.get("1.05", 0) for share in shares) <= 9
    assert world.sent


@pytest.mark.parametrize("number", [1, 2, 4, 7])
def test_all_of_it_is_used_and_evenly(number: int) -> None:
    world = World(1, Limits(requests_per_minute=600), burst=10)
    for _ in range(number):
        world.join()
    for _ in range(3000):
        world.go_on(0.01)
    assert len([at for at in world.sent if at >= 1010]) >= 0.96 * 200
    granted = [process.account.scope.granted for process in world.processes]
    assert max(granted) <= 1.3 * min(granted) + 15


@pytest.mark.parametrize(
    "limits",
    [Limits(max_concurrent=2), Limits(requests_per_minute=30), Limits(windows=(WindowLimit(requests=2, per=1.0),))],
)
def test_who_cannot_have_something_at_the_same_time_takes_turns(limits: Limits) -> None:
    world = World(1, limits, burst=1)
    for _ in range(5):
        world.join()
    for _ in range(6000):
        world.go_on(0.01)
    assert min(process.account.scope.granted for process in world.processes) > 0


def test_one_alone_has_all_of_it_at_once() -> None:
    world = World(1, LIMITS, burst=10)
    scope = world.join().account.scope
    assert (scope.share.fraction, scope.share.slots, scope.share.windows) == (1.0, 7, {"1.05": 9})
    assert scope.level(world.processes[0].monotonic()) == pytest.approx(9.5)


def test_the_next_one_finds_what_the_last_one_left() -> None:
    world = World(1, Limits(requests_per_minute=600), burst=10)
    first = world.join()
    while first.send(0.01):
        pass
    world.now += 0.1
    first.settle()
    first.ask(leaving=True)
    world.processes.clear()
    second = world.join()
    assert second.account.scope.level(second.monotonic()) == pytest.approx(0.5 + 1, abs=0.1)


def test_what_a_dead_one_had_is_free_when_its_share_is_over_and_its_level_is_lost() -> None:
    world = World(1, Limits(requests_per_minute=600), burst=10)
    dead = world.join()
    world.processes.remove(dead)
    heir = world.join()
    assert heir.account.scope.share.fraction == 0
    world.now += LEASE + 0.05
    heir.balance()
    assert heir.account.scope.share.fraction == 1
    assert heir.account.scope.level(heir.monotonic()) == pytest.approx(0.5, abs=0.1)


def test_who_needs_nothing_lends_its_part_and_gets_it_back() -> None:
    world = World(1, Limits(requests_per_minute=600), burst=10)
    one, other = world.join(), world.join()
    for _ in range(300):
        world.go_on(0.01)
    assert one.account.scope.share.fraction == pytest.approx(0.5, abs=0.05)
    other.busy = False
    for _ in range(600):
        world.go_on(0.01)
    assert one.account.scope.share.fraction > 0.95
    other.busy = True
    for _ in range(300):
        world.go_on(0.01)
    assert other.account.scope.share.fraction >= 0.45


def test_nothing_moves_where_nothing_changes() -> None:
    world = World(1, LIMITS, burst=10)
    for _ in range(3):
        world.join()
    for _ in range(800):
        world.go_on(0.01)
    before = {number: (share.fraction, share.windows) for number, share in world.database.shares.items()}
    for _ in range(1000):
        world.go_on(0.01)
        assert before == {number: (share.fraction, share.windows) for number, share in world.database.shares.items()}


needs = st.lists(
    st.builds(
        lambda process, need, slots, minimum: Share(
            process=process, since=0, until=1, need=need, need_slots=slots, minimum=minimum
        ),
        st.integers(1, 20),
        st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        st.integers(0, 30),
        st.sampled_from([0.0, 0.1, 0.4, 1.0]),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda share: share.process,
)


@given(shares=needs, most=st.integers(1, 40))
def test_targets_add_up_to_the_whole(shares: list[Share], most: int) -> None:
    found = targets(shares, Report(most_slots=most, most={"1": most}), TURN)
    assert sum(one.fraction for one in found.values()) == pytest.approx(1.0)
    assert sum(one.slots for one in found.values()) == most
    assert sum(one.windows["1"] for one in found.values()) == most
    needy = [share for share in shares if share.need or share.need_slots]
    if len(needy) <= most and sum(share.minimum for share in needy) <= 1:
        for share in needy:
            assert found[share.process].fraction >= min(share.minimum, 1.0) - 1e-9
            assert found[share.process].slots >= 1


def test_of_two_cuts_that_did_not_know_of_each_other_the_lower_rate_holds() -> None:
    database = Database()
    high, low = LearnedRate(top=9.0, floor=8.0, cut_at=0.0), LearnedRate(top=5.0, floor=4.0, cut_at=0.5)
    first = database.write(balance(Report(learned=None, version=-1), database.ledger(1, 1.0)))
    second = database.write(balance(Report(learned=None, version=-1), database.ledger(2, 1.0)))
    told = database.write(balance(Report(learned=low, changed=True, version=first.version), database.ledger(1, 2.0)))
    assert told.learned == low
    told = database.write(balance(Report(learned=high, changed=True, version=second.version), database.ledger(2, 2.1)))
    assert told.learned == low
    told = database.write(balance(Report(learned=high, changed=True, version=told.version), database.ledger(2, 2.2)))
    assert told.learned == high, "who knows of the other cut may undo it"


def test_what_was_learned_when_nobody_was_there_is_old() -> None:
    database = Database()
    database.pool = Pool(at=0.0, learned=LearnedRate(top=5.0, floor=4.0, cut_at=0.0), version=3)
    assert database.write(balance(Report(version=-1), database.ledger(1, 1000.0))).learned is None


def test_a_pause_of_the_server_holds_for_all() -> None:
    database = Database()
    database.write(balance(Report(), database.ledger(1, 1.0)))
    database.write(balance(Report(paused_until=9.0), database.ledger(2, 2.0)))
    assert database.write(balance(Report(), database.ledger(1, 3.0))).paused_until == 9.0


def test_a_clock_that_was_set_back_keeps_no_share_for_ever() -> None:
    database = Database()
    database.write(balance(Report(), database.ledger(1, 86_400.0)))
    assert database.write(balance(Report(), database.ledger(2, 1.0))).fraction == 1.0


def test_a_clock_that_was_set_back_keeps_nobody_waiting_for_a_pause_that_is_over() -> None:
    database = Database()
    database.write(balance(Report(paused_until=86_430.0), database.ledger(1, 86_400.0)))
    assert database.write(balance(Report(), database.ledger(1, 86_401.0))).paused_until == 86_430.0
    assert database.write(balance(Report(), database.ledger(1, 1.0))).paused_until == 0.0


def test_a_clock_that_was_set_back_keeps_nothing_of_what_the_dead_have_sent() -> None:
    database, most = Database(), {"1.0": 9}
    database.write(balance(Report(most=most, sent=most), database.ledger(1, 86_400.0)))
    database.gone.add(1)
    database.write(balance(Report(most=most), database.ledger(2, 86_401.0)))
    assert database.shares[1].ended
    database.write(balance(Report(most=most), database.ledger(2, 1.0)))
    assert 1 not in database.shares
