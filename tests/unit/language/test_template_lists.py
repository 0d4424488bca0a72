"""The filters that take lists and JSON apart: `fromjson`, `flatten` and `pick`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowllm.core.errors import TemplateFailed
from flowllm.language import sandbox_limits
from tests.support.templates import failure, value

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_fromjson_undoes_tojson(data: Any) -> None:
    assert value("{{ other | fromjson }}", other=json.dumps(data)) == data
    assert value("{{ outline | tojson | fromjson }}", outline=data) == data


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("", "not JSON: Expecting value (line 1, column 1 of '')"),
        ("Sure: {}", "not JSON"),
        ('{"a": 1} {"b": 2}', "Extra data"),
        ("NaN", "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number"),
        ("1e999", "too large"),
        ("9" * 5000, "too many digits"),
        ("[" * 100_000, "nested more than 200 deep"),
        ('{"a":' * 300 + "1" + "}" * 300, "nested more than 200 deep"),
        ("x" * 1000, "…"),
    ],
)
def test_what_is_not_json_is_reported_shortly(text: str, reported: str) -> None:
    message = failure("{{ other | fromjson }}", other=text).message
    assert reported in message
    assert len(message) < 250


def test_fromjson_reads_text_alone_and_not_more_than_a_template_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_limits, "OPERATIONS", 50_000)
    found = failure("{{ outline | fromjson }}", outline={"a": 1})
    assert (found.message.endswith("and this is a mapping"), "leave" in found.hint) == (True, True)
    assert "too much work" in failure("{{ other | fromjson }}", other="[" + "{}," * 55_000 + "0]").message


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("x | flatten", [1, 2, 3, 4, {"a": [5]}, None, "six"]),
        ("x | flatten(1)", [1, [2, [3]], 4, {"a": [5]}, None, "six"]),
        ("x | flatten(levels=2)", [1, 2, [3], 4, {"a": [5]}, None, "six"]),
        ("x | flatten(0)", [[1, [2, [3]]], 4, [], {"a": [5]}, None, "six"]),
        ("range(3) | batch(2) | flatten", [0, 1, 2]),
        ("[range(2), range(2)] | flatten", [0, 1, 0, 1]),
        ("[[1, 2], [3]] | map('reverse') | flatten", [2, 1, 3]),
        ("[{'k': [1]}, {'k': [2, 3]}] | map(attribute='k') | flatten", [1, 2, 3]),
        ("[] | flatten", []),
        ("['a', 'b'] | pick(0)", "a"),
        ("['a', 'b'] | pick(5)", "b"),
        ("['a', 'b'] | pick(-1)", "b"),
        ("range(3) | pick(4)", 1),
    ],
)
def test_flatten_and_pick(expression: str, expected: Any) -> None:
    data = [[1, [2, [3]]], 4, [], {"a": [5]}, None, "six"]
    assert (
        value(
            f"{{{{ {expression.replace('x', 'outline', 1) if expression[0] == 'x' else expression} }}}}", outline=data
        )
        == expected
    )


@pytest.mark.parametrize(
    ("expression", "reported"),
    [
        ("'text' | flatten", "`flatten` works on a list, and this is text"),
        ("{'a': 1} | flatten", "this is a mapping"),
        ("[1] | flatten(-1)", "a whole number from 0"),
        ("[1] | flatten('1')", "a whole number from 0"),
        ("[] | pick(0)", "an item of an empty list"),
        ("'text' | pick(0)", "`pick` works on a list"),
        ("[1] | pick('0')", "a whole number, and this is text"),
        ("[[1], [2]] | sum(start=[])", "`sum` adds numbers"),
    ],
)
def test_what_they_refuse(expression: str, reported: str) -> None:
    assert reported in failure(f"{{{{ {expression} }}}}").message


def test_sum_of_lists_names_the_filter_that_does_it() -> None:
    assert "flatten" in failure("{{ [[1], [2]] | sum(start=[]) }}").hint


def test_a_list_that_holds_itself_many_times_is_not_flattened_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_limits, "OPERATIONS", 50_000)
    shared: list[Any] = [1]
    for _ in range(60):
        shared = [shared, shared]
    with pytest.raises(TemplateFailed, match="too much work"):
        value("{{ outline | flatten | length }}", outline=shared)
