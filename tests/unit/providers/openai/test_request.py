from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from flowllm.core.fingerprint import canonical
from flowllm.core.request import ChatRequest, OutputFormat
from flowllm.providers.openai.request import (
    OPENAI_BASE_URL,
    OpenAIConfig,
    encode,
    encode_chat,
    encode_responses,
    instruction,
    strict_allowed,
    wire_schema,
)

LOCAL = OpenAIConfig(name="local", base_url="http://127.0.0.1:1234/v1")
OPENAI = OpenAIConfig(name="openai")
SCORE = {
    "type": "object",
    "properties": {"score": {"type": "integer"}},
    "required": ["score"],
    "additionalProperties": False,
}


def ask(
    prompt: str = "hello", *, output: OutputFormat | None = None, system: str | None = None, **params: object
) -> ChatRequest:
    messages = [] if system is None else [{"role": "system", "content": system}]
    return ChatRequest(
        model="m", messages=(*messages, {"role": "user", "content": prompt}), params=params, output=output
    )


def test_a_plain_request_is_model_and_messages_and_nothing_else() -> None:
    assert encode_chat(ask(), LOCAL) == {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize(
    ("base_url", "written", "field"),
    [
        ("https://api.openai.com/v1", None, "max_completion_tokens"),
        ("https://API.OpenAI.com/v1", None, "max_completion_tokens"),
        ("https://api.openai.com.evil.example/v1", None, "max_tokens"),
        ("http://127.0.0.1:11434/v1", None, "max_tokens"),
        ("http://127.0.0.1:11434/v1", "max_completion_tokens", "max_completion_tokens"),
        ("https://api.openai.com/v1", "max_tokens", "max_tokens"),
        ("simulated:", None, "max_tokens"),
        ("http://[broken", None, "max_tokens"),
    ],
)
def test_max_tokens_is_called_what_the_server_calls_it(base_url: str, written: str | None, field: str) -> None:
    config = OpenAIConfig(name="x", base_url=base_url, max_tokens_field=written)
    body = encode_chat(ask(max_tokens=7), config)
    assert {key: value for key, value in body.items() if "tokens" in key} == {field: 7}


def test_what_the_author_wrote_himself_under_the_other_name_is_kept() -> None:
    body = encode_chat(ask(max_tokens=7, max_completion_tokens=9), OPENAI)
    assert body["max_completion_tokens"] == 9
    assert "max_tokens" not in body


def test_parameters_go_out_as_they_are_and_none_means_not_set() -> None:
    body = encode_chat(ask(temperature=0, top_p=None, logit_bias={"1": -100}, stop=["x"]), LOCAL)
    assert body["temperature"] == 0
    assert body["logit_bias"] == {"1": -100}
    assert body["stop"] == ["x"]
    assert "top_p" not in body


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_openai_is_told_which_prompts_begin_the_same_unless_the_author_tells_it(api: str) -> None:
    request = ChatRequest(model="m", messages=({"role": "user", "content": "Hi"},), cache_key="abc")
    at_openai, elsewhere = (
        OpenAIConfig(name="p", base_url=url, api=api) for url in (OPENAI_BASE_URL, "https://llm.example.com/v1")
    )
    assert encode(request, at_openai)["prompt_cache_key"] == "abc"
    assert "prompt_cache_key" not in encode(request, elsewhere)
    assert encode(replace(request, params={"prompt_cache_key": "own"}), at_openai)["prompt_cache_key"] == "own"


def test_parameters_cannot_replace_model_and_messages() -> None:
    body = encode_chat(ask(model="other", messages=[]), LOCAL)
    assert body["model"] == "m"
    assert body["messages"]


def test_a_schema_travels_strict_where_strict_mode_takes_it() -> None:
    body = encode_chat(ask(output=OutputFormat(schema=SCORE, name="my score!")), LOCAL)
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "my_score_", "schema": SCORE, "strict": True},
    }
    assert body["messages"] == [{"role": "user", "content": "hello"}]


def test_a_schema_with_an_optional_property_is_not_strict() -> None:
    schema = {**SCORE, "required": []}
    body = encode_chat(ask(output=OutputFormat(schema=schema)), LOCAL)
    assert body["response_format"]["json_schema"]["strict"] is False


def test_a_root_that_is_no_object_is_wrapped_and_then_strict() -> None:
    schema = {"type": "array", "items": {"type": "string"}}
    sent = encode_chat(ask(output=OutputFormat(schema=schema)), LOCAL)["response_format"]["json_schema"]
    assert sent["schema"]["properties"] == {"value": schema}
    assert sent["strict"] is True


