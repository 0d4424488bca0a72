"""Why calls wait, and for how long: in the node's row, and in events."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from flowllm.calls.budget import RunBudget
from flowllm.core.errors import RateLimited, ServerFailed
from flowllm.core.events import NodeWaiting
from flowllm.core.types import Budget, RetryPolicy, Usage
from tests.support.bench import Bench, TextsBench
from tests.support.calls import FakeProvider, caller, make_call
from tests.support.owners import Stranger
from tests.support.stores import InlineStore
from tests.support.virtual import run_virtual

QUICK = RetryPolicy(max_attempts=3, initial_delay=2, jitter=False)
FULL = Usage(output_tokens=60)


class Noted(InlineStore):
    """Keeps the waits of the rows that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: dict[str, dict[str, float]] = {}

    async def commit(self, **how: object) -> None:
        self.waits |= {write.node.node_id: dict(write.node.waits) for write in how.get("nodes", ())}
        await super().commit(**how)


class Slow(Noted):
    """One on a slow disk."""

    async def memo(self, key: str) -> object:
        await asyncio.sleep(0.25)
        return await super().memo(key)

    async def begin_attempt(self, *args: object, **how: object) -> object:
        await asyncio.sleep(0.5)
        return await super().begin_attempt(*args, **how)


def bench(store: Noted | None = None, **limits: object) -> Bench:
    made = Bench(**limits)
    made.store = made.line.store = made.line.others.store = made.memo._store = store or Noted()
    return made


def waits(made: Bench, node: str = "a") -> dict[str, float]:
    return made.store.waits[node]


def told(made: Bench) -> list[tuple[str, str]]:
    return [(event.node_id, event.reason.value) for event in made.log if isinstance(event, NodeWaiting)]


def test_what_waits_for_nothing_has_no_waits_and_tells_none() -> None:
    async def main() -> None:
        made = bench()
        await made.ask(FakeProvider())
        assert (waits(made), told(made)) == ({}, [])

    run_virtual(main())


def test_reads_of_the_cache_and_commits_are_waits_that_are_counted_and_not_told() -> None:
    async def main() -> None:
        made = bench(Slow())
        await made.ask(FakeProvider())
        await made.ask(FakeProvider(), "cached")
        assert waits(made) == {"cache_lookup": 0.25, "commit": 0.5}
        assert waits(made, "cached") == {"cache_lookup": 0.25}
        assert told(made) == []

    run_virtual(main())


def test_whoever_joins_an_equal_call_waits_for_it_and_hears_who_leads_and_in_which_run() -> None:
    async def main() -> None:
        made = bench(max_concurrent=1)
        await made.open("r1", "r2")
        busy = asyncio.create_task(made.ask(FakeProvider(), "busy", key="b" * 64))
        await asyncio.sleep(0.5)
        lead = asyncio.create_task(made.ask(FakeProvider(), "lead"))
        await asyncio.sleep(0.25)
        other = caller(node="other", run="r2", log=made.log)
        joined, late = (made.calls.answer(make_call(FakeProvider(), other, **how)) for how in ({}, {"ttl": 60.0}))
        await asyncio.gather(busy, lead, joined, late)
        assert waits(made, "lead") == {"slot": 0.5}
        assert other.waits == {"equal_call": 1.25 + 1.25}
        assert told(made) == [("lead", "slot"), ("other", "equal_call"), ("other", "equal_call")]
        events = [event for event in made.log if isinstance(event, NodeWaiting)]
        assert [(event.run_id, event.leader_run, event.leader_node) for event in events[1:]] == [
            ("r2", "r1", "lead")
        ] * 2

    run_virtual(main())


def test_backoff_is_divided_from_what_the_server_asked_for() -> None:
    async def main() -> None:
        made = bench(adaptive=False)
        provider = FakeProvider(ServerFailed("503"), RateLimited("slow", retry_after=30.0))
        await made.ask(provider, retry=QUICK)
        found = waits(made)
        assert found == {"backoff": pytest.approx(4.0), "server_pause": pytest.approx(30.0)}
        assert told(made) == [("a", "backoff"), ("a", "server_pause")]

    run_virtual(main())


def test_an_equal_request_of_another_process_is_waited_for_as_one_of_this_process_is() -> None:
    async def main() -> None:
        store = Slow()
        made, other = bench(store), Stranger(store.path)
        other.sends("k")
        asking = asyncio.create_task(made.ask(FakeProvider(), key="k"))
        await asyncio.sleep(4.0)
        other.ends()
        await asking
        found = waits(made)
        assert found["equal_call"] == pytest.approx(4.0 - 0.75, abs=0.5)
        assert (found["commit"], found["cache_lookup"]) == (1.0, 0.5)
        assert told(made) == [("a", "equal_call")]

    run_virtual(main())


def test_a_budget_that_others_have_reserved_is_waited_for() -> None:
    async def main() -> None:
        made = bench()
        await made.ask(FakeProvider(), "first", key="f" * 64)
        budget = RunBudget(Budget(tokens=100))
        first, second = (replace(caller(node=name, log=made.log), budget=budget) for name in "ab")
        calls = [
            made.calls.answer(make_call(FakeProvider(), who, key=who.node_id * 64, reckon=lambda: FULL))
            for who in (first, second)
        ]
        await asyncio.gather(*calls)
        assert (first.waits, second.waits) == ({}, {"budget": 1.0})
        assert told(made) == [("b", "budget")]

    run_virtual(main())


def test_all_nodes_of_a_batch_wait_and_one_node_only_once() -> None:
    async def main() -> None:
        made = await TextsBench("r1", max_concurrent=1).open()
        busy = made.start("busy", model="other", size=1)
        await asyncio.sleep(0.5)
        nodes = [caller(node=name, log=made.log) for name in ("x", "many")]
        asked = [made.start(text, size=3, who=nodes[text != "x"]) for text in ("x", "p", "q")]
        await asyncio.gather(*busy, *(task for tasks in asked for task in tasks))
        assert [node.waits for node in nodes] == [{"slot": 0.5}, {"slot": 0.5}]
        assert told(made)[-2:] == [("x", "slot"), ("many", "slot")]

    run_virtual(main())


def test_texts_that_gather_wait_for_their_batch_each_node_once_and_until_it_goes() -> None:
    async def main() -> None:
        made = await TextsBench("r1").open()
        nodes = {name: caller(node=name, log=made.log) for name in ("x", "many", "last")}
        asked = made.start("one", size=4, wait=2.0, who=nodes["x"])
        await asyncio.sleep(0.5)
        asked += made.start("two", "three", size=4, wait=2.0, who=nodes["many"])
        await asyncio.sleep(0.25)
        asked += made.start("four", size=4, wait=2.0, who=nodes["last"])
        asked += made.start("five", wait=1.0)
        await asyncio.gather(*asked)
        assert made.sent == [("one", "two", "three", "four"), ("five",)]
        assert {name: node.waits for name, node in nodes.items()} == {
            "x": {"batch": 0.75},
            "many": {"batch": 0.25},
            "last": {},  # it makes the batch full
        }
        assert told(made) == [("x", "batch"), ("many", "batch"), ("five", "batch")]
        untils = [event.until - event.at for event in made.log if isinstance(event, NodeWaiting)]
        assert untils == pytest.approx([2.0, 1.5, 1.0])

    run_virtual(main())
