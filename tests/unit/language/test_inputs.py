from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowllm.core.errors import InvalidInputs
from flowllm.language.inputs import parse_inputs, resolve_inputs, row_inputs, with_inputs
from flowllm.language.problems import Problems
from flowllm.language.source import parse_yaml
from flowllm.language.workflow import MISSING, Input, Workflow


def declared(text: str) -> dict[str, Input]:
    problems = Problems()
    inputs = parse_inputs(parse_yaml(text, "f.yaml"), problems)
    problems.check()
    return inputs


def workflow(text: str) -> Workflow:
    return Workflow(name="w", path="/w.yaml", steps={}, inputs=declared(text))


def one(text: str) -> Input:
    return declared(f"x: {text}\n")["x"]


def test_nothing_is_a_required_text() -> None:
    assert one("") == Input(name="x")
    assert one("null") == Input(name="x")
    assert one("").required


@pytest.mark.parametrize(
    ("text", "kind", "default"),
    [
        ("The Evolution", "string", "The Evolution"),
        ("3", "integer", 3),
        ("'3'", "string", "3"),
        ("0.5", "number", 0.5),
        ("true", "boolean", True),
        ("yes", "string", "yes"),
        ("012", "string", "012"),
        ("2026-11-21", "string", "2026-11-21"),
        ("[a, 1]", "array", ["a", 1]),
        ("''", "string", ""),
    ],
)
def test_a_scalar_or_a_list_is_a_default_that_gives_the_type(text: str, kind: str, default: object) -> None:
    assert one(text) == Input(name="x", type=kind, default=default)


def test_a_mapping_is_a_declaration() -> None:
    assert one("{type: integer, default: 2, enum: [1, 2], description: How many}") == Input(
        name="x", type="integer", default=2, enum=(1, 2), description="How many"
    )
    assert one("{}") == Input(name="x")
    assert one("{default: 3}").type == "integer"
    assert one("{type: object}").default is MISSING
    assert one("{type: object, default: {a: no}}").default == {"a": "no"}


def test_text_in_declarations_is_as_written() -> None:
    found = one("{type: string, default: 1.10, enum: [de, no, 1.10, true, 012]}")
    assert found.enum == ("de", "no", "1.10", "true", "012")
    assert found.default == "1.10"
    assert one("{enum: [1.10, no]}").enum == ("1.10", "no")
    assert one("{type: number, enum: [1.10, 2]}").enum == (1.1, 2)


INPUTS = workflow(
    "text:\ncount: 1\nratio: 0.5\nflag: false\nlist: []\nmap: {type: object, default: {}}\n"
    "size: {enum: [s, m], default: s}\nlevel: {type: integer, enum: [1, 2], default: 1}\n"
)


def test_defaults_hold_where_nothing_is_given() -> None:
    assert resolve_inputs(INPUTS, {}, {"text": "t"}) == {
        "text": "t",
        "count": 1,
        "ratio": 0.5,
        "flag": False,
        "list": [],
        "map": {},
        "size": "s",
        "level": 1,
    }


@pytest.mark.parametrize(
    ("name", "given_text", "value"),
    [
        ("text", "012", "012"),
        ("text", "true", "true"),
        ("text", "", ""),
        ("count", "12", 12),
        ("count", "1_000", 1000),
        ("count", " 7 ", 7),
        ("ratio", "2", 2),
        ("ratio", "1e-3", 0.001),
        ("flag", "true", True),
        ("list", '["a", 1]', ["a", 1]),
        ("map", '{"a": null}', {"a": None}),
        ("size", "m", "m"),
        ("level", "2", 2),
    ],
)
def test_text_is_converted_to_the_inputs_type(name: str, given_text: str, value: object) -> None:
    found = resolve_inputs(INPUTS, {}, {"text": "t", name: given_text})[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "given_text"),
    [
        *(("count", text) for text in ("1.5", "many", "", "true", "012", "null")),
        *(("ratio", text) for text in ("x", "nan", "inf", "true")),
        *(("flag", text) for text in ("yes", "1", "True", "")),
        *(("list", text) for text in ("a,b", "{}", "[NaN]", "[" * 100_000)),
        ("map", "[]"),
        ("size", "l"),
        ("level", "3"),
    ],
)
def test_text_that_does_not_fit_is_refused(name: str, given_text: str) -> None:
    with pytest.raises(InvalidInputs, match=f"input `{name}`: ") as caught:
        resolve_inputs(INPUTS, {}, {"text": "t", name: given_text})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("text", value) for value in (1, None, True, ["x"])),
        *(("count", value) for value in ("1", 1.5, True, None)),
        *(("ratio", value) for value in ("0.5", math.nan, math.inf, False)),
        *(("flag", value) for value in ("true", 1, None)),
        ("list", {}),
        ("map", []),
        ("level", True),
        ("level", "1"),
    ],
)
def test_typed_values_are_checked_not_converted(name: str, value: object) -> None:
    with pytest.raises(InvalidInputs, match=f"input `{name}`"):
        resolve_inputs(INPUTS, {"text": "t", name: value})