@pytest.mark.parametrize("structured", ["json_object", "prompt"])
def test_servers_without_schemas_get_words(structured: str) -> None:
    config = OpenAIConfig(name="x", base_url="http://127.0.0.1/v1", structured=structured)
    body = encode_chat(ask(output=OutputFormat(schema=SCORE)), config)
    assert body.get("response_format") == ({"type": "json_object"} if structured == "json_object" else None)
    assert body["messages"][0]["role"] == "system"
    assert "JSON" in body["messages"][0]["content"]
    assert '"score"' in body["messages"][0]["content"]
    assert body["messages"][1] == {"role": "user", "content": "hello"}


def test_a_schema_may_travel_beside_json_object() -> None:
    config = OpenAIConfig(name="x", base_url="http://127.0.0.1/v1", structured="json_object_schema")
    body = encode_chat(ask(output=OutputFormat(schema={"type": "array"})), config)
    sent = body["response_format"]
    assert (sent["type"], sent["schema"]["properties"]) == ("json_object", {"value": {"type": "array"}})
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    assert encode_chat(ask("json?", output=OutputFormat()), config)["response_format"] == {"type": "json_object"}


def test_a_root_that_may_be_null_travels_wrapped() -> None:
    schema = {**SCORE, "type": ["object", "null"]}
    sent = encode_chat(ask(output=OutputFormat(schema=schema)), LOCAL)["response_format"]["json_schema"]
    assert sent["schema"]["type"] == "object"
    assert sent["schema"]["properties"]["value"] == schema


def test_the_instruction_joins_a_system_message_instead_of_making_a_second_one() -> None:
    body = encode_chat(ask(system="Be brief.", output=OutputFormat()), LOCAL)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["messages"][0]["content"].startswith("Be brief.\n\n")
    assert "JSON" in body["messages"][0]["content"]


def test_output_json_adds_no_instruction_if_a_message_names_json() -> None:
    body = encode_chat(ask("give me json", output=OutputFormat()), LOCAL)
    assert body["messages"] == [{"role": "user", "content": "give me json"}]
    assert body["response_format"] == {"type": "json_object"}


def test_encoding_changes_nothing_in_the_request() -> None:
    request = ask(system="Be brief.", output=OutputFormat(schema={"type": "array"}), max_tokens=3)
    before = canonical([dict(request.params), list(request.messages), dict(request.output.schema or {})])
    for config in (LOCAL, OPENAI, OpenAIConfig(name="p", structured="prompt", api="responses")):
        assert encode(request, config) == encode(request, config)
    assert canonical([dict(request.params), list(request.messages), dict(request.output.schema or {})]) == before


def test_responses_has_its_own_names() -> None:
    request = ask(output=OutputFormat(schema=SCORE, name="s"), max_tokens=5, reasoning_effort="low", verbosity="low")
    assert encode_responses(request, OPENAI) == {
        "store": False,
        "stream": False,
        "model": "m",
        "input": [{"role": "user", "content": "hello"}],
        "max_output_tokens": 5,
        "reasoning": {"effort": "low"},
        "text": {"verbosity": "low", "format": {"type": "json_schema", "name": "s", "schema": SCORE, "strict": True}},
    }


