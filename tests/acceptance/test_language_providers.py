"""The language: providers, limits, flowllm.yaml, and what overrides what."""

from __future__ import annotations

from typing import Any

import pytest

from flowllm.core.errors import UsageError
from flowllm.limits.concurrency import FIRST
from flowllm.runtime.options import RunOptions
from tests.support.author import Author
from tests.support.project import as_yaml
from tests.support.server import running_server

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def _with(author: Author, *, step: dict[str, Any] | None = None, **provider: Any) -> str:
    """A workflow of one prompt to a provider of its own."""
    settings = {"type": "openai", "base_url": author.server.url, **provider}
    flow = {
        "providers": {"work": settings},
        "defaults": {"provider": "work", "model": "m"},
        "steps": {"it": {"prompt": '[json={"a": 1}]', **(step or {})}},
        "outputs": {"o": "{{ it }}"},
    }
    return as_yaml(flow)


@pytest.mark.parametrize(
    ("structured", "form"),
    [(None, "json_schema"), ("json_schema", "json_schema"), ("json_object", "json_object"), ("prompt", None)],
)
def test_how_a_schema_travels(author: Author, structured: str | None, form: str | None) -> None:
    flow = _with(author, step={"output": SCHEMA}, **({"structured": structured} if structured else {}))
    body = author.sent(flow)[0].body
    assert body.get("response_format", {}).get("type") == form
    describe_error = [message for message in body["messages"] if '"integer"' in message["content"]]
    assert len(describe_error) == (0 if form == "json_schema" else 1)
    assert all("JSON" in message["content"] for message in describe_error)
    assert author.outputs(flow) == {"o": {"a": 1}}


@pytest.mark.parametrize("field", [None, "max_tokens", "max_completion_tokens"])
def test_the_name_of_max_tokens(author: Author, field: str | None) -> None:
    flow = _with(author, step={"max_tokens": 9}, **({"max_tokens_field": field} if field else {}))
    body = author.sent(flow)[0].body
    assert {key: body[key] for key in body if "max" in key} == {field or "max_tokens": 9}


def test_the_responses_api(author: Author) -> None:
    step = {"system": "Be brief", "max_tokens": 9, "temperature": 0, "output": SCHEMA}
    (seen,) = author.sent(_with(author, api="responses", step=step))
    assert seen.path == "/v1/responses"
    assert [item["content"] for item in seen.body["input"]] == ["Be brief", '[json={"a": 1}]']
    assert (seen.body["max_output_tokens"], seen.body["temperature"]) == (9, 0)
    assert seen.body["text"]["format"]["type"] == "json_schema"
    assert author.outputs(_with(author, api="responses", step=step)) == {"o": {"a": 1}}


def test_headers_take_environment_variables(author: Author) -> None:
    author.environ |= {"TEAM": "blue", "WORK_KEY": "key-of-work"}
    flow = _with(author, headers={"X-Team": "${TEAM}", "X-Both": "a-${TEAM}-$b"}, api_key_env="WORK_KEY")
    (seen,) = author.sent(flow)
    assert (seen.headers["x-team"], seen.headers["x-both"]) == ("blue", "a-blue-$b")
    assert seen.headers["authorization"] == "Bearer key-of-work"


@pytest.mark.parametrize(
    ("provider", "missing"), [({"headers": {"X-Team": "${TEAM}"}}, "TEAM"), ({"api_key_env": "WORK_KEY"}, "WORK_KEY")]
)
def test_a_variable_that_is_not_set_is_named(author: Author, provider: dict[str, Any], missing: str) -> None:
    with pytest.raises(UsageError, match=missing) as refused:
        author.run(_with(author, **provider))
    assert f"export {missing}=" in refused.value.hint
    assert author.server.requests == []


def test_the_key_of_openai_goes_to_no_other_host(author: Author) -> None:
    author.environ["OPENAI_API_KEY"] = "sk-only-for-openai"
    (to_work,) = author.sent(_with(author))
    assert "sk-only-for-openai" not in str(to_work.headers)
    (to_openai,) = author.sent("steps: {it: {prompt: hi, model: m}}")
    assert to_openai.headers["authorization"] == "Bearer sk-only-for-openai"


def test_a_step_chooses_its_provider(author: Author) -> None:
    with running_server() as other:
        flow = {
            "providers": {"near": {"type": "openai", "base_url": other.url}, "made": {"type": "simulated"}},
            "defaults": {"model": "m"},
            "steps": {
                "a": {"prompt": "far"},
                "b": {"prompt": "near", "provider": "near"},
                "c": {"prompt": "x", "provider": "made"},
            },
        }
        assert [seen.prompt for seen in author.sent(as_yaml(flow))] == ["far"]
        assert [seen.prompt for seen in other.requests] == ["near"]