def test_a_whole_number_is_a_number() -> None:
    assert resolve_inputs(INPUTS, {"text": "t", "ratio": 2})["ratio"] == 2


def test_null_is_accepted_where_it_is_the_default() -> None:
    nullable = Workflow(name="w", path="/w", steps={}, inputs={"x": Input(name="x", type="integer", default=None)})
    assert resolve_inputs(nullable, {"x": None}) == {"x": None}
    assert resolve_inputs(nullable, {}, {"x": "null"}) == {"x": None}


def test_all_errors_are_reported_at_once() -> None:
    with pytest.raises(InvalidInputs) as caught:
        resolve_inputs(INPUTS, {}, {"count": "x", "sise": "m"})
    message = str(caught.value)
    assert "unknown input `sise`: did you mean `size`?" in message
    assert "input `count`: expected a whole number" in message
    assert "input `text` is missing" in message
    assert caught.value.exit_code == 2


@given(st.dictionaries(st.sampled_from([*INPUTS.inputs, "other"]), st.text(max_size=20)))
def test_any_text_is_converted_or_refused(given_texts: dict[str, str]) -> None:
    try:
        values = resolve_inputs(INPUTS, {}, given_texts)
    except InvalidInputs:
        return
    assert list(values) == list(INPUTS.inputs)
    assert isinstance(values["count"], int)


ROWS = "topic: {description: What about}\nn: {type: integer, default: 2}\nkeys: {type: array, default: []}"


def test_a_row_gives_inputs_by_name_and_its_texts_are_converted() -> None:
    row = {"topic": "12", "n": "3", "keys": '["a"]', "other": 1, "_error": "x", "_node": "row[1]"}
    assert row_inputs(declared(ROWS), row) == {"topic": "12", "n": 3, "keys": ["a"]}
    assert row_inputs(declared(ROWS), {"topic": "t", "keys": [1]}) == {"topic": "t", "n": 2, "keys": [1]}


def test_a_row_that_is_no_mapping_is_the_one_input_that_is_needed() -> None:
    assert row_inputs(declared(ROWS), "tea") == {"topic": "tea", "n": 2, "keys": []}
    assert row_inputs(declared("n: {type: integer, default: 1}"), "7") == {"n": 7}
    for text in ("a:\nb:", "a: 1\nb: 2"):
        with pytest.raises(InvalidInputs, match="names no input"):
            row_inputs(declared(text), "tea")
    with pytest.raises(InvalidInputs, match="no input at all"):
        row_inputs({}, "tea")


def test_what_a_row_lacks_is_reported_with_the_nearest_column() -> None:
    with pytest.raises(InvalidInputs) as caught:
        row_inputs(declared("topic: {description: What about}\ntone: "), {"topics": "x"})
    assert "input `topic` is missing (What about); input `tone` is missing" in str(caught.value)
    assert "did you mean `topics`?" in str(caught.value)
    with pytest.raises(InvalidInputs, match="input `n`"):
        row_inputs(declared(ROWS), {"topic": "x", "n": "many"})


def test_with_knows_its_inputs() -> None:
    assert with_inputs(declared(ROWS), {"topic": "x", "n": "4"}) == {"topic": "x", "n": 4, "keys": []}
    with pytest.raises(InvalidInputs, match="unknown input `topics`: did you mean `topic`"):
        with_inputs(declared(ROWS), {"topics": "x"})
    with pytest.raises(InvalidInputs, match="input `topic` is missing"):
        with_inputs(declared(ROWS), {"n": 1})
    with pytest.raises(InvalidInputs, match="`with` must give a mapping"):
        with_inputs(declared(ROWS), [1])  # type: ignore[arg-type]
