from __future__ import annotations

import math
import random

from flowllm.calls.hedge_policy import KEPT, MOST_KINDS, OLDEST, HedgePolicy, Latencies

ACCOUNT = "account"
KIND = (ACCOUNT, "m", False, 7)


def known(policy: HedgePolicy, *, count: int = 100, took: float = 1.0, kind: tuple = KIND) -> None:
    """So many have been answered."""
    for number in range(count):
        policy.departed(("known", number), kind, None, 0.0).landed(("known", number), took, took)


def test_late_is_twice_what_nearly_all_took_and_never_known_of_fewer_than_twenty() -> None:
    draw, latencies = random.Random(1), Latencies()
    took = [draw.lognormvariate(0, 0.5) for _ in range(100)]
    for number, seconds in enumerate(took, start=1):
        latencies.add(seconds, number)
        assert (latencies.late == math.inf) is (number < 20)
    assert latencies.late == 2 * sorted(took)[94]
    for number in range(KEPT):
        latencies.add(0.001, 100 + number)
    assert latencies.late == 0.5, "what is faster than that is late for reasons of our own"
    for number in range(10):
        latencies.add(9.0, 300 + OLDEST + number)
    assert latencies.late == math.inf, "all others are too old"


def test_what_is_late_is_found_by_its_like_and_once() -> None:
    policy: HedgePolicy[str] = HedgePolicy()
    other = (ACCOUNT, "m2", False, 7)
    known(policy)
    line = policy.departed("a", KIND, None, 100.0)
    assert line.late == 2.0
    assert policy.departed("long", other, None, 100.0).late == math.inf
    assert policy.departed("b", KIND, None, 101.0).late == 2.0
    assert policy.departed("said", KIND, 30.0, 100.0).late == 30.0
    assert policy.late(101.5) == ([], 0.5)
    assert policy.late(102.0) == (["a"], 1.0)
    assert policy.unknown(102.0) == ["long"]
    line.landed("b", 102.5, 1.5)
    assert policy.late(120.0) == ([], 10.0)
    assert policy.late(130.0) == (["said"], math.inf)
    assert not line.landed("a", 131.0, 31.0)


def test_where_nothing_is_known_what_is_on_record_is_asked_for_once_and_counts_as_of_now() -> None:
    policy: HedgePolicy[str] = HedgePolicy()
    line = policy.departed("a", KIND, None, 100.0)
    longer = policy.departed("longer", (ACCOUNT, "m", False, 12), None, 100.0)
    off = policy.departed("off", KIND, math.inf, 100.0)
    assert (line.due, line.late, off.due) == (2.0, math.inf, math.inf)
    assert (policy.unknown(101.9), policy.late(101.9)[1] < 0.11) == ([], True)
    assert (policy.unknown(102.0), policy.unknown(102.0)) == (["a"], []), "of each model one is enough"
    assert policy.late(102.0) == ([], math.inf)
    line.of_model.remember([], 102.0)
    assert line.late == math.inf
    line.of_model.add(1.0, 102.5)
    line.of_model.remember([0.1] * KEPT + [2.0] * 30, 103.0)
    assert (line.late, longer.late) == (4.0, 4.0), "the newest count, and those of this process are newer"
    assert sorted(policy.late(104.0)[0]) == ["a"], "the budget lends one"
    for number in range(30):
        line.of_model.add(1.0, 104.0 + OLDEST + number)
    assert line.late == 2.0, "they grow old as others do"


def test_what_has_too_few_of_its_length_is_held_against_all_of_its_model() -> None:
    policy: HedgePolicy[str] = HedgePolicy()
    long = (ACCOUNT, "m", False, 12)
    assert policy.departed("hang", long, None, 0.0).late == math.inf
    known(policy, count=20)
    assert policy.late(2.0)[0] == ["hang"]
    known(policy, count=20, took=30.0, kind=long)
    assert policy.departed("long", long, None, 100.0).late == 60.0
    assert policy.departed("short", KIND, None, 100.0).late == 2.0


def test_one_of_fifty_is_sent_again_and_the_first_is_lent() -> None:
    policy: HedgePolicy[int] = HedgePolicy()
    known(policy, count=20)
    for number in range(100):
        line = policy.departed(number, KIND, None, 1.0)
    late, again = policy.late(10.0)
    assert (late, again) == ([0, 1], 1.0), "the lent one, and one for the second fifty"
    line.budget.give_back()
    assert policy.late(11.0)[0] == [2], "what was not sent is given back"
    known(policy, count=5000)
    assert len(policy.late(20.0)[0]) == 10, "after a long time without any not all are sent twice"
    assert policy.late(21.0)[0] == []


def test_accounts_have_each_their_own_budget_and_the_idle_ones_are_forgotten() -> None:
    policy: HedgePolicy[str] = HedgePolicy()
    known(policy, count=30, kind=("one", "m", False, 1))
    known(policy, count=30, kind=("two", "m", False, 1))
    for name in ("one", "two"):
        policy.departed(name, (name, "m", False, 1), None, 0.0)
    assert sorted(policy.late(9.0)[0]) == ["one", "two"]
    policy.departed("stays", ("kept", "m", False, 1), 5.0, 0.0)
    for number in range(MOST_KINDS):
        assert not policy.departed("x", (number, "m", False, 1), None, 0.0).landed("x", 1.0, None)
    assert policy.departed("one", ("one", "m", False, 1), None, 9.0).late == math.inf, "it is forgotten"
    assert policy.late(10.0)[0] == ["stays"], "it was on its way"
