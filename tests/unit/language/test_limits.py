from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from flowllm.core.types import Budget, Limits, WindowLimit
from flowllm.language.parse import Overrides, Project, SnapshotFiles, load_project
from flowllm.language.schema import workflow_schema
from tests.support.workflows import problems, workflow

STEPS = "\nsteps: {a: {value: 1}}\n"
ALL = """{max_concurrent: 5, requests_per_minute: 500, tokens_per_minute: 200_000, burst: 3,
  windows: [{requests: 10, per: 1s}, {requests: 300, per: 1h}], adaptive: false,
  models: {gpt-4o: {max_concurrent: 2, windows: [{requests: 1, per: 500ms}]}, 4: {}},
  give_up_after: 1h, stop_at_error_rate: 20%, tokens_charged: usage}"""
EVERYTHING = Limits(
    max_concurrent=5,
    requests_per_minute=500,
    tokens_per_minute=200_000,
    burst=3,
    windows=(WindowLimit(requests=10, per=1), WindowLimit(requests=300, per=3600)),
    adaptive=False,
    models={"gpt-4o": Limits(max_concurrent=2, windows=(WindowLimit(requests=1, per=0.5),)), "4": Limits()},
    give_up_after=3600,
    stop_at_error_rate=0.2,
    tokens_charged="usage",
)


def project(text: str) -> Project:
    return load_project("/flows/flowllm.yaml", files=SnapshotFiles({"/flows/flowllm.yaml": text}))


def limits(own: str, theirs: str = "{}", **overrides: Any) -> Limits | None:
    given = project(f"limits: {theirs}\n")
    return workflow(f"limits: {own}" + STEPS, project=given, overrides=Overrides(**overrides)).limits


def budget(own: str | None, theirs: str | None) -> Budget | None:
    given = None if theirs is None else project(f"budget: {theirs}\n")
    return workflow(STEPS if own is None else f"budget: {own}" + STEPS, project=given).budget


def test_every_key_of_limits_in_each_of_its_places() -> None:
    assert limits(ALL) == EVERYTHING
    assert limits("{}", ALL) == EVERYTHING
    found = workflow(f"providers: {{p: {{type: openai, limits: {ALL}}}}}" + STEPS)
    assert found.providers["p"].limits == EVERYTHING


def test_what_is_not_written_is_as_without_limits() -> None:
    assert limits("{}") == Limits()
    assert workflow(STEPS).limits is None
    assert workflow(STEPS).budget is None


def test_limits_are_merged_key_by_key_and_windows_as_a_whole() -> None:
    theirs = "{windows: [{requests: 1, per: 1s}], adaptive: false, give_up_after: 1m, tokens_charged: usage}"
    mine = "{windows: [{requests: 2, per: 1s}], adaptive: true, tokens_charged: request}"
    assert limits(mine, theirs) == Limits(
        windows=(WindowLimit(requests=2, per=1),), adaptive=True, give_up_after=60, tokens_charged="request"
    )
    assert limits("{windows: []}", theirs) == Limits(adaptive=False, give_up_after=60, tokens_charged="usage")


def test_limits_of_models_are_merged_model_by_model() -> None:
    theirs = "{models: {a: {max_concurrent: 1, burst: 1}, b: {burst: 2}}}"
    found = limits("{models: {a: {max_concurrent: 3}, c: {burst: 4}}}", theirs)
    assert found is not None
    assert found.models == {"a": Limits(max_concurrent=3, burst=1), "b": Limits(burst=2), "c": Limits(burst=4)}


@pytest.mark.parametrize("key", ["windows", "adaptive", "models", "give_up_after", "stop_at_error_rate"])
@pytest.mark.parametrize("value", ["5", "[]"])
def test_a_simulated_server_enforces_only_some(key: str, value: str) -> None:
    text = f"providers: {{s: {{type: simulated, enforce: {{{key}: {value}}}}}}}" + STEPS
    (problem,) = problems(text)
    assert problem.message == f"`{key}` does not apply to `enforce`"
    assert "`max_concurrent`, `requests_per_minute`, `tokens_per_minute` and `burst`" in problem.hint


@pytest.mark.parametrize(
    ("own", "theirs", "expected"),
    [
        ("{usd: 5}", None, Budget(usd=5)),
        ("{tokens: 2_000_000, on_exceed: fail}", None, Budget(tokens=2_000_000, on_exceed="fail")),
        ("{usd: 0.25, tokens: 1}", None, Budget(usd=0.25, tokens=1, on_exceed="pause")),
        (None, "{usd: 5, on_exceed: fail}", Budget(usd=5, on_exceed="fail")),
        ("{usd: 1}", "{usd: 5, tokens: 7, on_exceed: fail}", Budget(usd=1, tokens=7, on_exceed="fail")),
        ("{on_exceed: pause}", "{usd: 5, on_exceed: fail}", Budget(usd=5)),
        (None, None, None),
    ],
)
def test_a_workflows_budget_wins_key_by_key(own: str | None, theirs: str | None, expected: Budget | None) -> None:
    assert budget(own, theirs) == expected


@pytest.mark.parametrize("text", ["{}", "{on_exceed: fail}"])
def test_a_budget_has_an_amount(text: str) -> None:
    (problem,) = problems(f"budget: {text}" + STEPS)
    assert (problem.line, problem.column, problem.message) == (1, 9, "this budget has no amount")
    assert "usd" in problem.hint


@pytest.mark.parametrize(
    "text", ["5", "", "[]", "$5", "{usd: -1}", "{usd: $5}", "{tokens: 0}", "{tokens: 1.5}", "{usd: 1, on_exceed: stop}"]
)
def test_a_broken_budget_is_reported(text: str) -> None:
    (problem,) = problems(f"budget: {text}" + STEPS)
    assert problem.line == 1
    assert "amount" not in problem.message


@pytest.mark.parametrize(
    ("top", "fits"),
    [
        ({"limits": {"windows": [{"requests": 1, "per": "1s"}]}}, True),
        ({"limits": {"windows": [{"requests": 1}]}}, False),
        ({"limits": {"windows": {"requests": 1, "per": "1s"}}}, False),
        ({"limits": {"models": {"m": {"burst": 1}}}}, True),
        ({"limits": {"models": {"m": {"adaptive": True}}}}, False),
        ({"limits": {"stop_at_error_rate": 0.2}}, False),
        ({"limits": {"tokens_charged": "used"}}, False),
        ({"providers": {"s": {"type": "simulated", "enforce": {"burst": 1}}}}, True),
        ({"providers": {"s": {"type": "simulated", "enforce": {"windows": []}}}}, False),
        ({"budget": {"usd": 0.5, "on_exceed": "fail"}}, True),
        ({"budget": {"usd": 0}}, False),
        ({"budget": {"eur": 5}}, False),
        ({"tenants": {"acme": 1}}, False),
    ],
)
def test_editors_know_the_same(top: dict[str, Any], fits: bool) -> None:
    data = {"steps": {"a": {"value": 1}}, **top}
    assert Draft202012Validator(workflow_schema()).is_valid(data) is fits
