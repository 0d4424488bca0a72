from __future__ import annotations

import pytest

from flowllm.calls.validation import Validator
from flowllm.core.errors import InvalidAnswer
from flowllm.core.request import OutputFormat

ANY = Validator(OutputFormat())
TAGS = Validator(OutputFormat(schema={"type": "array", "items": {"type": "string"}}))
RECORD = Validator(
    OutputFormat(schema={"type": "object", "properties": {"value": {"type": "integer"}}, "required": ["value"]})
)


def value_in(validator: Validator, text: str) -> object:
    verdict = validator.verdict(text)
    if verdict.error is not None:
        raise verdict.error
    return verdict.value


@pytest.mark.parametrize("text", ['{"a": [1]}', '```json\n{"a": [1]}\n```', ' ```\n{"a": [1]}\n``` \n'])
def test_json_is_read_also_out_of_a_fence(text: str) -> None:
    assert value_in(ANY, text) == {"a": [1]}


@pytest.mark.parametrize(
    "text", ["", "Sure!", '{"a": 1', "NaN", "[Infinity]", "[" * 100_000, '{"a": 1e999}', "9" * 5000, '{"a": [-1e400]}']
)
def test_what_is_not_json_is_invalid_and_never_a_crash(text: str) -> None:
    with pytest.raises(InvalidAnswer) as caught:
        value_in(ANY, text)
    assert caught.value.answer == text


def test_a_root_that_is_no_object_is_unwrapped_and_may_come_bare() -> None:
    assert value_in(TAGS, '{"value": ["a"]}') == ["a"]
    assert value_in(TAGS, '["a"]') == ["a"]


def test_an_object_with_a_key_named_value_is_not_unwrapped() -> None:
    assert value_in(RECORD, '{"value": 3}') == {"value": 3}


def test_every_error_is_named_with_its_place() -> None:
    with pytest.raises(InvalidAnswer, match=r"at \[1\]: 2 is not of type 'string'; at \[2\]: None is not"):
        value_in(TAGS, '["a", 2, null]')


@pytest.mark.parametrize(
    "text", ['```json\n{"value": 3}\n```', '\n```\n{"value": 3}```\n', '``` JSON \n\n{"value": 3}\n\n```  ']
)
def test_json_in_a_code_block_is_taken_out_of_it(text: str) -> None:
    assert value_in(RECORD, text) == {"value": 3}


@pytest.mark.parametrize("text", ["```", "``````", "```a b\n{\n```", "x ```\n{]\n```"])
def test_what_only_looks_like_a_code_block_is_no_json(text: str) -> None:
    with pytest.raises(InvalidAnswer, match="not valid JSON"):
        value_in(RECORD, text)


def test_a_code_block_of_a_million_blank_lines_is_refused_at_once() -> None:
    """As a regular expression this took time that grew with the cube of the answer."""
    with pytest.raises(InvalidAnswer):
        value_in(RECORD, "```\n" + "\n" * 1_000_000 + "x")


NULLABLE = Validator(OutputFormat(schema={"type": ["object", "null"], "properties": {"value": {"type": "integer"}}}))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"value": null}', None),
        ("null", None),
        ('{"value": {"value": 3}}', {"value": 3}),
        ('{"value": 3}', {"value": 3}),
    ],
)
def test_a_root_that_may_be_null_comes_wrapped_or_bare(text: str, value: object) -> None:
    assert value_in(NULLABLE, text) == value
