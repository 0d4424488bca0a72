"""The language: inputs and secrets."""

from __future__ import annotations

import pytest

from flowllm.core.errors import InvalidInputs, UsageError
from flowllm.core.types import Json
from tests.support.author import Author

SHOW = 'steps: {it: {value: "{{ inputs }}"}}\noutputs: {o: "{{ it }}"}'


@pytest.mark.parametrize(
    ("written", "default"),
    [
        ("tea", "tea"),
        ("5", 5),
        ("0.5", 0.5),
        ("true", True),
        ("[a, 1]", ["a", 1]),
        ("''", ""),
        ("no", "no"),
        ("012", "012"),
    ],
)
def test_a_scalar_or_a_list_is_a_default(author: Author, written: str, default: Json) -> None:
    assert author.outputs(f"inputs: {{x: {written}}}\n{SHOW}") == {"o": {"x": default}}


@pytest.mark.parametrize("declared", ["", "{}", "{type: string}", "{description: What for}"])
def test_without_a_default_an_input_is_required_text(author: Author, declared: str) -> None:
    flow = f"inputs:\n  x: {declared}\n{SHOW}"
    with pytest.raises(InvalidInputs, match="input `x` is missing"):
        author.run(flow)
    assert author.outputs(flow, x="tea") == {"o": {"x": "tea"}}
    with pytest.raises(
        InvalidInputs, match=r"expected a text, got 5 \(declare it as `x: {type: integer}` to take such values\)"
    ):
        author.run(flow, x=5)


@pytest.mark.parametrize(
    ("kind", "fits", "not_"),
    [
        ("string", ["", "a"], [1, True, ["a"], None]),
        ("integer", [0, -5], [0.5, "5", True, None]),
        ("number", [0, 0.5], ["5", True, None]),
        ("boolean", [True, False], [0, 1, "true", None]),
        ("array", [[], [1, "a"]], ["[]", {}, None]),
        ("object", [{}, {"a": [1]}], ["{}", [], None]),
    ],
)
def test_the_types_of_inputs(author: Author, kind: str, fits: list[Json], not_: list[Json]) -> None:
    flow = f"inputs: {{x: {{type: {kind}}}}}\n{SHOW}"
    for value in fits:
        assert author.outputs(flow, x=value) == {"o": {"x": value}}
    for value in not_:
        with pytest.raises(InvalidInputs, match="input `x`: expected"):
            author.run(flow, x=value)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("string", "5", "5"),
        ("string", "true", "true"),
        ("string", "[1]", "[1]"),
        ("integer", "5", 5),
        ("number", "5", 5),
        ("number", "0.5", 0.5),
        ("boolean", "false", False),
        ("array", '["a", 1]', ["a", 1]),
        ("object", '{"a": null}', {"a": None}),
    ],
)
def test_text_is_converted_to_the_inputs_type(author: Author, kind: str, text: str, value: Json) -> None:
    flow = f"inputs: {{x: {{type: {kind}}}}}\n{SHOW}"
    assert author.run(flow, texts={"x": text}).outputs == {"o": {"x": value}}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("integer", "five"),
        ("integer", "0.5"),
        ("boolean", "yes"),
        ("boolean", "1"),
        ("array", "a,b"),
        ("object", "[1]"),
    ],
)
def test_text_that_is_none_of_that_type_is_an_error(author: Author, kind: str, text: str) -> None:
    with pytest.raises(InvalidInputs, match="input `x`: expected"):
        author.run(f"inputs: {{x: {{type: {kind}}}}}\n{SHOW}", texts={"x": text})


def test_typed_inputs_beside_texts_are_not_converted(author: Author) -> None:
    flow = f"inputs: {{n: {{type: integer}}, x: }}\n{SHOW}"
    with pytest.raises(InvalidInputs, match="input `n`: expected a whole number"):
        author.run(flow, texts={"x": "a"}, n="5")
    assert author.run(flow, texts={"x": "a"}, n=5).outputs == {"o": {"n": 5, "x": "a"}}


def test_everything_that_is_wrong_with_inputs_is_told_at_once(author: Author) -> None:
    flow = f"inputs: {{size: {{enum: [s, m]}}, count: 1, topic: }}\n{SHOW}"
    with pytest.raises(InvalidInputs) as refused:
        author.run(flow, size="xl", count="many", topci="tea")
    for part in (
        '"xl" is not one of "s", "m"',
        "`count`: expected a whole number",
        "unknown input `topci`",
        "`topic` is missing",
    ):
        assert part in refused.value.message


def test_a_default_that_is_no_choice_is_told_at_its_place(author: Author) -> None:
    problem = author.problem(f"inputs:\n  x: {{default: c, enum: [a, b]}}\n{SHOW}")
    assert (problem.line, problem.column) == (2, 16)


MINE = """
    seen = []

    def use(token, **other):
        seen.append(token)
        return {"length": len(token), "token": token, **other}
    """


def test_a_secret_is_for_python_alone_and_is_stored_as_stars(author: Author) -> None:
    author.write("mine.py", MINE)
    author.environ["API_TOKEN"] = "hush-hush-123"
    flow = """
        secrets: [API_TOKEN]
        steps:
          it: {python: "./mine.py:use", with: {token: "{{ secrets.API_TOKEN }}", url: "x/{{ secrets.API_TOKEN }}"}}
        outputs: {o: "{{ it }}"}
        """
    assert author.outputs(flow) == {"o": {"length": 13, "token": "***", "url": "x/***"}}


@pytest.mark.parametrize(
    "step",
    [
        '{value: "{{ secrets.T }}"}',
        '{prompt: "{{ secrets.T }}", model: m}',
        '{prompt: hi, model: "{{ secrets.T }}"}',
        '{value: 1, when: "{{ secrets.T }}"}',
    ],
)
def test_a_secret_stands_nowhere_else(author: Author, step: str) -> None:
    author.environ["T"] = "hush-hush-123"
    problem = author.problem(f"secrets: [T]\nsteps: {{it: {step}}}")
    assert "secrets cannot be used here" in problem.message


def test_secrets_cannot_be_in_outputs_and_must_be_listed_and_set(author: Author) -> None:
    assert (
        "cannot be used here"
        in author.problem('secrets: [T]\nsteps: {it: {value: 1}}\noutputs: {o: "{{ secrets.T }}"}').message
    )
    author.write("mine.py", MINE)
    flow = 'secrets: [T]\nsteps: {it: {python: "./mine.py:use", with: {token: "{{ secrets.NAME }}"}}}'
    assert "unknown secret `NAME`" in author.problem(flow).message
    with pytest.raises(UsageError, match="secrets that are not set: T"):
        author.run(flow.replace("NAME", "T"))
