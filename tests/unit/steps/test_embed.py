from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

import pytest

from flowllm.calls.batch import Batches
from flowllm.calls.executor import CallExecutor
from flowllm.calls.response_cache import ResponseCache
from flowllm.calls.single_flight import InFlightCalls
from flowllm.core.errors import RequestRejected, TemplateFailed, UnknownModel
from flowllm.core.events import FallbackTaken
from flowllm.core.redact import Redactor
from flowllm.core.request import EmbedRequest
from flowllm.core.types import Json, Limits, RunStatus, StepId, estimate_tokens
from flowllm.language.workflow import Step, Target
from flowllm.limits.limiter import Limiter
from flowllm.providers.base import Account
from flowllm.steps.base import Bound, NodeContext
from flowllm.steps.embed.runner import EmbedRunner
from flowllm.storage.base import NodeRecord, Owner, RunRecord
from tests.support.calls import FakeProvider, caller
from tests.support.stores import InlineStore
from tests.support.virtual import LoopClock, run_virtual
from tests.support.workflows import workflow


def step(options: str = "embed: '{{ inputs.x }}'\nmodel: e") -> Step:
    lines = "".join(f"    {line}\n" for line in options.strip().splitlines())
    text = f"inputs: {{x: {{type: array, default: []}}}}\nsteps:\n  a:\n{lines}"
    return workflow(text).steps[StepId("a")]


