from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from flowllm.spec.model import STEP_SHAPES, WorkflowShape, key_names
from flowllm.spec.schema import workflow_schema

SCHEMA = workflow_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def test_it_is_a_schema_of_the_draft_that_it_names() -> None:
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(SCHEMA)


def test_every_key_has_a_description() -> None:
    tables = [WorkflowShape, *STEP_SHAPES.values()]
    for table in tables:
        for name, field in table.model_fields.items():
            assert field.description, f"{table.__name__}.{name}"
    assert set(SCHEMA["properties"]) == set(key_names(WorkflowShape))
    assert all("description" in value for value in SCHEMA["properties"].values())


def test_keys_of_the_authors_own_are_accepted() -> None:
    steps = {"a": {"value": 1}}
    assert VALIDATOR.is_valid({"steps": steps, "x-mine": [1]})
    assert not VALIDATOR.is_valid({"steps": steps, "mine": [1]})


@pytest.mark.parametrize(
    "step",
    [
        {},
        "text",
        {"prompt": "hi", "value": 1},
        {"prompt": "hi", "temprature": 1},
        {"prompt": "hi", "temperature": "hot"},
        {"prompt": "hi", "timeout": 30},
        {"prompt": "hi", "when": True},
        {"value": 1, "model": "m"},
        {"prompt": "hi", "needs": "a"},
        {"prompt": "hi", "foreach": 3},
        {"prompt": "hi", "foreach": {"file": "x.csv", "fromat": "csv"}},
        {"prompt": "hi", "foreach": [1], "accept": {"count": 1}},
        {"http": {"method": "GET"}},
        {"http": {"url": "https://h", "headers": {"A": [1]}}},
        {"shell": "ls", "env": ["A"]},
        {"workflow": {"steps": {}}},
        {"workflow": {"steps": {"a": {"value": 1}}, "limits": {"max_concurrent": 1}}},
        {"workflow": {"steps": {"a": {"value": 1, "model": "m"}}}},
        {"workflow": "./x.yaml", "retry": {"max_attempts": 2}},
        {"embed": "x", "messages": []},
        {"prompt": "hi", "retry": {"tries": 3}},
        {"prompt": "hi", "cache": {"ttl": 3}},
    ],
)
def test_broken_steps_do_not_fit(step: Any) -> None:
    assert not VALIDATOR.is_valid({"steps": {"a": step}})


def test_templates_fit_where_numbers_stand() -> None:
    assert VALIDATOR.is_valid(
        {"steps": {"a": {"prompt": "hi", "temperature": "{{ inputs.t }}", "max_tokens": "{{ 1 }}"}}}
    )


def test_nothing_of_its_making_shows() -> None:
    assert "title" not in SCHEMA["$defs"]["RetryShape"]
    assert {"type": "null"} not in SCHEMA["$defs"]["LimitsShape"]["properties"]["burst"].get("anyOf", [])
