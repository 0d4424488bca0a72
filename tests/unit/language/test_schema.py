from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from flowllm.language.file_keys import WorkflowKeys
from flowllm.language.kinds import kinds
from flowllm.language.schema import config_schema, workflow_schema
from tests.support.editor import BROKEN, as_an_editor_reads, documents

SCHEMA = workflow_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def test_it_is_a_schema_of_the_draft_that_it_names() -> None:
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(SCHEMA)


def test_every_key_has_a_description() -> None:
    for table in [WorkflowKeys, *(spec.keys for spec in kinds().values())]:
        for name, key in table.table.items():
            assert key.text, f"{table.__name__}.{name}"
    assert set(SCHEMA["properties"]) == set(WorkflowKeys.table)
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


VALIDATORS = {"workflow": VALIDATOR, "config": Draft202012Validator(config_schema())}


@pytest.mark.parametrize("kind", VALIDATORS)
def test_nothing_of_its_making_shows(kind: str) -> None:
    schema: Any = VALIDATORS[kind].schema
    Draft202012Validator.check_schema(schema)
    text = json.dumps(schema)
    assert "Keys" not in text
    assert '{"type": "null"}' not in text
    for name, table in schema["$defs"].items():
        assert table["title"]
        assert re.fullmatch(r"[A-Za-z-]+", name), "an editor shows it, and `$ref` must not need escapes"


@pytest.mark.parametrize("kind", VALIDATORS)
def test_every_default_fits_its_own_schema(kind: str) -> None:
    found = 0

    def look(schema: Any) -> None:
        nonlocal found
        if isinstance(schema, list):
            for item in schema:
                look(item)
        elif isinstance(schema, dict):
            if "default" in schema and "description" in schema:
                found += 1
                rest = {"$defs": VALIDATORS[kind].schema["$defs"], **schema}
                assert Draft202012Validator(rest).is_valid(schema["default"]), schema
            for key, item in schema.items():
                look(list(item.values()) if key in {"properties", "$defs"} else item)

    look(VALIDATORS[kind].schema)
    assert found > 10


@pytest.mark.parametrize(("place", "kind", "text"), documents(), ids=[place for place, _, _ in documents()])
def test_all_that_is_shipped_and_documented_fits(place: str, kind: str, text: str) -> None:
    wrong = VALIDATORS[kind].iter_errors(as_an_editor_reads(text))
    assert [(error.json_path, error.message) for error in wrong] == [], place


@pytest.mark.parametrize(("kind", "text"), BROKEN)
def test_what_an_editor_must_see(kind: str, text: str) -> None:
    assert not VALIDATORS[kind].is_valid(as_an_editor_reads(text))


@pytest.mark.parametrize("number", ["200_000", "1_000", "1_0.5", 200_000])
def test_grouped_digits_are_a_number(number: Any) -> None:
    assert VALIDATOR.is_valid({"steps": {"a": {"value": 1}}, "limits": {"tokens_per_minute": number}})


@pytest.mark.parametrize("number", ["200000", "_200", "2__0", "two_2", "0_1", ""])
def test_any_other_text_is_none(number: str) -> None:
    assert not VALIDATOR.is_valid({"steps": {"a": {"value": 1}}, "limits": {"tokens_per_minute": number}})
