"""Requests whose prompts begin the same, sent by the real client to a server that keeps the beginnings of prompts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from flowllm import FlowLLM
from flowllm.app.result import RunResult
from flowllm.core.types import RunStatus
from tests.support.prompt_cache import Prefill, PromptCache, sent_text
from tests.support.replies import Reply
from tests.support.server import Server, running_server

pytestmark = pytest.mark.anyio

DOCUMENTS, QUESTIONS = 3, 4
FOLLOWERS = DOCUMENTS * (QUESTIONS - 1)
FLOW = """
providers: {{there: {{type: openai, base_url: "{url}", limits: {{max_concurrent: 6, prefix_cache: {mode}}}}}}}
defaults: {{provider: there, model: gpt-4o-mini}}
steps:
  a:
    foreach: {{matrix: {{doc: "{{{{ range({documents}) | list }}}}", question: "{{{{ range({questions}) | list }}}}"}}}}
    prompt: "{{{{ ('{salt} %04d' % item.doc) * 1000 }}}} Question {{{{ item.question }}}}?"
"""


class Caching:
    """Answers as one that keeps what it has read from the moment in which it is told to answer."""

    def __init__(self) -> None:
        self.cache = PromptCache()
        self.read: list[Prefill] = []
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, body: dict[str, Any], n: int) -> Reply:
        prefill = self.cache.begin(sent_text(body))
        self.read.append(prefill)
        self.bodies.append(body)
        return Reply(text="Yes.", usage=prefill.usage(2))

    @property
    def cold(self) -> int:
        return sum(not prefill.cached for prefill in self.read)


async def ask(app: FlowLLM, server: Server, script: Caching, folder: Path, *, mode: str, salt: str) -> RunResult:
    """The first answers come once all others are held."""
    path = folder / f"{salt}.yaml"
    path.write_text(FLOW.format(url=server.url, mode=mode, salt=salt, documents=DOCUMENTS, questions=QUESTIONS))
    server.hold, before = 10**6, len(script.read)
    running = asyncio.ensure_future(app.run(path))
    while all(gauge.waits.get("prefix", {}).get("normal") != FOLLOWERS for gauge in app._limiter.gauges().values()) or (
        len(script.read) < before + DOCUMENTS
    ):
        assert not running.done(), await running
        await asyncio.sleep(0.01)
    for prefill in script.read[before:]:
        script.cache.end(prefill)
    server.hold = 0
    return await running


async def test_documents_are_read_once_it_is_told_what_that_saved_and_later_runs_know(tmp_path: Path) -> None:
    script = Caching()
    with running_server(script) as server:
        async with FlowLLM(database=tmp_path / "a.db", environ={}) as app:
            result = await ask(app, server, script, tmp_path, mode="on", salt="first")
        async with FlowLLM(database=tmp_path / "a.db", environ={}) as app:  # which has seen none of it
            later = await ask(app, server, script, tmp_path, mode="auto", salt="later")
    assert (result.status, later.status) == (RunStatus.SUCCEEDED, RunStatus.SUCCEEDED)
    assert (len(script.read), script.cold) == (2 * DOCUMENTS * QUESTIONS, 2 * DOCUMENTS)
    assert all("prompt_cache_key" not in body for body in script.bodies)
    told, read = result.stats["prompt_cache"], script.read[: DOCUMENTS * QUESTIONS]
    assert told["cached_input_tokens"] == sum(prefill.cached for prefill in read)
    assert told["input_tokens"] == sum(prefill.tokens for prefill in read)
    assert told["saved_usd"] == pytest.approx(told["cached_input_tokens"] * 0.075 / 1e6)
