"""Compiling templates as a workflow would, for tests."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from flowllm.core.errors import TemplateFailed
from flowllm.core.types import Json
from flowllm.language.problems import Location
from flowllm.language.template import Names, Template, TemplateProblems, compile_template

WHERE = Location(file="wf.yaml", line=1, column=1)
NAMES = Names(
    inputs=frozenset({"topic", "count", "tags"}),
    steps=frozenset({"headline", "outline", "skipped", "other"}),
    secrets=frozenset({"TOKEN"}),
)
RECORD: dict[str, Json] = {
    "usage": {"input_tokens": 1, "output_tokens": 2, "cached_input_tokens": 0, "reasoning_tokens": 0},
    "status": "succeeded",
    "error": None,
    "model": "m",
    "cached": False,
    "cost_usd": None,
    "rows": None,
    "counts": None,
}
VALUES: dict[str, Json] = {
    "inputs": {"topic": "<Tea> & é", "count": 3, "tags": ["a", "b"]},
    "run": {"id": "r1", "date": "2026-11-21", "started_at": "2026-11-21T00:00:00Z"},
    "secrets": {"TOKEN": "hush"},
    "steps": {
        "headline": RECORD,
        "outline": RECORD,
        "skipped": {**dict.fromkeys(RECORD), "status": "skipped"},
        "other": RECORD,
    },
    "headline": "All about {{ 7*7 }}",
    "outline": {"title": "T", "parts": [{"n": 1}, {"n": 2}], "ok": True, "none": None, "é<": "ü>"},
    "other": "O",
}


def compiled(source: str, **options: Any) -> Template:
    """The template, its places counted within its own text."""
    text = source.replace("\r\n", "\n")
    return compile_template(
        source, where=WHERE, locate=partial(Location.at, "wf.yaml", text), **({"names": NAMES} | options)
    )


def problems(source: str, **options: Any) -> list[tuple[int, int, str, str]]:
    """Line, column, message and hint of all problems of a template."""
    with pytest.raises(TemplateProblems) as caught:
        compiled(source, **options)
    found = caught.value.problems
    return [(p.where.line, p.where.column, p.message, p.hint) for p in found]


def text(source: str, **changes: Json) -> str:
    """The template as text."""
    return compiled(source).text({**VALUES, **changes})


def value(source: str, **changes: Json) -> Json:
    """The template as a value."""
    return compiled(source).value({**VALUES, **changes})


def failure(source: str, **changes: Json) -> TemplateFailed:
    """The error of rendering the template as a value and, the same, as text."""
    template = compiled(source)
    with pytest.raises(TemplateFailed) as caught:
        template.value({**VALUES, **changes})
    return caught.value
