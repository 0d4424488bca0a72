"""The range of a plan holds what a run takes, whatever the model, its tokeniser and its failures: for random workflows."""

from __future__ import annotations

import json
import random
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from flowllm.core.errors import ContentFiltered, EmptyAnswer, ServerFailed
from flowllm.core.request import ChatRequest, Completion, Embeddings, EmbedRequest
from flowllm.core.types import AttemptStatus, NodeStatus, Usage
from flowllm.explain import plan_items
from flowllm.explain.forecast import Forecast, forecast
from flowllm.explain.planner import Planner
from flowllm.runtime.options import RunOptions
from flowllm.storage.base import AttemptRecord
from tests.support.answering import all_nodes
from tests.support.calls import FakeProvider
from tests.support.project import as_yaml
from tests.support.run_attempts import Stage
from tests.support.virtual import run_virtual

PRICES = {"m": (1.0, 4.0), "dear": (10.0, 40.0), "cheap": (0.1, 0.2), "e": (0.5, 0.0)}
"""Of a token in, and of one out; what is read from the cache costs a tenth."""
TEXTS = ("tea", "1 2 3 4 5 " * 9, "=" * 90, "é ü 茶 " * 20, "\n\n   \n" * 12 + ".", "a b c")
SCHEMAS: tuple[dict[str, Any], ...] = (
    {"type": "boolean"},
    {"type": "array", "items": {"type": "string"}},
    {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 3},
    {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "much longer"]}, "why": {"type": "string", "maxLength": 40}},
        "required": ["kind", "why"],
        "additionalProperties": False,
    },
)


