from __future__ import annotations

import types
from pathlib import Path

import pytest

import flowllm
from flowllm.core.errors import InvalidWorkflow, PythonFailed
from flowllm.core.fingerprint import fingerprint
from flowllm.core.records import dataclass
from flowllm.core.types import StepKind
from flowllm.language import kinds
from flowllm.language import values as v
from flowllm.language.file_keys import StepKeys
from flowllm.language.keys import REQUIRED, Key
from flowllm.language.template import Template
from flowllm.language.workflow import Body
from flowllm.steps import registry
from flowllm.steps.base import Bound, WorkEstimate
from flowllm.steps.pipeline import LocalWork, run_local

ECHO = StepKind("echo")


class EchoKeys(StepKeys, title="echo step"):
    """Gives a text back, at the second attempt."""

    echo = Key(v.written, "The text.", REQUIRED)
    times = Key(v.count, "How often.", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoBody(Body):
    text: Template
    times: int


class EchoRunner:
    slots = types.MappingProxyType({"echo": 3})

    def __init__(self, services: registry.RunnerServices) -> None:
        self.calls = services.calls
        self.attempts = 0

    def bind(self, step, values) -> Bound:
        parts = {"kind": "echo", "text": step.body.text.text(values) * step.body.times}
        return Bound(step=step, key=fingerprint(parts), parts=parts, work=None)

    def work(self, bound) -> WorkEstimate:
        return WorkEstimate(memo_keys=(bound.key,))

    async def run(self, bound, context):
        async def perform(limit: float, left: float) -> str:
            assert limit <= left <= bound.step.timeout
            self.attempts += 1
            if self.attempts == 1:
                raise PythonFailed("not yet")
            return bound.parts["text"]

        return await run_local(self.calls, LocalWork(name="echo", account="echo", perform=perform), bound, context)


def build(keys: EchoKeys, context: kinds.StepContext) -> EchoBody | None:
    text = context.compiler.text(keys.echo)
    return None if text is None else EchoBody(text=text, times=keys.times)


@pytest.fixture(autouse=True)
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of its own, registered for one test."""
    monkeypatch.setattr(kinds, "_KINDS", dict(kinds.kinds()))
    monkeypatch.setattr(registry, "_RUNNERS", dict(registry._RUNNERS))
    spec = kinds.StepKindSpec(key="echo", kind=ECHO, keys=EchoKeys, build=build, templates=("echo",))
    registry.register(registry.StepKindPackage(specs=(spec,), runner=EchoRunner))


FLOW = """
steps:
  a: {echo: "{{ 'tea ' }}", times: 2, cache: true, retry: {initial_delay: 1ms}}
  b: {value: "{{ a }}!"}
outputs: {said: "{{ b }}"}
"""


def test_a_kind_of_ones_own_is_written_in_yaml_run_tried_again_and_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("flow.yaml").write_text(FLOW)
    first, second = (flowllm.run("flow.yaml", database=tmp_path / "runs.db") for _ in range(2))
    assert first.outputs == second.outputs == {"said": "tea tea !"}
    assert (first.steps["a"].kind, first.steps["a"].attempts, first.steps["a"].cached) == ("echo", 2, False)
    assert (second.steps["a"].cached, second.steps["a"].attempts) == (True, 0)


def test_what_is_wrong_with_its_keys_is_told_as_for_any_kind(tmp_path: Path) -> None:
    file = tmp_path / "flow.yaml"
    file.write_text('steps:\n  a: {echo: "{{ steps.none.output }}", shell: ls}\n  b: {echo: x, stdin: y, tmes: 2}\n')
    with pytest.raises(InvalidWorkflow) as error:
        flowllm.load_workflow(str(file))
    said = str(error.value)
    assert "this one has `echo` and `shell`" in said
    assert "`stdin` does not apply to a `echo` step" in said
    assert "did you mean `times`" in said


def test_two_kinds_cannot_have_one_key() -> None:
    with pytest.raises(ValueError, match="`http`"):
        registry.register(
            registry.StepKindPackage(specs=(kinds.StepKindSpec(key="http", kind=ECHO, keys=EchoKeys, build=build),))
        )
