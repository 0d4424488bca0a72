"""The test server itself, as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowllm.core.errors import ProviderError, RequestRejected
from tests.integration.providers.conftest import MakeOpenAI, ask
from tests.support.server import Server

pytestmark = pytest.mark.anyio


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "requests.jsonl"


@pytest.fixture
def process(log: Path) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.support.server", "--latency", "0.01", "--log", str(log)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert started.stdout is not None
        yield json.loads(started.stdout.readline())
    finally:
        started.terminate()
        started.wait(10)


async def test_prompts_say_what_happens_to_them(process: dict[str, Any], log: Path, openai: MakeOpenAI) -> None:
    provider = openai(base_url=process["url"])
    with pytest.raises(RequestRejected):
        await provider.complete(ask("[status=400]"), timeout=20)
    assert (await provider.complete(ask("[text=just this]"), timeout=20)).text == "just this"
    assert json.loads((await provider.complete(ask('[json={"a": [1]}] x]'), timeout=20)).text) == {"a": [1]}
    for attempt in range(3):
        try:
            assert (await provider.complete(ask("[fault=reset] [times=2]"), timeout=20)).text
        except ProviderError:
            assert attempt < 2
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["event"] for line in lines].count("arrived") == 6
    assert lines[0]["prompt"] == "[status=400]"


async def test_a_limit_that_is_switched_on_while_it_runs(server: Server, openai: MakeOpenAI) -> None:
    provider = openai()
    server.limit(60, burst=1)
    await provider.complete(ask(), timeout=20)
    with pytest.raises(ProviderError, match="slow down"):
        await provider.complete(ask(), timeout=20)
    server.limit(None)
    await provider.complete(ask(), timeout=20)
    assert [seen.status for seen in server.requests] == [200, 429, 200]
