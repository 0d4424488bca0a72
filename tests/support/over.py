"""A project whose workflow is run over the rows of a file."""

from __future__ import annotations

from pathlib import Path

from tests.support.dataset import json_lines, lines
from tests.support.project import Outcome, Project, prompts

FIRST, SECOND = "first of {{ inputs.text }}", "then {{ first }}"


def two_steps(project: Project, **top: object) -> str:
    """Two steps, one after the other."""
    given = {
        "inputs": {"text": {"type": "string"}},
        "steps": prompts(first=FIRST, second=SECOND),
        "outputs": {"answer": "{{ second }}"},
    }
    return project.flow(**{**given, **top})


def one_step(project: Project, **top: object) -> str:
    return two_steps(project, steps=prompts(first=FIRST), outputs={"answer": "{{ first }}"}, **top)


def rows(project: Project, *values: object, name: str = "rows.jsonl") -> Path:
    return json_lines(project.folder / name, values)


def over(project: Project, file: str, *more: object, data: object = "rows.jsonl") -> Outcome:
    return project.cli("run", file, "--over", data, "--output", "out.jsonl", "--quiet", *more)


def out(project: Project) -> list[dict[str, object]]:
    return lines(project.folder / "out.jsonl")


def outputs_by_index(project: Project) -> dict[object, object]:
    found = out(project)
    assert len({line["index"] for line in found}) == len(found), "a row came out twice"
    return {line["index"]: line["outputs"] for line in found}
