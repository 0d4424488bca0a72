from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from flowllm.language.nodes import plain_data
from flowllm.language.parse import check, load_workflow
from flowllm.language.schema import workflow_schema
from flowllm.language.source import parse_yaml

CORPUS = Path(__file__).parents[2] / "corpus"
BROKEN = sorted((CORPUS / "broken").glob("*.yaml"))
VALID = sorted((CORPUS / "valid").glob("*.yaml"))
EXPECT = re.compile(r"^# expect: (\d+):(\d+): (.*)$", re.MULTILINE)


def expected(path: Path) -> list[tuple[int, int, str]]:
    aside = path.with_suffix(".expect")
    text = (aside if aside.exists() else path).read_text(encoding="utf-8")
    return [(int(line), int(column), part) for line, column, part in EXPECT.findall(text)]


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_every_problem_is_reported_at_its_place(path: Path) -> None:
    started = time.process_time()
    problems = check(path)
    assert time.process_time() - started < 1
    found = [(problem.line, problem.column, f"{problem.message} ({problem.hint})") for problem in problems]
    assert {problem.file for problem in problems} == {str(path)}
    assert len(expected(path)) == len(found), found
    for (line, column, part), (at_line, at_column, message) in zip(sorted(expected(path)), sorted(found), strict=True):
        assert (at_line, at_column) == (line, column), message
        assert part in message


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_no_jargon_reaches_the_user(path: Path) -> None:
    for problem in check(path):
        assert not re.search(r"pydantic|Error\b|type=|input_value|NoneType|<class|Keys\b", str(problem))
        assert problem.column <= len(problem.source_line) + 1 or not problem.source_line


def test_the_corpus_is_there() -> None:
    assert len(BROKEN) >= 50
    assert len(VALID) >= 5
    assert all(expected(path) for path in BROKEN)


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid_workflows_have_no_problems(path: Path) -> None:
    assert check(path) == []
    assert load_workflow(path).steps


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid_workflows_fit_the_schema_for_editors(path: Path) -> None:
    from jsonschema import Draft202012Validator

    data = plain_data(parse_yaml(path.read_text(encoding="utf-8"), path.name))
    assert [error.json_path for error in Draft202012Validator(workflow_schema()).iter_errors(data)] == []


SHAPELESS = re.compile(
    "cycle|fanout_without|no_model|comment|template|budget_amount|prompt_file|python_target|secret|self_ref|unknown_(in|step|prov)|^yaml"
)
"""What only reading files, templates and names can find."""


@pytest.mark.parametrize("path", [p for p in BROKEN if not SHAPELESS.search(p.stem)], ids=lambda path: path.stem)
def test_broken_shapes_do_not_fit_the_schema_for_editors(path: Path) -> None:
    from jsonschema import Draft202012Validator

    data = plain_data(parse_yaml(path.read_text(encoding="utf-8"), path.name))
    assert not Draft202012Validator(workflow_schema()).is_valid(data)
