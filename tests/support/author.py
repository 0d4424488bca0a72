"""Somebody who writes workflows into a folder and runs them with the library."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flowllm import FlowLLM
from flowllm.app.result import RunResult
from flowllm.core.errors import InvalidWorkflow, Problem
from flowllm.core.events import Event
from flowllm.core.types import Json
from flowllm.runtime.options import RunOptions
from tests.support.project import QUICK, as_yaml
from tests.support.server import Seen, Server

ASKING: dict[str, Any] = {"defaults": {"model": "test-model", "retry": QUICK}}
"""What a workflow needs whose prompts go to the test's server."""


class Author:
    """A folder of workflows; `openai` is the test's server. Every run has a database of its own, unless kept."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder = folder
        self.server = server
        self.environ = {"OPENAI_BASE_URL": server.url}
        self.database = "memory:"
        self.events: list[Event] = []
        """Those of all runs."""

    def handle(self, event: Event) -> None:
        """An author is an observer of their runs."""
        self.events.append(event)

    def keep(self) -> None:
        """From now on all runs share a database."""
        self.database = str(self.folder / "kept.db")

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def run(
        self,
        text: str,
        *,
        name: str = "flow.yaml",
        texts: Mapping[str, str] | None = None,
        options: RunOptions | None = None,
        **inputs: Json,
    ) -> RunResult:
        """Run a workflow; `inputs` are typed, `texts` are converted."""
        path = self.write(name, text)

        async def go() -> RunResult:
            async with FlowLLM(database=self.database, environ=self.environ) as app:
                return await app.run(path, inputs=inputs, input_text=texts, options=options, observers=[self])

        return asyncio.run(go())

    def outputs(self, text: str, **inputs: Json) -> dict[str, Json]:
        """The outputs of a run that succeeds."""
        result = self.run(text, **inputs)
        assert result.status == "succeeded", result.as_dict()
        return dict(result.outputs)

    def steps(self, text: str, **inputs: Json) -> dict[str, str]:
        """How each step of a run ended."""
        return {name: step.status for name, step in self.run(text, **inputs).steps.items()}

    def value(self, value: Json, **others: Json) -> Json:
        """What a `value` step makes of a value; `others` are the outputs of other steps."""
        steps = {name: {"value": other} for name, other in {**others, "it": value}.items()}
        return self.outputs(as_yaml({"steps": steps, "outputs": {"it": "{{ it }}"}}))["it"]

    def sent(self, text: str, **inputs: Json) -> list[Seen]:
        """The requests of a run that succeeds, in the order in which they came."""
        self.server.requests.clear()
        self.outputs(text, **inputs)
        return list(self.server.requests)

    def asked(self, **step: Any) -> dict[str, Any]:
        """The body of the one request that a step sends."""
        (seen,) = self.sent(as_yaml({**ASKING, "steps": {"it": step}}))
        return seen.body

    def error(self, text: str, step: str = "it", **inputs: Json) -> dict[str, Json]:
        """The error of a step that fails."""
        result = self.run(text, **inputs)
        assert result.status == "failed", result.as_dict()
        return dict(result.steps[step].error or {})

    def refusal(self, text: str, *, name: str = "flow.yaml") -> list[Problem]:
        """The problems of a workflow that is refused before anything is sent."""
        before = len(self.server.requests)
        with pytest.raises(InvalidWorkflow) as refused:
            self.run(text, name=name)
        assert len(self.server.requests) == before
        return list(refused.value.problems)

    def problem(self, text: str) -> Problem:
        """The only problem of such a workflow."""
        (problem,) = self.refusal(text)
        return problem
