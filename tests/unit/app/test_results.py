"""What a program does with the results of a run, and with workflows that are no files."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import flowllm
from flowllm import (
    FlowLLM,
    InvalidWorkflow,
    PackageMissing,
    RunFailed,
    RunStatus,
    StoreError,
    UsageError,
    load_workflow,
)

STEPS = {
    "double": {"foreach": "{{ inputs.numbers }}", "value": {"twice": "{{ item * 2 }}"}, "on_error": "continue"},
    "sum": {"value": "{{ double | map(attribute='twice') | sum }}"},
}
FLOW = {"name": "doubles", "inputs": {"numbers": {"type": "array"}}, "steps": STEPS, "outputs": {"sum": "{{ sum }}"}}


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "test.db"


def test_results_are_read_as_rows_also_later_and_elsewhere(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = flowllm.run(FLOW, inputs={"numbers": [1, {}, 3]}, database=database)
    assert run.status is RunStatus.FAILED, "the sum cannot do without the second"
    rows = run.rows("double")
    assert (len(rows), rows[-1]["output.twice"], rows[1]["status"]) == (3, 6, "failed")
    assert [row["index"] for row in rows[1:]] == [1, 2]
    assert run.to_dicts() == list(rows), "only one step has items"
    assert [row["index"] for row in run.rows(status="failed")] == [1]
    assert run.rows("sum")[0]["error_type"] == "TemplateFailed"
    assert pickle.loads(pickle.dumps(run)).to_dicts("double") == list(rows)
    with pytest.raises(UsageError, match="no status `fail`\n  did you mean `failed`"):
        run.rows(status="fail")
    with pytest.raises(UsageError, match="no record of a step `dobule`"):
        run.rows("dobule")

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="needs pandas") as caught:
        run.to_pandas("double")
    assert isinstance(caught.value, PackageMissing)


def test_a_table_of_pandas_keeps_what_the_rows_have(database: Path) -> None:
    items = [
        {"id": "007", "number": 2**60 + 1, "share": 1, "tags": ["a"], "most": 2**70},
        {"id": "008", "number": None, "share": 2.5, "tags": [], "most": 1},
    ]
    steps = {
        "looked": {"foreach": "{{ inputs.items }}", "value": {"ok": "{{ item.id == '007' }}", "all": "{{ item }}"}}
    }
    run = flowllm.run({"inputs": {"items": {"type": "array", "default": items}}, "steps": steps}, database=database)
    frame = run.to_pandas()
    assert list(frame.columns[:4]) == ["index", "node", "item.id", "item.number"]
    assert frame["item.id"].tolist() == ["007", "008"]
    assert (str(frame["item.number"].dtype), frame["item.number"].dropna().tolist()) == ("Int64", [2**60 + 1])
    kinds = {name: str(frame[name].dtype) for name in ("index", "item.share", "item.tags", "output.ok", "output.all")}
    assert list(kinds.values()) == ["int64", "float64", "object", "bool", "object"]
    assert (frame["item.tags"][0], frame["output.all"][1], frame["item.most"][0]) == (["a"], items[1], 2**70)
    assert frame["started_at"].dt.tz is UTC, "times that can be reckoned with"
    assert frame[frame["output.ok"]]["node"].tolist() == ["looked[0]"]
    assert len(run.to_pandas("looked")) == len(run.to_dicts("looked")) == 2


def test_a_run_that_has_not_succeeded_is_raised_where_that_is_wanted(database: Path) -> None:
    assert flowllm.run(FLOW, inputs={"numbers": [1]}, database=database).raise_for_status().outputs == {"sum": 2}
    run = flowllm.run(FLOW, inputs={"numbers": [{}]}, database=database)
    with pytest.raises(RunFailed, match=f"run {run.run_id} failed: double") as caught:
        run.raise_for_status()
    assert (caught.value.run_id, caught.value.status) == (run.run_id, RunStatus.FAILED)


def test_a_database_in_memory_gives_rows_while_it_is_open(database: Path) -> None:
    async def work() -> flowllm.RunResult:
        async with FlowLLM(database="memory:") as app:
            run = await app.run(FLOW, inputs={"numbers": [1, 2]})
            assert [row["item"] for row in run.rows()] == [1, 2]
            (listed,) = await app.runs(workflow="doubles")
            assert (listed.run_id, listed.to_dicts()) == (run.run_id, run.to_dicts())
            assert await app.runs(status="failed") == []
            assert len(await app.runs(since=datetime.now(UTC) - timedelta(hours=1))) == 1
            return run

    run = asyncio.run(work())
    with pytest.raises(StoreError, match="is gone") as caught:
        run.to_dicts()
    assert "name a file" in caught.value.hint


def test_a_workflow_may_be_a_text_or_a_mapping(database: Path) -> None:
    text = "steps:\n  a: {value: 1}\noutputs: {a: '{{ a }}'}\n"
    assert load_workflow(text).name == "workflow"
    run = flowllm.run(text, database=database)
    assert (run.workflow, run.outputs) == ("workflow", {"a": 1})

    with pytest.raises(InvalidWorkflow) as caught:
        load_workflow("steps:\n  a: {promt: x}\n")
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.column, problem.source_line) == ("<workflow>", 2, 7, "  a: {promt: x}")
    with pytest.raises(InvalidWorkflow) as caught:
        load_workflow({"steps": {"a": {"value": "{{ 1 +\n }}"}, "yes": {"value": "1e3"}}})
    assert [(problem.line, problem.step) for problem in caught.value.problems] == [(4, "a")]
    assert '"value": "{{ 1 +' in caught.value.problems[0].source_line
    with pytest.raises(UsageError, match="this mapping is no workflow"):
        load_workflow({"steps": {"a": {1, 2}}})


def test_a_workflow_is_loaded_with_the_settings_that_it_would_run_with(tmp_path: Path) -> None:
    (tmp_path / "flowllm.yaml").write_text("providers: {mine: {type: simulated}}\ndefaults: {model: m}\n")
    flow = {"steps": {"a": {"prompt": "x", "provider": "mine"}}}
    with contextlib.chdir(tmp_path):
        assert set(load_workflow(flow).steps) == {"a"}
    assert set(load_workflow(flow, config=tmp_path / "flowllm.yaml").steps) == {"a"}
    with pytest.raises(InvalidWorkflow, match="there is no provider `mine`"):
        load_workflow(flow)


def test_a_resume_goes_on_with_the_text_that_was_given(database: Path) -> None:
    text = "steps:\n  a:\n    shell: test -e go\noutputs: {a: '{{ a }}'}\n"
    notices: list[str] = []

    class Watching:
        def handle(self, event: object) -> None:
            notices.extend([event.message] if hasattr(event, "message") else [])

    async def work() -> list[RunStatus]:
        async with FlowLLM(database=database) as app:
            first = await app.run(text)
            Path("go").touch()
            return [first.status, (await app.resume(observers=[Watching()])).status]

    assert asyncio.run(work()) == [RunStatus.FAILED, RunStatus.SUCCEEDED]
    assert notices == []