class Author:
    """Draws workflows of all that asks models."""

    def __init__(self, draw: random.Random, depth: int = 0) -> None:
        self.draw = draw
        self.depth = depth
        self.shapes: dict[str, Any] = {}
        """What earlier steps give: "text", a schema, or a list of either."""

    def workflow(self) -> str:
        steps = {f"s{n}": self.step(f"s{n}") for n in range(self.draw.randint(2, 6))}
        return as_yaml(
            {"name": "drawn", "defaults": {"model": "m", "max_tokens": self.draw.choice([5, 40, 300])}, "steps": steps}
        )

    def chance(self, share: float) -> bool:
        return self.draw.random() < share

    def step(self, name: str) -> dict[str, Any]:
        if self.depth < 1 and self.chance(0.2):
            self.shapes[name] = "graph"
            return self.graph()
        step, shape = self.embed() if self.chance(0.15) else self.prompt()
        if self.chance(0.4):
            lists = [one for one, known in self.shapes.items() if isinstance(known, list)]
            items = f"{{{{ {self.draw.choice(lists)} }}}}" if lists and self.chance(0.5) else self.draw.sample(TEXTS, 3)
            step["foreach"] = items
            if "embed" in step:
                step["embed"] = "{{ item }} x"
            else:
                step["prompt"] += " {{ item }} {{ index }}"
            if self.chance(0.3) and "embed" not in step:
                step["accept"] = {"when": "{{ (output | string | length) % 2 == 0 }}", "count": 2, "overshoot": 2}
                step["on_error"] = "continue"
            shape = [shape]
        if self.shapes and self.chance(0.2) and "foreach" not in step:
            step["when"] = f"{{{{ ({self.draw.choice(list(self.shapes))} | string | length) % 2 == 0 }}}}"
            shape = None
        elif not step.get("on_error"):
            self.shapes[name] = shape
        return step

    def graph(self) -> dict[str, Any]:
        """A graph within, once for each of some texts."""
        inner = Author(self.draw, self.depth + 1)
        inner.shapes["inputs.x"] = "text"
        steps = {f"t{n}": inner.step(f"t{n}") for n in range(self.draw.randint(1, 3))}
        graph = {"inputs": {"x": {"type": "string"}}, "steps": steps, "outputs": {"n": "{{ t0 | string | length }}"}}
        x = f"{{{{ item }}}} {self.references()}"
        return {"foreach": self.draw.sample(TEXTS, self.draw.randint(1, 4)), "with": {"x": x}, "workflow": graph}

    def prompt(self) -> tuple[dict[str, Any], Any]:
        step: dict[str, Any] = {"prompt": f"Say {self.draw.choice(TEXTS)} {self.references()}", "timeout": "7d"}
        schema = self.draw.choice(SCHEMAS)
        more: list[tuple[float, dict[str, Any]]] = [
            (0.3, {"system": f"Be brief. {self.references()}"}),
            (0.4, {"output": schema}),
            (0.3, {"fallback": self.draw.sample(["dear", "cheap"], self.draw.randint(1, 2))}),
            (0.2, {"samples": 3}),
            (0.3, {"retry": {"max_attempts": self.draw.randint(1, 3), "max_delay": "1s"}}),
            (0.2, {"on_truncated": "fail"}),
            (0.2, {"cache": False}),
            (0.1, {"images": ["https://example.org/a.png"]}),
        ]
        for share, keys in more:
            step |= keys if self.chance(share) else {}
        shape: Any = ["text"] if schema["type"] == "array" else schema
        shape = shape if "output" in step else "text"
        return step, [shape] if "samples" in step else shape

    def embed(self) -> tuple[dict[str, Any], Any]:
        texts = [name for name, shape in self.shapes.items() if shape == "text"]
        given = (
            f"{{{{ {self.draw.choice(texts)} }}}}" if texts and self.chance(0.5) else list(self.draw.sample(TEXTS, 3))
        )
        return {"embed": given, "model": "e", "batch": {"size": self.draw.choice([1, 2, 100])}}, "vectors"

    def references(self) -> str:
        known = [name for name, shape in self.shapes.items() if shape not in ("vectors", ["vectors"], "graph")]
        found = []
        for name in self.draw.sample(known, self.draw.randint(0, min(2, len(known)))):
            if isinstance(self.shapes[name], list):
                found.append(
                    self.draw.choice(["{{ %s | join('; ') }}", "{%% for x in %s %%}- {{ x }}\n{%% endfor %%}"]) % name
                )
            else:
                found.append(
                    self.draw.choice(["{{ %s }}", "{{ %s }}", "{{ %s | tojson }}", "{{ %s | string | upper }}"]) % name
                )
        return " ".join(found)