class Stage:
    """Carries out embed steps over a memory store and a fake provider; make it on the loop."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.store = InlineStore()
        self.limiter = Limiter(self.clock)
        self.provider = FakeProvider()
        self.asked_for: list[str] = []
        self.events: list = []
        self.missed: list[str] = []
        self.limiter.configure(self.provider.account, Limits(), holder="r1")
        line = CallExecutor(self.limiter, self.store, self.clock, draw=lambda: 0.0)
        calls = InFlightCalls(ResponseCache(Batches(line, self.clock), self.store, self.clock), self.clock)
        self.kind = EmbedRunner(self._find, calls)
        self._order = itertools.count(1)

    def _find(self, name: str) -> FakeProvider:
        self.asked_for.append(name)
        return self.provider

    def bind(self, given: Json, options: str | None = None) -> Bound:
        return self.kind.bind(step() if options is None else step(options), {"inputs": {"x": given}})

    async def run(self, given: Json, options: str | None = None, *, node: str = "a") -> NodeRecord:
        if not self.store.runs_on_record:
            await self.store.create_run(
                RunRecord(
                    run_id="r1",
                    workflow="w",
                    path="",
                    status=RunStatus.RUNNING,
                    started_at=0,
                    owner=Owner(pid=1, host="h", since=0),
                )
            )
        context = NodeContext(
            caller=caller(node=node, log=self.events),
            clock=self.clock,
            store=self.store,
            started_at=self.clock.now(),
            next_seq=lambda: next(self._order),
            ride=lambda _: None,
            redactor=Redactor(),
            missed=lambda: self.missed.append(node),
        )
        record = await self.kind.run(self.bind(given, options), context)
        waits = {reason: round(seconds, 6) for reason, seconds in record.waits.items()}
        assert await self.store.node("r1", node) == replace(record, waits=waits), "what is given is durable"
        return record

    @property
    def sent(self) -> list[tuple[str, ...]]:
        return [request.texts for _, request in self.provider.sent]


def test_a_text_gives_a_vector_and_a_list_gives_vectors() -> None:
    async def main() -> None:
        stage = Stage()
        assert (await stage.run("four")).output == [4.0, 1.0]
        node = await stage.run(["a", "bb", "a"], node="b")
        assert node.output == [[1.0, 2.0], [2.0, 2.0], [1.0, 2.0]]
        assert stage.sent == [("four",), ("a", "bb")]  # the same text twice is sent once
        assert (node.model, node.usage.input_tokens, node.attempts, node.cached) == ("e-2", 3, 1, False)
        assert node.call_s == 1.0  # the batch took a second, not each of its texts

    run_virtual(main())


def test_an_empty_list_needs_nobody() -> None:
    async def main() -> None:
        stage = Stage()
        node = await stage.run([])
        assert (node.output, node.cost_usd) == ([], 0.0)
        assert stage.sent == []

    run_virtual(main())


@pytest.mark.parametrize(("given", "told"), [("", "empty"), (["a", ""], "item 1"), ([1], "item 0"), (None, "text")])
def test_what_has_no_embedding_is_refused_before_anything_is_sent(given: Json, told: str) -> None:
    async def main() -> None:
        with pytest.raises(TemplateFailed, match=told):
            Stage().bind(given)

    run_virtual(main())


def test_each_text_is_known_by_itself() -> None:
    async def main() -> None:
        stage = Stage()
        await stage.run(["a", "b"])
        assert stage.missed == ["a"]  # once, not once a text
        node = await stage.run(["b", "c"], node="b")
        assert stage.sent == [("a", "b"), ("c",)]
        assert not node.cached
        assert (await stage.run("c", node="c")).cached
        assert stage.missed == ["a", "b"]

    run_virtual(main())


def test_many_steps_share_a_request_and_each_has_its_row() -> None:
    async def main() -> None:
        stage = Stage()
        nodes = await asyncio.gather(*(stage.run(f"text {n}", node=f"n{n}") for n in range(30)))
        assert len(stage.sent) == 1
        assert {node.output[1] for node in nodes} == {30.0}
        assert len(await stage.store.nodes("r1")) == 30

    run_virtual(main())


def test_all_that_is_sent_is_in_the_key_and_nothing_else() -> None:
    async def main() -> None:
        stage = Stage()
        plain = "embed: '{{ inputs.x }}'\nmodel: e"
        others = [f"{plain}\ndimensions: 4", f"{plain}\nparams: {{user: me}}", plain.replace(" e", " f")]
        keys = {stage.bind("x", options).key for options in (plain, *others)}
        keys |= {stage.bind(given).key for given in ("y", ["x"], ["x", "y"], ["y", "x"], [])}
        stage.provider.account = Account(type="fake", base_url="elsewhere:")
        keys.add(stage.bind("x").key)
        assert len(keys) == 10
        stage.provider.account = Account(type="fake", base_url="fake:", key_hash="abc")
        same = [f"{plain}\nbatch: {{size: 3, max_wait: 1s}}", f"{plain}\npriority: high", f"{plain}\ntimeout: 1s"]
        assert {stage.bind("x", options).key for options in same} == {stage.bind("x", plain).key} < keys

    run_virtual(main())


def test_dimensions_and_params_are_sent() -> None:
    async def main() -> None:
        stage = Stage()
        await stage.run("x", "embed: '{{ inputs.x }}'\nmodel: e\ndimensions: 4\nparams: {user: me}")
        assert stage.provider.sent[0][1].params == {"dimensions": 4, "user": "me"}

    run_virtual(main())


def test_a_bad_text_in_a_list_fails_its_step_and_what_was_paid_for_is_kept() -> None:
    async def main() -> None:
        stage = Stage()
        fine = stage.provider.embed

        async def picky(request: EmbedRequest, *, timeout: float) -> object:
            if "bad" in request.texts:
                stage.provider.sent.append((0.0, request))
                raise RequestRejected("no", status=400)
            return await fine(request, timeout=timeout)

        stage.provider.embed = picky
        with pytest.raises(RequestRejected):
            await stage.run(["a", "bad", "b", "c"])
        before = len(stage.sent)
        assert (await stage.run(["a", "b", "c"], node="b")).cached
        assert len(stage.sent) == before

    run_virtual(main())


def test_what_it_would_take_is_known_before() -> None:
    async def main() -> None:
        stage = Stage()
        work = stage.kind.work(stage.bind([f"text {n}" for n in range(250)]))
        assert (work.requests, len(work.memo_keys), work.model) == (3, 250, "e")
        assert work.input_tokens == sum(estimate_tokens(f"text {n}") for n in range(250))
        assert stage.kind.work(stage.bind([])).known

    run_virtual(main())


def test_a_fallback_gives_all_vectors_and_missed_is_told_once() -> None:
    async def main() -> None:
        stage = Stage()
        own = step()
        other = replace(own, body=replace(own.body, fallback=(Target(model=step("value: f").body.value),)))
        stage.provider.script = [UnknownModel("no e", status=404)]
        bound = stage.kind.bind(other, {"inputs": {"x": ["a", "b"]}})
        stage.bind = lambda *_: bound
        assert (await stage.run(None)).output == [[1.0, 2.0], [1.0, 2.0]]
        assert [request.model for _, request in stage.provider.sent] == ["e", "f"]
        assert [event.model for event in stage.events if isinstance(event, FallbackTaken)] == ["f"]
        assert stage.missed == ["a"]

    run_virtual(main())


def test_a_provider_goes_by_the_name_that_its_graph_gives_it() -> None:
    async def main() -> None:
        stage = Stage()
        own = step("embed: x\nmodel: e\nprovider: openai")
        aliased = replace(own, body=replace(own.body, aliases={"openai": "inner.openai"}))
        stage.kind.bind(aliased, {"inputs": {}})
        assert stage.asked_for == ["inner.openai"]

    run_virtual(main())
