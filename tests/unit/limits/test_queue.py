from __future__ import annotations

import itertools
import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowllm.core.types import Priority
from flowllm.limits.queue import AdmissionQueue

NORMAL = Priority.NORMAL


def drained(queue: AdmissionQueue[str], count: int) -> list[str]:
    return [queue.pop() for _ in range(count)]


def test_those_who_leave_are_passed_over_and_not_counted() -> None:
    queue: AdmissionQueue[str] = AdmissionQueue()
    first = queue.push("a", NORMAL)
    queue.push("b", NORMAL)
    queue.leave(first)
    queue.leave(first)
    assert len(queue) == 1
    assert queue.pop() == "b"
    assert queue.peek() is None
    with pytest.raises(IndexError):
        queue.pop()


def test_leaving_after_having_gone_changes_nothing() -> None:
    queue: AdmissionQueue[str] = AdmissionQueue()
    ticket = queue.push("a", Priority.HIGH)
    assert queue.pop() == "a"
    queue.leave(ticket)
    queue.push("b", Priority.LOW)
    assert len(queue) == 1


def test_inside_a_tenant_first_come_first_served() -> None:
    queue: AdmissionQueue[str] = AdmissionQueue()
    for name in "abcde":
        queue.push(name, NORMAL, tenant="t")
    assert drained(queue, 5) == list("abcde")


def test_a_large_tenant_does_not_hold_up_a_small_one() -> None:
    queue: AdmissionQueue[str] = AdmissionQueue()
    for _ in range(1000):
        queue.push("large", NORMAL, tenant="large")
    drained(queue, 100)
    for _ in range(5):
        queue.push("small", NORMAL, tenant="small")
    assert drained(queue, 12).count("small") == 5


@pytest.mark.parametrize("weight", [1.0, 2.0, 3.0, 0.5])
def test_weights_share_in_proportion(weight: float) -> None:
    queue: AdmissionQueue[str] = AdmissionQueue()
    for _ in range(3000):
        queue.push("a", NORMAL, tenant="a", weight=weight)
        queue.push("b", NORMAL, tenant="b")
    served = drained(queue, 1200)
    assert served.count("a") / served.count("b") == pytest.approx(weight, rel=0.02)


def test_a_tenant_that_comes_back_is_owed_nothing_for_having_been_away() -> None:
    queue: AdmissionQueue[str] = AdmissionQueue()
    queue.push("b", NORMAL, tenant="b")
    for _ in range(500):
        queue.push("a", NORMAL, tenant="a")
    drained(queue, 400)
    for _ in range(100):
        queue.push("b", NORMAL, tenant="b")
    assert abs(drained(queue, 60).count("b") - 30) <= 1


def test_a_tenant_that_comes_back_does_not_pay_for_what_it_had_alone() -> None:
    queue: AdmissionQueue[str] = AdmissionQueue()
    for _ in range(500):
        queue.push("a", NORMAL, tenant="a")
    drained(queue, 500)
    for _ in range(100):
        queue.push("a", NORMAL, tenant="a")
        queue.push("b", NORMAL, tenant="b")
    assert abs(drained(queue, 60).count("a") - 30) <= 1


def test_requests_that_left_the_queue_cost_their_tenant_nothing() -> None:
    queue: AdmissionQueue[str] = AdmissionQueue()
    gone = [queue.push("gone", NORMAL, tenant="a") for _ in range(300)]
    for _ in range(100):
        queue.push("a", NORMAL, tenant="a")
        queue.push("b", NORMAL, tenant="b")
    for ticket in gone:
        queue.leave(ticket)
    served = drained(queue, 60)
    assert "gone" not in served
    assert abs(served.count("a") - 30) <= 1


def test_priorities_come_before_fairness() -> None:
    queue: AdmissionQueue[str] = AdmissionQueue()
    for name, priority in [("l", Priority.LOW), ("n", NORMAL), ("h", Priority.HIGH), ("n2", NORMAL)]:
        queue.push(name, priority, tenant="same")
    assert drained(queue, 4) == ["h", "n", "n2", "l"]


