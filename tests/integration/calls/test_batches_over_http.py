"""Embeddings of single texts over real HTTP and a real database: few requests, few transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowllm.calls.base import Batching
from flowllm.calls.batch import Batches
from flowllm.calls.executor import CallExecutor
from flowllm.calls.response_cache import ResponseCache
from flowllm.calls.single_flight import InFlightCalls
from flowllm.core.clock import SystemClock
from flowllm.core.redact import Redactor
from flowllm.core.request import Answer, EmbedRequest
from flowllm.core.types import Limits, Usage, estimate_tokens
from flowllm.limits.limiter import Limiter
from flowllm.providers.openai.provider import ClientPool, OpenAIProvider
from flowllm.providers.openai.request import OpenAIConfig
from flowllm.providers.simulated.provider import unit_vector
from flowllm.storage.open import open_store
from tests.support.calls import caller, make_call
from tests.support.records import ME, run
from tests.support.replies import Reply, failed
from tests.support.server import Server, running_server

pytestmark = pytest.mark.anyio

TEXTS = [f"text number {number}" for number in range(1000)]


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server() as server:
        yield server


async def embed(texts: list[str], server: Server, folder: Path) -> list[Answer | BaseException]:
    """Ask for each text by itself, all at once, as a process that has just begun."""
    clock, pool = SystemClock(), ClientPool()
    store = await open_store(str(folder / "texts.db"), clock=clock)
    limiter = Limiter(clock)
    config = OpenAIConfig(name="test", base_url=server.url, api_key="sk-test")
    provider = OpenAIProvider(config, pool=pool, redactor=Redactor(), clock=clock)
    limiter.configure(provider.account, Limits(max_concurrent=4), holder="r")
    line = CallExecutor(limiter, store, clock)
    calls = InFlightCalls(ResponseCache(Batches(line, clock), store, clock), clock)
    name = f"r{len(server.requests)}"
    await store.create_run(run(name, owner=ME))
    # a wait of a minute: what is counted must not depend on how fast this machine is
    how = Batching(group="e", size=100, wait=60.0)
    try:
        return await asyncio.gather(
            *(
                calls.answer(
                    make_call(
                        provider,
                        caller(run=name, node=text),
                        request=EmbedRequest(model="e", texts=(text,)),
                        key=f"key of {text}",
                        expected=Usage(input_tokens=estimate_tokens(text)),
                        batch=how,
                    )
                )
                for text in texts
            ),
            return_exceptions=True,
        )
    finally:
        rows = {node.node_id: node.output for node in await store.nodes(name)}
        assert all(rows[text] == unit_vector(text, 8) for text in rows)
        await store.close()
        await pool.close()


async def test_a_thousand_texts_are_ten_requests_and_cached_ones_none(server: Server, tmp_path: Path) -> None:
    first = await embed(TEXTS, server, tmp_path)
    assert len(server.requests) == 10
    assert [answer.value for answer in first] == [unit_vector(text, 8) for text in TEXTS]
    again = await embed(TEXTS, server, tmp_path)
    assert len(server.requests) == 10
    assert all(answer.cached for answer in again)
    assert [answer.value for answer in again] == [answer.value for answer in first]


async def test_one_text_that_the_server_refuses_fails_alone(server: Server, tmp_path: Path) -> None:
    bad = TEXTS[42]
    server.script = lambda body, n: failed(400, "bad text") if bad in body["input"] else Reply()
    outcomes = await embed(TEXTS[:100], server, tmp_path)
    assert [text for text, one in zip(TEXTS, outcomes, strict=False) if isinstance(one, Exception)] == [bad]
    assert len(server.requests) <= 1 + 2 * 7
