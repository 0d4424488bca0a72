"""Providers of every kind, against a real server where they need one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.redact import Redactor
from flowllm.core.request import ChatRequest
from flowllm.providers.base import Provider
from flowllm.providers.openai.provider import ClientPool, OpenAIProvider
from flowllm.providers.openai.request import OpenAIConfig
from flowllm.providers.simulated.provider import SimulatedConfig, SimulatedProvider
from tests.support.server import Server, running_server

CANARY = "sk-canary-8c1f0d"


@pytest.fixture(scope="session")
def one_server() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture
def server(one_server: Server) -> Server:
    """The session's server, as new."""
    one_server.reset()
    return one_server


@pytest.fixture
async def pool() -> AsyncIterator[ClientPool]:
    pool = ClientPool()
    await pool.module()  # the second that the import takes belongs to no test's timing
    yield pool
    await pool.close()


MakeOpenAI: TypeAlias = Callable[..., OpenAIProvider]


@pytest.fixture
def openai(server: Server, pool: ClientPool) -> MakeOpenAI:
    """Makes a provider for the test server; its configuration as keywords."""

    def make(*, redactor: Redactor | None = None, **settings: Any) -> OpenAIProvider:
        config = OpenAIConfig(**{"name": "test", "base_url": server.url, "api_key": CANARY, **settings})
        return OpenAIProvider(config, pool=pool, redactor=redactor or Redactor(), clock=SystemClock())

    return make


def ask(prompt: str = "hello", **more: Any) -> ChatRequest:
    """A request with one user message; anything but `output` is a parameter."""
    output = more.pop("output", None)
    return ChatRequest(model="test-model", messages=({"role": "user", "content": prompt},), params=more, output=output)


@dataclass(frozen=True, kw_only=True)
class Contracted:
    """A provider under the contract, and one like it that takes `seconds` to answer."""

    provider: Provider
    slow: Callable[[float], Provider]


@pytest.fixture(params=["chat", "responses", "simulated"])
def contracted(request: pytest.FixtureRequest, server: Server, openai: MakeOpenAI) -> Contracted:
    if request.param == "simulated":
        return Contracted(
            provider=SimulatedProvider(SimulatedConfig(name="test"), clock=SystemClock()),
            slow=lambda seconds: SimulatedProvider(SimulatedConfig(name="test", latency=seconds), clock=SystemClock()),
        )

    def slow(seconds: float) -> Provider:
        server.latency = seconds
        return openai(api=request.param)

    return Contracted(provider=openai(api=request.param), slow=slow)