def test_a_workflow_that_names_no_provider_means_openai_and_needs_a_key(author: Author) -> None:
    flow = "steps: {it: {prompt: hi, model: m}}"
    assert author.run(flow).provider == "openai"
    author.environ.clear()
    with pytest.raises(UsageError, match="OPENAI_API_KEY is not set") as refused:
        author.run(flow)
    assert "simulated" in refused.value.hint


@pytest.mark.parametrize(
    ("environ", "provider"),
    [
        ({}, "simulated"),
        ({"OPENAI_BASE_URL": None}, "openai"),
        ({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": None}, "openai"),
    ],
)
def test_auto_is_openai_where_a_key_or_an_address_is_set(
    author: Author, environ: dict[str, str | None], provider: str
) -> None:
    author.environ = {name: value or author.server.url for name, value in environ.items()}
    result = author.run("defaults: {provider: auto, model: m}\nsteps: {it: {prompt: hi}}")
    assert result.provider == provider
    assert result.steps["it"].provider == provider
    assert len(author.server.requests) == (provider == "openai")


def test_the_simulated_provider_answers_alike_with_valid_json(author: Author) -> None:
    flow = {
        "providers": {"slow": {"type": "simulated", "seed": 7, "latency": "1ms", "latency_sigma": 0.4}},
        "defaults": {"provider": "slow"},
        "steps": {"it": {"prompt": "hi", "output": SCHEMA}, "words": {"prompt": "hi"}},
        "outputs": {"a": "{{ it.a }}", "w": "{{ words }}"},
    }
    first = author.outputs(as_yaml(flow))
    assert isinstance(first["a"], int)
    assert author.outputs(as_yaml(flow)) == first
    flow["providers"]["slow"]["seed"] = 8  # type: ignore[index]
    assert author.outputs(as_yaml(flow)) != first
    assert author.server.requests == []


def test_limits_are_those_of_the_default_provider(author: Author) -> None:
    with running_server() as other:
        steps = {f"a{n}": {"prompt": f"[sleep=0.05] {n}"} for n in range(4)}
        steps |= {f"b{n}": {"prompt": f"b {n}", "provider": "near"} for n in range(4)}
        flow = {
            "providers": {"near": {"type": "openai", "base_url": other.url, "limits": {"max_concurrent": 2}}},
            "defaults": {"model": "m", "timeout": "10s"},
            "limits": {"max_concurrent": 1},
            "steps": steps,
        }
        other.hold = 2  # nobody is answered before two are there together
        author.sent(as_yaml(flow))
        assert (author.server.peak, other.peak) == (1, 2)


@pytest.mark.parametrize("limits", [{}, {"limits": {"max_concurrent": "auto"}}])
def test_without_a_number_sixteen_go_at_once(author: Author, limits: dict) -> None:
    author.server.hold = FIRST  # nobody is answered before so many are there together
    author.write("flowllm.yaml", "limits: {max_concurrent: 3}\n" if limits else "tenants: {a: 1}\n")
    steps = {f"a{n}": {"prompt": f"{n}"} for n in range(FIRST)}
    author.sent(as_yaml({"defaults": {"model": "m", "timeout": "10s"}, "steps": steps, **limits}))
    assert author.server.peak == FIRST


FLOW = "steps: {it: {prompt: hi}}"


def _model(author: Author, flow: str = FLOW, **options: Any) -> str:
    """Which model was asked."""
    author.server.requests.clear()
    author.run(flow, options=RunOptions(**options), name="deep/down/flow.yaml")
    return str(author.server.requests[0].body["model"])


def test_options_go_before_the_environment_before_the_workflow_before_the_file(author: Author) -> None:
    author.write("flowllm.yaml", "defaults: {model: of-the-file}")
    own = f"defaults: {{model: of-the-workflow}}\n{FLOW}"
    assert _model(author) == "of-the-file"
    assert _model(author, own) == "of-the-workflow"
    author.environ["FLOWLLM_MODEL"] = "of-the-environment"
    assert _model(author) == "of-the-environment"
    assert _model(author, own) == "of-the-environment"
    assert _model(author, own, model="of-the-options") == "of-the-options"
    assert _model(author, "steps: {it: {prompt: hi, model: of-the-step}}", model="x") == "of-the-step"
    assert _model(author, own, model="x", settings={"it.model": "of-that-option"}) == "of-that-option"


def test_flowllm_yaml_is_found_upwards_and_the_nearest_counts(author: Author, monkeypatch: pytest.MonkeyPatch) -> None:
    author.write("flowllm.yaml", "defaults: {model: far}")
    (author.folder / "one" / "two").mkdir(parents=True)
    monkeypatch.chdir(author.folder / "one" / "two")
    assert _model(author) == "far"
    author.write("one/flowllm.yaml", "defaults: {model: near}")
    assert _model(author) == "near"
    other = author.write("elsewhere/mine.yaml", "defaults: {model: named}")
    author.environ["FLOWLLM_CONFIG"] = str(other)
    assert _model(author) == "named"


def test_flowllm_yaml_gives_providers_limits_and_defaults_to_all(author: Author) -> None:
    shared = {
        "providers": {"work": {"type": "openai", "base_url": author.server.url, "headers": {"X-From": "file"}}},
        "defaults": {"provider": "work", "model": "m", "temperature": 0.5},
        "limits": {"max_concurrent": 1},
        "prices": {"m": {"input": 1_000_000, "output": 0}},
    }
    author.write("flowllm.yaml", as_yaml(shared))
    result = author.run(
        "defaults: {temperature: 1}\nsteps: {a: {prompt: '[sleep=0.02] a'}, b: {prompt: '[sleep=0.02] b'}}"
    )
    seen = author.server.requests
    assert {one.headers["x-from"] for one in seen} == {"file"}
    assert [one.body["temperature"] for one in seen] == [1, 1]
    assert author.server.peak == 1
    assert result.steps["a"].cost_usd == result.steps["a"].usage.input_tokens


def test_a_workflows_provider_goes_before_the_files_of_that_name(author: Author) -> None:
    shared = {"providers": {"work": {"type": "openai", "base_url": "http://127.0.0.1:9/v1"}}}
    author.write("flowllm.yaml", as_yaml(shared))
    assert len(author.sent(_with(author))) == 1


def test_the_environment_names_the_default_provider_and_simulated_replaces_all(author: Author) -> None:
    flow = _with(author) + "x-more: 1\n"
    author.environ["FLOWLLM_PROVIDER"] = "openai"
    assert author.run(flow).provider == "openai"
    author.environ["FLOWLLM_PROVIDER"] = "simulated"
    author.server.requests.clear()
    named = "steps: {a: {prompt: hi, provider: openai, model: m}, b: {prompt: hi, model: m, fallback: [{provider: openai, model: n}]}}"
    result = author.run(named)
    assert (result.provider, result.steps["a"].provider, author.server.requests) == ("simulated", "simulated", [])
    assert author.run(flow, options=RunOptions(provider="work")).provider == "work"


def test_the_environment_caps_what_is_in_flight(author: Author) -> None:
    flow = {
        "defaults": {"model": "m"},
        "limits": {"max_concurrent": 5},
        "steps": {f"a{n}": {"prompt": f"[sleep=0.02] {n}"} for n in range(5)},
    }
    author.environ["FLOWLLM_MAX_CONCURRENT"] = "2"
    author.sent(as_yaml(flow))
    assert author.server.peak == 2
    author.run(as_yaml(flow), options=RunOptions(max_concurrent="auto", no_cache=True))
    assert author.server.peak == 5
    for wrong in (0, "some", 2.5):
        with pytest.raises(UsageError, match="max_concurrent must be a whole number from 1, or auto"):
            author.run(as_yaml(flow), options=RunOptions(max_concurrent=wrong))
    author.environ["FLOWLLM_MAX_CONCURRENT"] = "many"
    with pytest.raises(UsageError, match="FLOWLLM_MAX_CONCURRENT must be a whole number"):
        author.run(as_yaml(flow))


def test_the_database_of_the_environment(author: Author) -> None:
    path = author.folder / "mine.db"
    author.environ["FLOWLLM_DATABASE_URL"] = f"sqlite:///{path}"
    author.database = ""
    author.run("steps: {it: {value: 1}}")
    assert path.exists()


@pytest.mark.parametrize(
    "place",
    [
        "steps: {it: {prompt: hi, model: m, provider: opneai}}",
        "defaults: {provider: opneai, model: m}\nsteps: {it: {prompt: hi}}",
        "steps: {it: {prompt: hi, model: m, fallback: [{provider: opneai, model: m}]}}",
    ],
)
def test_an_unknown_provider_is_told_with_the_nearest(author: Author, place: str) -> None:
    problem = author.problem(place)
    assert "no provider `opneai`" in problem.message
    assert "`openai`" in problem.hint
