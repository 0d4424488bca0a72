"""What a run that goes on has of its inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flowllm.app.resume import inputs_again
from flowllm.core.errors import InvalidInputs
from flowllm.core.types import Json
from flowllm.runtime.options import RunOptions
from tests.support.records import run
from tests.support.workflows import workflow

BEFORE: dict[str, Json] = {"a": "5", "b": "old", "n": 3, "gone": 1}
GIVEN = ("a", "n", "gone")


def again(declared: str, *, over: str | None = None, **more: Any) -> tuple[dict[str, Json], tuple[str, ...]]:
    record = replace(run("r"), inputs=BEFORE)
    options = RunOptions(given=GIVEN, over=over)
    loaded = workflow(f"inputs: {declared}\nsteps: {{x: {{value: 1}}}}\n")
    return inputs_again(record, options, loaded, more.get("inputs", {}), more.get("texts", {}))


def test_what_was_given_stands_and_the_rest_is_as_the_file_says_now() -> None:
    assert again("{a: x, b: new, c: 7}") == ({"a": "5", "b": "new", "c": 7}, ("a",))
    assert again("{a: x, n: {type: number}}")[0] == {"a": "5", "n": 3}


def test_what_was_given_is_converted_to_what_the_input_is_now() -> None:
    assert again("{a: {type: integer}, n: }")[0] == {"a": 5, "n": "3"}
    assert again("{a: {type: array, default: []}}", texts={"a": "[1]"})[0] == {"a": [1]}
    assert again("{a: 1, b: x}", inputs={"a": 2, "b": "y"}) == ({"a": 2, "b": "y"}, ("a", "b"))


@pytest.mark.parametrize(
    ("declared", "texts", "told"),
    [
        ("{a: , q: {type: integer}}", {}, "input `q` is missing"),
        ("{a: {type: boolean}}", {}, "input `a`: expected true or false"),
        ("{a: {type: string, enum: [x, y]}}", {}, "is not one of"),
        ("{a: }", {"z": "1"}, "unknown input `z`"),
    ],
)
def test_what_does_not_fit_is_told(declared: str, texts: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidInputs, match=told):
        again(declared, texts=texts)


def test_of_a_data_set_only_what_holds_for_all_rows_is_given() -> None:
    assert again("{a: , q: {type: integer}, b: new}", over="/d.csv") == ({"a": "5"}, ("a",))
