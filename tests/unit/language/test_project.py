from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowllm.core.errors import InvalidWorkflow
from flowllm.core.types import Budget, Limits
from flowllm.language.parse import Project, SnapshotFiles, find_project, load_project, load_workflow
from flowllm.language.project import budget_of
from flowllm.language.workflow import LlmBody
from tests.support.workflows import workflow

VALUES: dict[str, Any] = {"inputs": {}, "steps": {}, "run": {}, "secrets": {}}
STEPS = "steps: {a: {prompt: hi}}\n"


def project(text: str, path: str = "/flows/flowllm.yaml") -> Project:
    return load_project(path, files=SnapshotFiles({path: text}))


def body(text: str, given: Project) -> LlmBody:
    found = workflow(text, project=given).steps["a"].body  # type: ignore[index]
    assert isinstance(found, LlmBody)
    return found


def test_everything_that_a_project_gives() -> None:
    found = project(
        "providers: {p: {type: openai}}\nlimits: {burst: 2}\ndefaults: {model: m}\ndatabase: sqlite:///x.db\n"
        "prices: {m: {input: 0.15, output: 0.6, cached_input: 0.075}}\nx-own: 1\n"
        "budget: {usd: 5}\ntenants: {acme: 3, other: 0.5, 42: 1}\n"
    )
    assert found.path == "/flows/flowllm.yaml"
    assert set(found.providers) == {"p"}
    assert found.database == "sqlite:///x.db"
    assert budget_of(found.budget) == Budget(usd=5)
    assert found.tenants == {"acme": 3, "other": 0.5, "42": 1}
    assert found.prices == {"m": {"input": 0.15, "output": 0.6, "cached_input": 0.075}}


def test_a_workflows_own_defaults_win_key_by_key() -> None:
    given = project("defaults: {model: theirs, temperature: 0.5, params: {a: 1, b: 1}, retry: {max_attempts: 9}}\n")
    mine = body("defaults: {model: mine, params: {b: 2}}\n" + STEPS, given)
    assert mine.model.render(VALUES) == "mine"
    assert mine.params is not None
    assert mine.params.render(VALUES) == {"temperature": 0.5, "a": 1, "b": 2}
    assert body(STEPS, given).model.render(VALUES) == "theirs"
    assert workflow(STEPS, project=given).steps["a"].retry.max_attempts == 9  # type: ignore[index]


def test_a_workflows_own_limits_win_key_by_key() -> None:
    given = project("limits: {max_concurrent: 3, requests_per_minute: 60}\ndefaults: {model: m}\n")
    assert workflow("limits: {max_concurrent: 7}\n" + STEPS, project=given).limits == Limits(
        max_concurrent=7, requests_per_minute=60
    )
    assert workflow(STEPS, project=given).limits == Limits(max_concurrent=3, requests_per_minute=60)


def test_what_belongs_in_a_project_is_refused_in_a_workflow() -> None:
    with pytest.raises(InvalidWorkflow) as caught:
        workflow("tenants: {acme: 3}\nprices: {}\ndatabase: x.db\n" + STEPS, project=project("defaults: {model: m}\n"))
    assert [(p.line, p.column, p.hint) for p in caught.value.problems] == [
        (line, 1, "it belongs in flowllm.yaml") for line in (1, 2, 3)
    ]


def test_a_workflows_own_providers_win() -> None:
    given = project(
        "providers: {p: {type: openai, base_url: 'http://a'}, q: {type: simulated}}\ndefaults: {model: m}\n"
    )
    found = workflow("providers: {p: {type: openai, base_url: 'http://b'}}\n" + STEPS, project=given).providers
    assert (found["p"].base_url, found["q"].type) == ("http://b", "simulated")


def test_simulated_can_be_tuned_but_never_made_real() -> None:
    assert project("providers: {simulated: {seed: 3}}\n").providers["simulated"].seed == 3
    with pytest.raises(InvalidWorkflow, match="`simulated` is always simulated"):
        project("providers: {simulated: {type: openai}}\n")


def test_paths_in_a_project_are_relative_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "s.json").write_text('{"type": "string"}')
    (tmp_path / "flowllm.yaml").write_text("defaults: {model: m, output: ./s.json}\n")
    (tmp_path / "flows" / "f.yaml").write_text(STEPS)
    found = load_workflow(tmp_path / "flows" / "f.yaml", project=load_project(tmp_path / "flowllm.yaml"))
    assert set(found.files) == {str(tmp_path / name) for name in ("flows/f.yaml", "s.json", "flowllm.yaml")}
    again = load_workflow(
        found.path,
        files=SnapshotFiles(found.files),
        project=load_project(tmp_path / "flowllm.yaml", files=SnapshotFiles(found.files)),
    )
    assert again.files == found.files


def test_a_projects_problem_is_reported_at_its_place_once() -> None:
    given = project("\ndefaults: {provider: gone, model: m}\n")
    with pytest.raises(InvalidWorkflow) as caught:
        workflow("steps: {a: {prompt: hi}, b: {prompt: hi}}\n", project=given)
    assert [(p.file, p.line, p.column) for p in caught.value.problems] == [("/flows/flowllm.yaml", 2, 22)]
    assert caught.value.problems[0].source_line == "defaults: {provider: gone, model: m}"


def test_all_problems_of_a_project_are_reported_at_once() -> None:
    with pytest.raises(InvalidWorkflow) as caught:
        project(
            "budget: {on_exceed: fail}\nsteps: {}\ndefaults: {temperature: x}\nprices: {m: {inptu: 1}}\n"
            "limits: {windows: 1}\nproviders: {auto: {type: openai}}\ndatabase: [1]\ntenants: {a: 0, b: heavy}\n"
        )
    assert [p.line for p in caught.value.problems] == [1, 2, 3, 4, 5, 6, 7, 8, 8]


def test_an_empty_or_missing_project_is_reported() -> None:
    with pytest.raises(InvalidWorkflow, match="the file is empty"):
        project("# nothing\n")
    with pytest.raises(InvalidWorkflow, match="cannot be read"):
        load_project("/flows/flowllm.yaml", files=SnapshotFiles({}))


def test_the_nearest_project_upwards_is_found(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "flowllm.yaml").write_text("x-a: 1\n")
    assert find_project(inner) == tmp_path.resolve() / "flowllm.yaml"
    (tmp_path / "a" / "flowllm.yaml").write_text("x-a: 1\n")
    assert find_project(inner) == tmp_path.resolve() / "a" / "flowllm.yaml"
