"""What every store promises of what runs have spent and of what they have learned."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from flowllm.core.money import Spend
from flowllm.core.types import AttemptStatus, NodeStatus, RunId, RunStatus, Usage
from flowllm.storage.base import NodeWrite, RunRecord, Store
from flowllm.storage.monitoring import Learned
from tests.support.records import ME, USAGE, attempt_of_node, lease_of, node, run

pytestmark = pytest.mark.anyio


async def finish(store: Store, record: RunRecord, status: RunStatus = RunStatus.SUCCEEDED) -> None:
    await store.finish_run(lease_of(record), status=status, finished_at=1_700_000_009.0)


# how long requests took


async def test_how_long_a_model_took_is_known_of_all_runs_and_a_step_of_those_of_its_workflow(store: Store) -> None:
    for number, workflow in enumerate(("w", "w", "other")):
        record = replace(run(f"r{number}", owner=ME), workflow=workflow)
        lease = lease_of(await store.create_run(record))
        for place, (model, step, status) in enumerate(
            [
                ("m", "a", AttemptStatus.SUCCEEDED),
                ("m", "a", AttemptStatus.UNKNOWN),
                ("", "get[1]", AttemptStatus.SUCCEEDED),
                ("", "put[1]", AttemptStatus.SUCCEEDED),
            ]
        ):
            attempt = attempt_of_node(step, f"r{number}", number=place + 1, status=status)
            took = 10.0 * number + place
            attempt = replace(attempt, model=model, started_at=100.0, finished_at=100.0 + took)
            await store.commit(attempt=attempt, attempt_lease=lease)
    assert await store.latencies(replace(attempt, model="m")) == [0.0, 10.0, 20.0]
    assert await store.latencies(replace(attempt, model="n")) == []
    assert await store.latencies(replace(attempt, node_id="get[7]", run_id="r0")) == [2.0, 12.0]
    assert await store.latencies(replace(attempt, node_id="get[7]", run_id="r2")) == [22.0]


# what a run has spent


async def test_the_table_by_model_has_requests_failures_latencies_waits_and_what_the_cache_answered(
    store: Store,
) -> None:
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    limited = {"status": AttemptStatus.FAILED, "error": {"type": "RateLimited"}, "usage": Usage(), "cost_usd": None}
    cut = {"status": AttemptStatus.FAILED, "error": {"type": "Abandoned"}, "usage": Usage(), "cost_usd": None}
    unsent = cut | {"status": AttemptStatus.NOT_SENT}
    for number, change in enumerate([{}, {}, {}, limited, cut, {"model": "z"}, {"model": ""}, unsent], 1):
        attempt = replace(attempt_of_node("a", "r1", number=number), **change)
        await store.commit(attempt=replace(attempt, finished_at=attempt.started_at + number), attempt_lease=lease)
    nodes = [
        replace(node("a", "r1"), status=NodeStatus.FAILED, model="", waits={"rate": 2.5, "slot": 9.0, "tokens": 1.0}),
        replace(node("b", "r1"), model="m-2024-07-18", cached=True),
        replace(node("c", "r1"), model="elsewhere", cached=True),
        replace(node("d", "r1"), model="", cached=True),
    ]
    await store.commit(nodes=[NodeWrite(lease=lease, node=one) for one in nodes])
    elsewhere, m, z = await store.models(RunId("r1"))
    assert (m.model, m.provider, m.spend.requests, m.failed, m.rate_limited) == ("m", "simulated", 5, 1, 1)
    assert (m.p50_s, m.p99_s, m.throttled_s, m.cached, m.cached_usage) == (2.0, 3.0, 3.5, 1, USAGE)
    assert (m.spend.usage.output_tokens, m.spend.cost_usd) == (180, pytest.approx(0.0003))
    assert (z.spend.requests, z.p50_s, z.cached, elsewhere.cached, elsewhere.spend) == (1, 6.0, 0, 1, Spend())
    assert (await store.run(RunId("r1"))).totals.spend.requests == (await store.spend(RunId("r1"))).requests == 6


async def spend(store: Store, *changes: dict[str, object]) -> Spend:
    """The spend of a run with these attempts: each took 80 tokens for $0.5, of 100 and $2 set aside, but for
    what is changed of it."""
    lease = lease_of(await store.create_run(run("r1", owner=ME)))
    for number, change in enumerate(changes):
        usual = {"cost_usd": 0.5, "reserved_tokens": 100.0, "reserved_usd": 2.0}
        attempt = replace(attempt_of_node("a", "r1", number=number), **(usual | change))
        await store.commit(attempt=attempt, attempt_lease=lease)
    found = await store.spend(RunId("r1"))
    by_model = await store.models(RunId("r1"))
    assert sum((one.spend for one in by_model), Spend()) == found
    return found


def taken(found: Spend) -> tuple[float, float | None]:
    """Tokens and dollars with what was set aside; None as soon as a price is unknown."""
    known = not found.unpriced and found.reserved_usd is not None
    return found.tokens, found.usd if known else None


NOTHING = {"usage": Usage(), "cost_usd": None}
IN_DOUBT = [AttemptStatus.SENT, AttemptStatus.UNKNOWN]


async def test_a_run_without_attempts_has_spent_nothing(store: Store) -> None:
    assert taken(await spend(store)) == (0.0, 0.0)
    assert taken(await store.spend(RunId("unknown"))) == (0.0, 0.0)


async def test_answers_and_errors_count_with_what_they_took(store: Store) -> None:
    failed = {"status": AttemptStatus.FAILED}
    found = await spend(store, {}, failed, failed | {"usage": Usage(), "cost_usd": 0.25})
    assert taken(found) == (160.0, 1.25)


async def test_tokens_that_are_part_of_others_are_not_counted_twice(store: Store) -> None:
    usage = Usage(input_tokens=7, output_tokens=9, cached_input_tokens=5, reasoning_tokens=8)
    assert taken(await spend(store, {"usage": usage})) == (16.0, 0.5)


@pytest.mark.parametrize("status", IN_DOUBT)
async def test_an_attempt_in_doubt_counts_with_what_was_set_aside(store: Store, status: AttemptStatus) -> None:
    in_doubt = NOTHING | {"status": status}
    assert taken(await spend(store, {}, in_doubt, in_doubt | {"cost_usd": 0.0})) == (280.0, 4.5)


@pytest.mark.parametrize("status", IN_DOUBT)
async def test_an_attempt_in_doubt_that_reports_usage_counts_with_that(store: Store, status: AttemptStatus) -> None:
    assert taken(await spend(store, {"status": status})) == (80.0, 0.5)


async def test_an_error_without_tokens_and_cost_took_nothing(store: Store) -> None:
    assert taken(await spend(store, NOTHING | {"status": AttemptStatus.FAILED})) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("unknown", "tokens"),
    [
        ({"cost_usd": None}, 80.0),
        (NOTHING, 0.0),
        ({"cost_usd": None, "status": AttemptStatus.FAILED}, 80.0),
        ({"cost_usd": None, "status": AttemptStatus.UNKNOWN}, 80.0),
        (NOTHING | {"status": AttemptStatus.SENT, "reserved_usd": None}, 100.0),
        ({"usage": Usage(), "status": AttemptStatus.UNKNOWN, "reserved_usd": None}, 100.0),
    ],
)
async def test_one_unknown_price_makes_the_sum_unknown(store: Store, unknown: dict[str, object], tokens: float) -> None:
    assert taken(await spend(store, {}, unknown)) == (80.0 + tokens, None)


async def test_a_price_that_nothing_depends_on_may_be_unknown(store: Store) -> None:
    in_doubt = NOTHING | {"status": AttemptStatus.UNKNOWN}
    assert taken(await spend(store, {"reserved_usd": None}, in_doubt)) == (180.0, 2.5)


async def test_tokens_beyond_what_a_database_counts_in_whole_numbers(store: Store) -> None:
    large = {"usage": Usage(input_tokens=2**62, output_tokens=2**62)}
    assert taken(await spend(store, large, large, {"usage": Usage(input_tokens=2**70)})) == (float(2**64 + 2**70), 1.5)


async def test_a_spend_is_that_of_one_run_over_all_its_run_attempts(store: Store) -> None:
    made = [await store.create_run(run(name, owner=ME)) for name in ("r1", "r2")]
    await store.commit(attempt=attempt_of_node("a", "r2"), attempt_lease=lease_of(made[1]))
    sent = attempt_of_node("a", "r1", status=AttemptStatus.SENT)
    await store.begin_attempt(lease_of(made[0]), sent)
    assert taken(await store.spend(RunId("r1"))) == (100.0, 0.0005)
    await finish(store, made[0], RunStatus.INTERRUPTED)
    claimed = await store.claim_run(RunId("r1"), ME)
    again = attempt_of_node("a", "r1", number=2)
    await store.commit(attempt=again, attempt_lease=lease_of(claimed))
    found = await store.spend(RunId("r1"))
    assert found.tokens == 100.0 + USAGE.input_tokens + USAGE.output_tokens
    assert found.usd == pytest.approx(0.0006)
    assert taken(await store.spend(RunId("r2"))) == (80.0, 0.0001)


# what was learned


def _learned(account: str, value: float, at: float, name: str = "requests_per_second") -> Learned:
    return Learned(account=account, name=name, value=value, at=at)


async def test_what_was_learned_is_kept_by_name_and_what_is_later_replaces_it(store: Store) -> None:
    assert await store.learned(since=0.0) == []
    await store.learn([])
    await store.learn([_learned("openai 12ab", 7.5, 100.0), _learned("b\ud800\0'", 0, 101.0, "\0")])
    later = [_learned("openai 12ab", 3, 102.0), _learned("openai 12ab", 9.0, 102.0, "max_concurrent")]
    await store.learn(later)
    assert await store.learned(since=0.0) == [_learned("b\ud800\0'", 0, 101.0, "\0"), *reversed(later)]


async def test_the_last_one_holds_also_when_the_clock_was_set_back(store: Store) -> None:
    for value, at in ((9.0, 500.0), (2.0, 400.0), (2.0, 400.0)):
        await store.learn([_learned("a", value, at)])
    assert await store.learned(since=400.0) == [_learned("a", 2.0, 400.0)]
    assert await store.learned(since=401.0) == []


async def test_what_was_learned_before_a_time_is_left_out(store: Store) -> None:
    found = [_learned(f"a{at:g}", at, at) for at in (10.0, 20.0, 30.0)]
    await store.learn(found)
    assert await store.learned(since=20.0) == found[1:]
    assert await store.learned(since=math.inf) == []
    assert await store.learned(since=-math.inf) == found


@pytest.mark.parametrize(("value", "at"), [(-1.0, 2.0), (math.nan, 2.0), (math.inf, 2.0), (2.0, math.nan)])
async def test_what_is_no_number_is_refused(store: Store, value: float, at: float) -> None:
    await store.learn([_learned("a", 1.0, 1.0)])
    with pytest.raises(ValueError, match="number from 0"):
        await store.learn([_learned("b", 1.0, 1.0), _learned("a", value, at)])
    assert await store.learned(since=0.0) == [_learned("a", 1.0, 1.0)]


async def test_what_was_learned_outlives_the_runs_and_the_memo(store: Store) -> None:
    await store.learn([_learned("a", 1.0, 1.0)])
    await finish(store, await store.create_run(run("r1", owner=ME)))
    await store.delete_runs([RunId("r1")])
    await store.clear_memo()
    assert await store.learned(since=0.0) == [_learned("a", 1.0, 1.0)]