class Drawn(FakeProvider):
    """A server with a tokeniser of its own, whose answers are of any length, and often will not do."""

    def __init__(self, draw: random.Random, *, fails: float) -> None:
        super().__init__()
        self.draw = draw
        self.bytes_a_token = draw.choice([1.0, 2.2, 4.4, 6.0])
        self.fails = fails

    def tokens(self, text: str) -> int:
        whole = len(text.encode()) / self.bytes_a_token
        return max(1, round(whole if self.bytes_a_token < 5 else min(whole, len(text.split()))))

    async def complete(self, request: ChatRequest, *, timeout: float) -> Completion:
        self.latency = self.draw.uniform(0.5, 1.5)
        await super().complete(request, timeout=timeout)
        read = sum(self.tokens(text) for text in _texts(request)) + 3
        most = int(request.params["max_tokens"])
        written = self.draw.randint(1, most)
        usage = Usage(input_tokens=read, cached_input_tokens=self.draw.choice([0, read // 2]), output_tokens=written)
        if self.draw.random() < self.fails:
            kind = self.draw.choice(["empty", "invalid", "cut", "refused", "filtered"])
            if kind == "empty":
                raise EmptyAnswer("nothing", usage=usage, status=200)
            if kind == "filtered":
                raise ContentFiltered("no", usage=usage, status=200)
            if kind == "refused":
                raise ServerFailed("broken", status=500)
            if kind == "cut":
                return Completion(text="half a", model=request.model, finish_reason="length", usage=usage)
            return Completion(text="no JSON" * 3, model=request.model, usage=usage)
        text = self._answer(request, written)
        usage = Usage(
            input_tokens=read, cached_input_tokens=usage.cached_input_tokens, output_tokens=min(most, self.tokens(text))
        )
        return Completion(text=text, model=request.model, usage=usage)

    def _answer(self, request: ChatRequest, tokens: int) -> str:
        letters = "".join(self.draw.choices('abcdefgh "\n', k=max(1, int(tokens * self.bytes_a_token))))
        if request.output is None:
            return letters.strip() or "x"
        schema = request.output.schema or {}
        if schema["type"] == "boolean":
            return json.dumps({"value": True})
        if schema["type"] == "object":
            return json.dumps({"kind": "a", "why": letters[: max(1, min(40, len(letters) - 20))]})
        count = max(schema.get("minItems", 0), min(schema.get("maxItems", 99), tokens // 8))
        return json.dumps({"value": [letters[: max(1, len(letters) // (count + 3) - 4)] for _ in range(count)]})

    async def embed(self, request: EmbedRequest, *, timeout: float) -> Embeddings:
        await super().embed(request, timeout=timeout)
        if self.draw.random() < self.fails / 2:
            raise ServerFailed("broken", status=500)
        return Embeddings(
            vectors=tuple([float(len(text))] for text in request.texts),
            model=request.model,
            usage=Usage(input_tokens=sum(map(self.tokens, request.texts))),
        )

    def cost(self, model: str, usage: Usage, *, tier: str = "") -> float | None:
        before, after = PRICES[model]
        cached = usage.cached_input_tokens or 0
        return before * ((usage.input_tokens or 0) - 0.9 * cached) + after * (usage.output_tokens or 0)


def _texts(request: ChatRequest) -> list[str]:
    contents = [message["content"] for message in request.messages]
    texts = [part.get("text", "") for one in contents for part in (one if isinstance(one, list) else [{"text": one}])]
    return texts + ([] if request.output is None else [json.dumps(request.output.schema)])


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1_000_000), st.sampled_from([0.0, 0.1, 0.5]))
def test_the_range_holds_what_a_run_takes(seed: int, fails: float) -> None:
    draw = random.Random(seed)
    text, looked_at = Author(draw).workflow(), draw.choice([2, 1000])

    async def main() -> None:
        stage = Stage()
        stage.provider = Drawn(draw, fails=fails)
        for run_id in ("first", "again"):
            ready = await stage.prepare(text, run_id=run_id)
            planner = Planner(ready.run, RunOptions(), kinds=ready.kinds, store=stage.store)
            with mock.patch.object(plan_items, "LOOKED_AT", looked_at):
                planned = await forecast(planner, ready.checked, ready.checked.steps, "fake")
            await ready.attempt()
            whole = not any(node.status is NodeStatus.FAILED for node in await all_nodes(stage, run_id))
            _holds(planned, await stage.store.attempts(run_id), whole=whole)

    run_virtual(main())


def _holds(planned: Forecast, attempts: list[AttemptRecord], *, whole: bool) -> None:
    """`whole`: nothing failed; what fails may take less."""
    paid = [one for one in attempts if one.status is not AttemptStatus.FAILED or one.usage.total]
    takes = planned.total.takes.as_dict()
    truth = {
        "requests": len(paid),
        "input_tokens": sum(one.usage.input_tokens or 0 for one in paid),
        "output_tokens": sum(one.usage.output_tokens or 0 for one in paid),
        "cost_usd": sum(one.cost_usd or 0.0 for one in paid),
    }
    for name, took in truth.items():
        low, high = takes[name]["low"], takes[name]["high"]
        assert high is None or took <= high * (1 + 1e-9), (name, takes[name], took)
        assert not whole or low * (1 - 1e-9) <= took, (name, takes[name], took)
