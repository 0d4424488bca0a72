"""Random graphs, and what must come of them by the rules of the language, worked out without the engine."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from flowllm.core.errors import RequestRejected
from flowllm.core.fingerprint import canonical, digest
from flowllm.core.request import ChatRequest, Completion
from flowllm.core.types import Json, NodeStatus, OnError, StepKind, Tolerance, Usage
from flowllm.language.inputs import with_inputs
from tests.support.calls import FakeProvider
from tests.support.project import as_yaml

FAILED, SKIPPED, BLOCKED, SUCCEEDED = (NodeStatus.FAILED, NodeStatus.SKIPPED, NodeStatus.BLOCKED, NodeStatus.SUCCEEDED)


def rejected(key: str) -> bool:
    """Some prompts are never accepted."""
    return int(key[:4], 16) % 11 == 0


def invalid_at_first(key: str) -> bool:
    """Some answers fit their schema only when they are asked for again."""
    return int(key[4:8], 16) % 5 == 0


def reply(prompt: str, key: str, schema: Mapping[str, Json] | None) -> Json:
    text = f"<{prompt.split(maxsplit=1)[0]}:{hashlib.sha256(key.encode()).hexdigest()[:8]}>"
    return text if schema is None else {schema["required"][0]: text}


def key_of(prompt: str, schema: Mapping[str, Json] | None) -> str:
    """Of what is asked at first."""
    asked = {"model": "m", "messages": [{"role": "user", "content": prompt}], "schema": schema}
    return digest(canonical(asked))


class Author:
    """Writes a graph: plain, optional and status references, twins, forgiven failures, foreach, graphs within whose steps
    have the names of those without, and schemas that differ between them."""

    def __init__(self, draw: random.Random, *, name: str = "") -> None:
        """Graphs of different names have no prompt in common."""
        self._draw = draw
        self._name = name
        self._count = 0

    def chance(self, share: float) -> bool:
        return self._draw.random() < share

    def workflow(self) -> str:
        return as_yaml({"name": self._name or "sim", **self.graph(self._draw.randint(3, 10), depth=0, unique=True)})

    def graph(self, size: int, *, depth: int, unique: bool) -> dict[str, Json]:
        """`unique`: no other run of it has the same inputs."""
        steps = {f"s{number}": self.step(number, depth, unique=unique) for number in range(size)}
        return {"steps": steps, "outputs": {f"o{name}": f"{{{{ {name} }}}}" for name in steps}}

    def step(self, number: int, depth: int, *, unique: bool) -> dict[str, Json]:
        self._count += 1
        refs = " ".join(self.references(number))
        step: dict[str, Json] = {}
        each = self.chance(0.3)
        if each:
            step = self.foreach()
        if depth < 2 and self.chance(0.2):
            step |= self.inner(refs, depth, each=each, unique=unique)
        elif self.chance(0.15):
            step["value"] = f"v{self._count} {refs} {'{{ item }}' if each else ''}"
        else:
            step |= self.prompt(number, refs, depth, each=each, unique=unique)
        if self.chance(0.25):
            step["on_error"] = "continue"
            if each and "accept" not in step and self.chance(0.4):
                step["max_failed"] = self._draw.choice([0, 1, "30%"])
        if self.chance(0.1):
            step["when"] = "{{ index == 1 }}" if each else "{{ 1 > 2 }}"
        return step

    def references(self, number: int) -> list[str]:
        draw = self._draw
        forms = ["{{ s%d }}"] * 4 + ["{{ s%d | default(0) }}", "{{ steps.s%d.status }}"]
        return [draw.choice(forms) % need for need in draw.sample(range(number), draw.randint(0, min(3, number)))]

    def foreach(self) -> dict[str, Json]:
        items = [self._draw.randint(0, 4) for _ in range(self._draw.choice([0, 1, 3, 6, 9]))]
        step: dict[str, Json] = {"foreach": items}
        if self.chance(0.4):
            step["max_concurrent"] = self._draw.randint(1, 3)
        return step

    def accept(self) -> dict[str, Json]:
        """A bit more than half of all answers will do; `accepted` makes their order count."""
        ordered = " and accepted | length < 99" if self.chance(0.5) else ""
        return {
            "when": f"{{{{ (output | string | length + index + (output | string)[-2:-1].find('7')) % 2 == 0{ordered} }}}}",
            "count": self._draw.randint(1, 4),
            "overshoot": self._draw.choice([1.0, 1.5, 3.0]),
        }

    def inner(self, refs: str, depth: int, *, each: bool, unique: bool) -> dict[str, Json]:
        own = unique and (not each or self.chance(0.5))
        x = "n{{ item }}" + ("_{{ index }}" if own else "") if each else "x"
        graph = self.graph(self._draw.randint(1, 4), depth=depth + 1, unique=own)
        inputs = {"x": {"type": "string"}, "y": {"type": "string"}}
        step: dict[str, Json] = {
            "workflow": {"inputs": inputs, **graph},
            "with": {"x": x + ("-{{ inputs.x }}" if depth else ""), "y": f"y {refs}"},
        }
        if each and self.chance(0.3):
            step["accept"] = self.accept()
        return step

    def prompt(self, number: int, refs: str, depth: int, *, each: bool, unique: bool) -> dict[str, Json]:
        twin = self.chance(0.3)
        word = f"{self._name}twin" if twin else f"{self._name}p{self._count}"
        refs = "" if twin and self.chance(0.7) else refs
        own = unique and not twin and self.chance(0.3)
        more = ("{{ item }} " if each else "") + ("{{ index }} " if each and own else "")
        if depth and (own or self.chance(0.7)):
            more += "{{ inputs.x }} " if own or self.chance(0.7) else "{{ inputs.y }} "
        step: dict[str, Json] = {"prompt": f"{word} {more}{refs}", "model": "m", "timeout": "7d"}
        step["retry"] = {"max_attempts": 1000, "max_delay": "5s"}
        if own:
            step["cache"] = False
        if twin and not refs and number and self.chance(0.6):
            step["needs"] = [f"s{self._draw.randrange(number)}"]
        if each and self.chance(0.35):
            step["accept"] = self.accept()
        if self.chance(0.4):
            step["output"] = self.schema()
        return step

    def schema(self) -> dict[str, Json]:
        field = self._draw.choice("abc")
        return {
            "type": "object",
            "properties": {field: {"type": "string"}},
            "required": [field],
            "additionalProperties": False,
        }


class DrawnAnswers(FakeProvider):
    """Answers each prompt in its own way; `rejects` some of them."""

    def __init__(self, *, rejects: bool) -> None:
        super().__init__()
        self.rejects = rejects

    async def complete(self, request: ChatRequest, *, timeout: float) -> Completion:
        await super().complete(request, timeout=timeout)
        prompt = str(request.messages[-1]["content"])
        schema = None if request.output is None else request.output.schema
        key = key_of(prompt, schema)
        if self.rejects and rejected(key):
            raise RequestRejected("no")
        answer = reply(prompt, key, schema)
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return Completion(text=text, model="m", usage=Usage(input_tokens=3, output_tokens=5))


@dataclass
class Expected:
    """The outcome of every node."""

    status: dict[str, NodeStatus] = field(default_factory=dict)
    perhaps: set[str] = field(default_factory=set)
    """Nodes that may be missing, or half done: the step that they belong to can end without them."""
    outputs: dict[str, Json] = field(default_factory=dict)


def expected(workflow: object) -> Expected:
    found = Expected()
    _, found.outputs = _graph(workflow, {}, "", found)
    return found


def _graph(graph: object, inputs: dict, name: str, found: Expected) -> tuple[NodeStatus, dict[str, Json]]:
    """The steps come in an order in which each stands behind those that it needs."""
    values: dict = {"inputs": inputs, "run": {}, "steps": {}}
    status: dict[str, NodeStatus] = {}
    for step in graph.steps.values():
        node = f"{name}.{step.id}" if name else step.id
        outcome, output = _by_needs(step, graph, status), None
        if outcome is None:
            outcome, output = (_act if step.foreach is None else _fan)(step, values, node, found)
        status[step.id] = found.status[node] = outcome
        values["steps"][step.id] = {"status": outcome.value, "error": None}
        if outcome is SUCCEEDED:
            values[step.id] = output
    outputs = {f"o{step}": values[step] if status[step] is SUCCEEDED else None for step in graph.steps}
    bad = any(how is FAILED and not _forgiven(graph.steps[step]) for step, how in status.items())
    return (FAILED, {}) if bad and name else (FAILED if bad else SUCCEEDED, outputs)


def _forgiven(step: object) -> bool:
    return step.on_error is OnError.CONTINUE and step.foreach is None


def _by_needs(step: object, graph: object, status: dict[str, NodeStatus]) -> NodeStatus | None:
    waits = [(need, how) for need, how in step.edges.items() if how is not Tolerance.ANY]
    for need, _ in waits:
        if status[need] is BLOCKED or (status[need] is FAILED and not _forgiven(graph.steps[need])):
            return BLOCKED
    if any(how is Tolerance.REQUIRED and status[need] is not SUCCEEDED for need, how in waits):
        return SKIPPED
    return None


def _act(step: object, values: dict, node: str, found: Expected) -> tuple[NodeStatus, Json]:
    if step.when is not None and not step.when.condition(values):
        return SKIPPED, None
    if step.kind is StepKind.VALUE:
        return SUCCEEDED, step.body.value.render(values)
    if step.kind is StepKind.WORKFLOW:
        inputs = with_inputs(step.body.graph.inputs, step.body.arguments.render(values))
        return _graph(step.body.graph, inputs, node, found)
    prompt = step.body.prompt.text(values)
    schema = None if step.body.output is None else step.body.output.schema
    key = key_of(prompt, schema)
    return (FAILED, None) if rejected(key) else (SUCCEEDED, reply(prompt, key, schema))


def _fan(step: object, values: dict, node: str, found: Expected) -> tuple[NodeStatus, Json]:
    outputs: list[Json] = []
    accepted: list[Json] = []
    failed, rule, enough = 0, step.foreach.accept, False
    items = step.foreach.items.render(values)
    before = set(found.status)
    for index, item in enumerate(items):
        name, seen = f"{node}[{index}]", {**values, "item": item, "index": index}
        known = set(found.status)
        status, output = _act(step, seen, name, found)
        found.status[name] = status
        if enough:
            found.perhaps |= set(found.status) - known
            continue
        failed += status is FAILED
        outputs.append(output if status is SUCCEEDED else None)
        if rule is not None and status is SUCCEEDED:
            if rule.when.condition({**seen, "output": output, "accepted": list(accepted)}):
                accepted.append(output)
            enough = len(accepted) == rule.count.render(values)
    if enough:
        return SUCCEEDED, accepted
    if _too_many(step, failed, len(items)):
        if step.foreach.max_failed is not None or step.foreach.max_failed_share is not None:
            found.perhaps |= set(found.status) - before
        return FAILED, None
    return SUCCEEDED, outputs if rule is None else accepted


def _too_many(step: object, failed: int, total: int) -> bool:
    if step.on_error is not OnError.CONTINUE:
        return failed > 0
    if step.foreach.max_failed is not None:
        return failed > step.foreach.max_failed
    if step.foreach.max_failed_share is not None:
        return failed > step.foreach.max_failed_share * total
    return failed > 0 and failed == total
