"""Leaders and followers in the queue: in virtual time, through the limiter as calls use it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowllm.core.errors import ProviderDown, ServerFailed
from flowllm.core.prefix import PromptPrefix
from flowllm.core.request import ChatRequest
from flowllm.core.types import Limits, Priority, Trait, WaitReason
from flowllm.limits.follower import Follower
from flowllm.limits.limiter import Limiter
from flowllm.limits.prefix_cache import MOST_READY, PATIENCE, UNSIZED, Lineup
from tests.support.virtual import LoopClock, run_virtual

SECONDS = 2.0


def now() -> float:
    return asyncio.get_running_loop().time()


def made(mode: str = "on", *, slots: int = 4, **limits: object) -> Limiter:
    limiter = Limiter(LoopClock())
    limiter.configure("a", Limits(max_concurrent=slots, prefix_cache=mode, **limits), holder="run")
    return limiter


def lineup(document: int, question: str = "?", *, tokens: int = 2000) -> Lineup:
    text = f"{document:04}" * tokens + question
    return Lineup(PromptPrefix(ChatRequest(model="m", messages=({"role": "user", "content": text},))))


@dataclass
class Server:
    """What it kept of which documents, and who was under way."""

    kept: set[int] = field(default_factory=set)
    cold: list[int] = field(default_factory=list)
    order: list[tuple[int, str]] = field(default_factory=list)
    in_flight: int = 0
    peak: int = 0
    waited: list[float] = field(default_factory=list)
    keys: dict[int, set[str]] = field(default_factory=dict)
    """Under which the requests for each document were sent."""


class Listener:
    def __init__(self) -> None:
        self.seconds = 0.0

    def waiting(self, reason: WaitReason, until: float | None) -> None:
        pass

    def waited(self, reason: WaitReason, seconds: float) -> None:
        self.seconds += seconds if reason is WaitReason.PREFIX else 0.0


async def send(
    limiter: Limiter,
    server: Server,
    document: int,
    question: str = "?",
    *,
    seconds: float = SECONDS,
    fails: bool = False,
    caches: bool = True,
    **how: object,
) -> None:
    """One call: asks for admission until it has a permit, as the executor does."""
    mine, listener = lineup(document, question), Listener()
    while isinstance(permit := await limiter.acquire("a", model="m", lineup=mine, listener=listener, **how), Follower):
        before = server.in_flight
        await permit.released(LoopClock())
        assert before <= server.peak
    server.in_flight += 1
    server.peak = max(server.peak, server.in_flight)
    server.waited.append(listener.seconds)
    try:
        await permit.depart()
        server.order.append((document, question))
        server.keys.setdefault(document, set()).add(permit.cache_key)
        cached = 1920 if caches and document in server.kept else 0
        if not cached:
            server.cold.append(document)
        await asyncio.sleep(seconds if not cached else seconds / 4)
        if fails:
            permit.failed(ServerFailed("500", status=500))
        else:
            server.kept.add(document)
            permit.answered({}, used=0.0, cached=cached)
            await asyncio.sleep(0.001)  # the answer is put on record
    finally:
        server.in_flight -= 1
        permit.release()


def play(*calls: tuple[int, str], **how: object) -> Server:
    async def main() -> Server:
        limiter, server = made(**how), Server()
        await asyncio.gather(*(send(limiter, server, *call) for call in calls))
        return server

    return run_virtual(main())


def test_the_first_leads_others_go_meanwhile_and_followers_go_before_new_leaders() -> None:
    calls = [(document, f"{question}") for document in range(4) for question in range(3)]
    server = play(*calls, slots=2)
    assert server.cold == [0, 1, 2, 3]
    assert server.order[:2] == [(0, "0"), (1, "0")]
    assert server.order[2:6] == [(0, "1"), (0, "2"), (1, "1"), (1, "2")]
    assert server.peak == 2
    keys = [key for sent in server.keys.values() for key in sent]
    assert (len(keys), len(set(keys)), "" in keys) == (4, 4, False)


def test_one_that_comes_later_follows_too_and_what_is_short_or_another_model_never() -> None:
    async def main() -> tuple[float, list[float]]:
        limiter, server = made(), Server()
        first = asyncio.create_task(send(limiter, server, 1))
        await asyncio.sleep(1.0)
        late = asyncio.create_task(send(limiter, server, 1, "later"))
        short = Lineup(PromptPrefix(ChatRequest(model="m", messages=({"role": "user", "content": "1"},))))
        (await limiter.acquire("a", model="m", lineup=short)).release()
        (await limiter.acquire("a", model="other", lineup=lineup(1))).release()
        assert now() == 1.0
        await asyncio.gather(first, late)
        return round(now(), 1), server.waited

    assert run_virtual(main()) == (2.5, [0.0, 1.0])


@pytest.mark.parametrize("how", ["fails", "cancelled", "hangs"])
def test_when_the_leader_is_lost_the_next_one_leads(how: str) -> None:
    async def main() -> Server:
        limiter, server = made(), Server()
        await send(limiter, server, 9)  # what is usual is known
        first = asyncio.create_task(
            send(limiter, server, 1, seconds=500.0 if how == "hangs" else 1.0, fails=how == "fails")
        )
        await asyncio.sleep(0)
        others = [asyncio.create_task(send(limiter, server, 1, str(n))) for n in range(3)]
        await asyncio.sleep(0.5)
        assert len(server.order) == 2
        if how == "cancelled":
            first.cancel()
        await asyncio.gather(*others)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        return server

    server = run_virtual(main())
    assert server.order[2] == (1, "0")
    assert server.cold == ([9, 1, 1] if how != "hangs" else [9, 1, 1, 1, 1])  # whose patience ends, goes
    assert max(server.waited) <= PATIENCE * SECONDS


def test_an_answer_to_one_that_waited_no_longer_releases_those_that_do() -> None:
    async def main() -> tuple[Server, float]:
        limiter, server = made(), Server()
        await send(limiter, server, 9)
        began = now()
        calls = [
            send(limiter, server, 1, "fails", seconds=3.0, fails=True),
            send(limiter, server, 1, "slow", seconds=50.0),
        ]
        calls.append(send(limiter, server, 1, "impatient"))
        tasks = [asyncio.create_task(call) for call in calls]
        await asyncio.sleep(
            3.5
        )  # the first has failed, the second leads, the third waits until it has waited 4 s in all
        await send(limiter, server, 1, "late")
        ended = now() - began
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return server, ended

    server, ended = run_virtual(main())
    assert (server.cold, server.order[-1]) == ([9, 1, 1, 1], (1, "late"))
    assert ended == pytest.approx(PATIENCE * SECONDS + SECONDS + SECONDS / 4, abs=0.1)


def test_an_answer_before_a_follower_has_begun_to_wait_is_heard() -> None:
    async def main() -> None:
        limiter = made()
        slow, leader, follower = [lineup(1, question) for question in ("slow", "leads", "follows")]
        late = await limiter.acquire("a", model="m", lineup=slow)
        await late.depart()
        await asyncio.sleep(70)  # longer than anybody waits for it
        await limiter.acquire("a", model="m", lineup=leader)
        passed_over = await limiter.acquire("a", model="m", lineup=follower)
        late.answered({}, used=0.0, cached=0)
        assert isinstance(passed_over, Follower)
        await passed_over.released(LoopClock())
        assert now() == 70

    run_virtual(main())


def test_a_follower_that_is_cancelled_leaves_and_one_whose_provider_is_given_up_hears_of_it() -> None:
    async def main() -> None:
        limiter, server = made(), Server()
        first = asyncio.create_task(send(limiter, server, 1))
        await asyncio.sleep(0)
        gone, told = (asyncio.create_task(send(limiter, server, 1, str(n))) for n in range(2))
        await asyncio.sleep(0.1)
        assert limiter.gauges()["a"].waits == {"prefix": {"normal": 2}}
        gone.cancel()
        limiter.account("a").give_up(ProviderDown("it is down"))
        with pytest.raises(ProviderDown):
            await told
        await first
        assert (limiter.gauges()["a"].waiting, limiter.gauges()["a"].in_flight) == (0, 0)

    run_virtual(main())


def test_off_holds_nobody_and_auto_tries_where_many_wait_and_then_knows() -> None:
    async def main(mode: str, *, caches: bool, slots: int = 4, calls: int = 40) -> tuple[int, dict]:
        limiter, server = made(mode, slots=slots), Server()
        await asyncio.gather(*(send(limiter, server, n // 8, str(n), caches=caches) for n in range(calls)))
        return sum(waited > 0 for waited in server.waited), limiter.learned("a")["m"]

    assert run_virtual(main("off", caches=True)) == (0, {Trait.CACHES_PREFIXES: 1.0})
    assert run_virtual(main("auto", caches=True, calls=3)) == (0, {})
    held, learned = run_virtual(main("auto", caches=True))
    assert (held > 5, learned) == (True, {Trait.CACHES_PREFIXES: 1.0})
    held, learned = run_virtual(main("auto", caches=False))
    assert (held <= 3, learned) == (True, {Trait.CACHES_PREFIXES: 0.0})


def test_the_longer_the_prompts_are_the_fewer_are_made_ready() -> None:
    async def main() -> list[int]:
        limiter, found = made(), []
        found.append(limiter.ahead("a"))
        for tokens in (1200, 100_000):
            (await limiter.acquire("a", model="m", lineup=lineup(1, tokens=tokens))).release()
            found.append(limiter.ahead("a"))
        return [*found, made("off").ahead("a"), made("auto").ahead("a")]

    unknown, short, long, off, auto = run_virtual(main())
    assert (unknown, off, auto) == (UNSIZED, 0, 0)
    assert short > 10_000
    assert long == pytest.approx(MOST_READY / 400_000, rel=0.01)


def test_what_an_earlier_run_found_out_holds_until_answers_say_otherwise() -> None:
    async def main() -> tuple[list[int], dict]:
        limiter, server = made("auto"), Server()
        limiter.remember("a", "m", {Trait.CACHES_PREFIXES: 1.0})
        await asyncio.gather(*(send(limiter, server, 1, str(n)) for n in range(8)))
        cold = list(server.cold)
        await asyncio.gather(*(send(limiter, server, 1, f"again {n}", caches=False) for n in range(20)))
        return cold, limiter.learned("a")["m"]

    assert run_virtual(main()) == ([1], {Trait.CACHES_PREFIXES: 0.0})


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_happens_all_go_soon_and_no_limit_is_passed(seed: int) -> None:
    draw = random.Random(seed)
    documents, slots, calm = draw.randint(1, 6), draw.randint(1, 5), draw.random() < 0.5

    async def one(limiter: Limiter, server: Server) -> None:
        await asyncio.sleep(draw.random() * 10)
        call = send(
            limiter,
            server,
            draw.randrange(documents),
            str(draw.random()),
            seconds=SECONDS if calm else SECONDS * draw.random(),
            fails=not calm and draw.random() < 0.2,
            priority=draw.choice(list(Priority)),
            tenant=draw.choice("xy"),
        )
        if not calm and draw.random() < 0.2:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(call, draw.random() * 6)
        else:
            await call

    async def main() -> None:
        limiter, server = made(slots=slots, give_up_after=1e9), Server()
        await send(limiter, server, 99)
        await asyncio.gather(*(one(limiter, server) for _ in range(40)))
        gauge = limiter.gauges()["a"]
        assert (gauge.in_flight, gauge.waiting, gauge.waits) == (0, 0, {})
        assert server.peak <= slots
        assert max(server.waited) <= PATIENCE * SECONDS + 1e-6
        if calm:
            assert sorted(server.cold) == sorted(set(server.cold))

    run_virtual(main())