def test_queues_that_share_their_numbers_can_be_compared_by_who_came_first() -> None:
    arrivals = itertools.count()
    one: AdmissionQueue[str] = AdmissionQueue(arrivals)
    other: AdmissionQueue[str] = AdmissionQueue(arrivals)
    drained(one, len([one.push("x", NORMAL) for _ in range(100)]))
    one.push("first", NORMAL)
    other.push("second", NORMAL)
    heads = [queue.head() for queue in (other, one)]
    assert min(head for head in heads if head is not None)[1] == "first"


def test_tenants_that_are_gone_are_forgotten() -> None:
    queue: AdmissionQueue[str] = AdmissionQueue()
    for number in range(1000):
        queue.push("x", NORMAL, tenant=f"t{number}")
    drained(queue, 1000)
    assert not any(lane.tenants or lane.heap for lane in queue._classes)


def lines_executed(count: int) -> int:
    """Lines of the queue's code that one arrival, one departure and one service take, with `count` tenants waiting."""
    queue: AdmissionQueue[int] = AdmissionQueue()
    tickets = [queue.push(n, NORMAL, tenant=f"t{n}") for n in range(count)]
    executed = 0

    def trace(frame: object, event: str, _: object) -> object:
        nonlocal executed
        executed += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for number in range(50):
            queue.push(number, NORMAL, tenant=f"t{number}")
            queue.leave(tickets[-1 - number])
            queue.pop()
    finally:
        sys.settrace(before)
    return executed


def test_a_long_queue_is_no_slower_to_join_leave_or_serve() -> None:
    """Counted in lines, not seconds: the heap's logarithm is in C."""
    assert lines_executed(20_000) <= 1.5 * lines_executed(100)


@given(st.integers(0, 2**32))
def test_nobody_is_lost_doubled_or_overtaken_by_their_own(seed: int) -> None:
    draw = random.Random(seed)
    queue: AdmissionQueue[tuple[str, int, Priority]] = AdmissionQueue()
    waiting: dict[int, tuple[str, int, Priority]] = {}
    for number in range(120):
        what = draw.random()
        if what < 0.5:
            priority = draw.choice(list(Priority))
            item = (draw.choice("abc"), number, priority)
            waiting[queue.push(item, priority, tenant=item[0], weight=draw.choice([1.0, 2.0]))] = item
        elif what < 0.7 and waiting:
            ticket = draw.choice(list(waiting))
            queue.leave(ticket)
            del waiting[ticket]
        elif waiting:
            tenant, came, priority = item = queue.pop()
            assert item in waiting.values()
            same = [n for t, n, p in waiting.values() if (t, p) == (tenant, priority)]
            assert came == min(same), "a later one of the same tenant went first"
            waiting = {ticket: other for ticket, other in waiting.items() if other != item}
        assert len(queue) == len(waiting)
    assert sorted(drained(queue, len(waiting))) == sorted(waiting.values())


@given(costs=st.lists(st.floats(0.05, 4.0), min_size=2, max_size=4), weights=st.lists(st.floats(0.5, 4.0), min_size=4))
def test_what_is_served_counts_by_its_cost(costs: list[float], weights: list[float]) -> None:
    """Nobody who always waits is behind another by more than one request of each, by what they were served for."""
    queue: AdmissionQueue[int] = AdmissionQueue()
    for owner, cost in enumerate(costs):
        for _ in range(400):
            queue.push(owner, NORMAL, tenant=str(owner), weight=weights[owner], cost=cost)
    served, left = [0.0] * len(costs), [400] * len(costs)
    while min(left) > 0:
        owner = queue.pop()
        left[owner] -= 1
        served[owner] += costs[owner] / weights[owner]
    most = max(cost / weight for cost, weight in zip(costs, weights, strict=False))
    assert max(served) - min(served) <= 2 * most + 1e-6