def test_parts_of_a_message_are_renamed_for_responses() -> None:
    parts = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
    ]
    request = ChatRequest(
        model="m",
        messages=(
            {"role": "user", "content": parts},
            {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
        ),
    )
    first, second = encode_responses(request, OPENAI)["input"]
    assert first["content"] == [
        {"type": "input_text", "text": "what is this?"},
        {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"},
    ]
    assert second["content"] == [{"type": "output_text", "text": "a cat"}]


def test_nothing_secret_is_in_the_repr() -> None:
    config = OpenAIConfig(
        name="x", base_url="http://me:canary@127.0.0.1/v1", api_key="canary", headers={"X-Token": "canary"}
    )
    assert "canary" not in repr(config)


def test_half_characters_are_replaced_and_whole_ones_kept() -> None:
    body = encode_chat(ask("half \ud800, pair \ud83d\ude00, whole \U0001f600", stop=["\udfff"]), LOCAL)
    assert body["messages"][0]["content"] == "half \ufffd, pair \U0001f600, whole \U0001f600"
    assert body["stop"] == ["\ufffd"]


def test_what_is_overridden_in_private_has_an_upper_bound() -> None:
    from openai import AsyncOpenAI, DefaultAioHttpClient

    pyproject = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())
    bounds = {name: spec for name, _, spec in (one.partition(">=") for one in pyproject["project"]["dependencies"])}
    assert ",<4" in bounds["openai[aiohttp]"]
    assert ",<3" in bounds["httpx2"]
    for hook in ("_init_transport", "_init_proxy_transport"):
        assert callable(getattr(DefaultAioHttpClient, hook))
    assert callable(AsyncOpenAI._build_request)


OBJECT = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def within(item: dict[str, Any]) -> dict[str, Any]:
    return {**OBJECT, "properties": {"a": item}}


@pytest.mark.parametrize(
    "schema",
    [
        OBJECT,
        within({"type": ["string", "null"]}),
        within({"type": "array", "items": OBJECT, "minItems": 2}),
        within({"anyOf": [{"type": "string", "enum": ["x"]}, {"type": "null"}]}),
        within({"type": "string", "format": "date", "pattern": "^2"}),
        {**within({"$ref": "#/$defs/x"}), "$defs": {"x": {"type": "integer", "minimum": 1}}},
        within({"$ref": "#"}),
        {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
    ],
)
def test_strict_mode_takes(schema: dict[str, Any]) -> None:
    assert strict_allowed(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "string"}},
        {**OBJECT, "required": []},
        {key: value for key, value in OBJECT.items() if key != "additionalProperties"},
        {**OBJECT, "additionalProperties": {"type": "string"}},
        {**OBJECT, "anyOf": [OBJECT]},
        {**OBJECT, "allOf": [OBJECT]},
        within({}),
        within(True),  # type: ignore[arg-type]
        within({"type": "array"}),
        within({"type": "string", "minLength": 1}),
        within({"type": "string", "default": "x"}),
        within({"type": "string", "format": "uri"}),
        within({"oneOf": [{"type": "string"}]}),
        within({"$ref": "#/$defs/x", "description": "d"}),
        within({"$ref": "https://example.com/schema"}),
        within({"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}),
        within({"type": "string", "enum": [str(n) for n in range(1001)]}),
    ],
)
def test_strict_mode_does_not_take(schema: dict[str, Any]) -> None:
    assert not strict_allowed(schema)


def test_strict_mode_ends_at_ten_levels() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(9):
        schema = within(schema)
    assert strict_allowed(schema)
    assert not strict_allowed(within(within(schema)))


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (None, False),
        (OBJECT, False),
        ({"properties": {}}, False),
        ({"type": "array"}, True),
        ({"type": "string"}, True),
        ({}, True),
        ({"$ref": "#/$defs/x"}, True),
        ({"anyOf": [OBJECT]}, True),
        ({**OBJECT, "type": ["object", "null"]}, True),
        ({**OBJECT, "type": ["object"]}, False),
        ({"properties": {}, "anyOf": [{"type": "object"}, {"type": "null"}]}, True),
    ],
)
def test_what_is_wrapped(schema: dict[str, Any] | None, expected: bool) -> None:
    assert OutputFormat(schema=schema).wrapped is expected


RECURSIVE = {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"$ref": "#"}]}}
DEFINED = {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}
POINTED = {"type": "array", "prefixItems": [{"type": "integer"}, {"$ref": "#/prefixItems/0"}], "items": False}
LITERAL = {"enum": [{"$ref": "#"}, "x"]}
NAMED = {
    "anyOf": [{"properties": {"$ref": {"type": "integer"}, "o": {"$ref": "#"}}, "type": "object"}, {"type": "null"}]
}
OWN_ID = {"$id": "https://example.com/s", "type": "array", "items": {"anyOf": [{"type": "integer"}, {"$ref": "#"}]}}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (RECURSIVE, [1, [2, [3]]], [1, ["x"]]),
        (DEFINED, [[], [[]]], [["x"]]),
        (POINTED, [1, 2], [1, "x"]),
        (LITERAL, {"$ref": "#"}, {"$ref": "#/properties/value"}),
        (NAMED, {"$ref": 1, "o": {"o": None}}, {"o": {"$ref": "x"}}),
        (OWN_ID, [1, [2]], [["x"]]),
    ],
)
def test_a_wrapped_schema_means_the_same(schema: dict[str, Any], good: object, bad: object) -> None:
    sent = wire_schema(OutputFormat(schema=schema))
    Draft202012Validator.check_schema(sent)
    validator = Draft202012Validator(sent)
    assert Draft202012Validator(schema).is_valid(good)
    assert not Draft202012Validator(schema).is_valid(bad)
    assert validator.is_valid({"value": good})
    assert not validator.is_valid({"value": bad})
    assert not validator.is_valid(good)


def test_wrapping_leaves_the_author_s_schema_alone() -> None:
    schema = {"type": "array", "items": {"$ref": "#/$defs/x"}, "$defs": {"x": {"type": "string"}}}
    wire_schema(OutputFormat(schema=schema))
    assert schema == {"type": "array", "items": {"$ref": "#/$defs/x"}, "$defs": {"x": {"type": "string"}}}


def test_an_object_without_a_type_gets_one() -> None:
    assert wire_schema(OutputFormat(schema={"properties": {}})) == {"type": "object", "properties": {}}


def test_instructions_name_json() -> None:
    assert "JSON" in instruction(None)
    assert '"überschrift"' in instruction({"properties": {"überschrift": {}}})
