from __future__ import annotations

import json

import jsonschema
import pytest

from flowllm.core.errors import Problem
from flowllm.core.types import Json
from flowllm.language.workflow import LlmBody
from tests.support.workflows import problems, workflow


def text_of(output: str) -> str:
    return f"defaults: {{model: m}}\nsteps:\n  a:\n    prompt: hi\n    output: {output}\n"


def schema(output: str, **files: str) -> Json:
    body = workflow(text_of(output), files=files).steps["a"].body
    assert isinstance(body, LlmBody)
    assert body.output is not None
    return body.output.schema


def problem(output: str, **files: str) -> Problem:
    found = problems(text_of(output), files=files)
    assert len(found) == 1
    return found[0]


def test_the_word_json_asks_for_any_json() -> None:
    assert schema("json") is None


def test_values_of_a_schema_of_type_string_are_texts_as_written_in_yaml_only() -> None:
    written = "{type: string, enum: [1.10, no, true, 012], default: 1_0}"
    assert schema(written) == {"type": "string", "enum": ["1.10", "no", "true", "012"], "default": "1_0"}
    assert schema("s.yaml", **{"s.yaml": "{type: string, const: 5}"}) == {"type": "string", "const": "5"}
    assert schema("s.json", **{"s.json": '{"type": "string", "const": 5}'}) == {"type": "string", "const": 5}


def test_an_inline_schema_is_taken_as_it_is() -> None:
    inline = {"type": "object", "properties": {"a": {"enum": ["no", 1.1, None]}}, "required": ["a"]}
    assert schema("{type: object, properties: {a: {enum: [no, 1.10, null]}}, required: [a]}") == inline


def test_a_schemas_file_may_be_json_with_tabs_or_yaml() -> None:
    assert schema("./s.json", **{"s.json": '{\n\t"type":\t"string"\n}'}) == {"type": "string"}
    assert schema("s.yaml", **{"s.yaml": "type: string\n"}) == {"type": "string"}
    assert schema("s.json", **{"s.json": '{"description": "\\ud83d\\ude00\\/", "maxLength": 1E2}'}) == {
        "description": "😀/",
        "maxLength": 100.0,
    }


def test_what_a_schema_refers_to_is_bundled() -> None:
    files = {
        "s.json": json.dumps(
            {
                "$id": "https://example.com/s.json",
                "type": "object",
                "properties": {
                    "one": {"$ref": "parts/p.json#/$defs/n"},
                    "self": {"$ref": "#"},
                    "$ref": {"type": "string"},
                    "own": {"$ref": "#/$defs/p"},
                },
                "required": ["one"],
                "$defs": {"p": {"const": {"$ref": "kept"}}},
            }
        ),
        "parts/p.json": json.dumps({"$schema": "x", "$defs": {"n": {"$ref": "q.yaml"}, "m": {"$ref": "#/$defs/n"}}}),
        "parts/q.yaml": "type: [integer, array]\nminimum: 3\nitems: {$ref: 'p.json#/$defs/m'}\n",
    }
    bundled = schema("./s.json", **files)
    assert "$id" not in bundled
    assert bundled["properties"]["one"] == {"$ref": "#/$defs/p_2/$defs/n"}
    assert bundled["$defs"]["p"] == {"const": {"$ref": "kept"}}
    validator = jsonschema.Draft202012Validator(bundled)
    assert validator.is_valid({"one": 3})
    assert validator.is_valid({"one": [5, [6]], "self": {"one": 4}})
    assert not validator.is_valid({"one": 2})
    assert not validator.is_valid({"one": [2]})
    assert not validator.is_valid({"one": 3, "self": {}})
    assert "json" not in json.dumps(bundled["$defs"]["q"])


def test_an_inline_schema_refers_to_files_beside_the_workflow() -> None:
    bundled = schema(
        "{type: array, items: {$ref: './s.yaml#/$defs/a~1b'}}", **{"s.yaml": "$defs: {a/b: {type: string}}\n"}
    )
    assert jsonschema.Draft202012Validator(bundled).is_valid(["x"])
    assert not jsonschema.Draft202012Validator(bundled).is_valid([1])


@pytest.mark.parametrize(
    ("output", "column", "message"),
    [
        ("{$ref: '../up.json'}", 20, "leaves the schema's folder"),
        ("{$ref: '/etc/s.json'}", 20, "leaves the schema's folder"),
        ("{$ref: 'sub/../../up.json'}", 20, "leaves the schema's folder"),
        ("{$ref: 'http://127.0.0.1/s.json'}", 20, "cannot be fetched from a URL"),
        ("{$ref: 'file:///etc/passwd'}", 20, "cannot be fetched from a URL"),
        ("{$ref: '#nowhere'}", 20, "is not supported"),
        ("{$ref: '#/$defs/x'}", 20, "points at nothing"),
        ("{$ref: '#'}", 20, "leads back to itself"),
        ("{$ref: 3}", 20, "names no schema's file"),
        ("{$dynamicRef: '#a'}", 14, "is not supported"),
        ("{items: {$id: 'x'}}", 22, "is not supported"),
        ("{type: [string, nul]}", 29, "`nul` is not a type"),
        ("{properties: [a]}", 26, "not a valid JSON Schema, at `properties`"),
        ("{patternProperties: {'(': {}}}", 34, "is not a regular expression"),
        ("[string]", 13, "found a list"),
        ("", 12, "found nothing"),
        ("'{{ inputs.x }}'", 13, "cannot be a template"),
    ],
)
def test_schemas_that_cannot_be_used(output: str, column: int, message: str) -> None:
    found = problem(output)
    assert message in found.message
    assert (found.line, found.column, found.step) == (5, column, "a")


@pytest.mark.parametrize(
    ("name", "content", "place", "message"),
    [
        ("s.json", '{"type": "string",\n  "x" 1}', (2, 7), "not JSON"),
        ("s.json", '{"type":\n  "strin"}', (2, 3), "is not a type"),
        ("s.json", "[" * 100_000, (1, 1), ""),
        ("s.json", '{"a": 1, "a": 2}', (1, 10), "second time"),
        ("s.json", "[]", (1, 1), "a JSON Schema is a mapping, this is a list"),
        ("s.yaml", "a: *b\n", (1, 4), "anchor"),
        ("s.yaml", "properties:\n  x: {type: integr}\n", (2, 13), "is not a type"),
    ],
)
def test_problems_in_a_schemas_file_are_placed_there(
    name: str, content: str, place: tuple[int, int], message: str
) -> None:
    found = problem(name, **{name: content})
    assert (found.file, found.line, found.column) == (f"/flows/{name}", *place)
    assert message in found.message


def test_a_schema_of_too_many_files() -> None:
    files = {f"s{n}.json": json.dumps({"$ref": f"s{n + 1}.json"}) for n in range(30)}
    assert "more than 20 files" in problem("s0.json", **files).message


def test_a_recursive_schema_is_allowed() -> None:
    bundled = schema("{type: array, items: {$ref: '#'}}")
    assert jsonschema.Draft202012Validator(bundled).is_valid([[], [[]]])
