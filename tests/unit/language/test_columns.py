"""Which data sets fit a workflow, by their columns."""

from __future__ import annotations

import pytest

from flowllm.core.types import Json
from flowllm.language.inputs import fit_of, row_inputs
from flowllm.language.workflow import Input

INPUTS = {
    "topic": Input(name="topic"),
    "tone": Input(name="tone", default="friendly"),
    "target_group": Input(name="target_group", default="all"),
}


@pytest.mark.parametrize(
    "row",
    [
        {"topic": 1},
        {"topic": 1, "tone": "x", "note": "left alone"},
        {" topic ": 1},
        {"_line": 3, "_text": "bad"},
        {"topic": 1, "_node": "row[1]", "_error": {}},
        {},
        "a text",
        7,
    ],
)
def test_what_fits(row: Json) -> None:
    assert fit_of(INPUTS, (), [row], "d.csv").error == ""
    assert fit_of(INPUTS, (), [], "d.csv").error == ""


@pytest.mark.parametrize(
    ("rows", "error", "hint"),
    [
        ([{"Topic": 1, "x": 2}], "no column of d.csv is an input: it has `Topic` and `x`", "did you mean `Topic`"),
        ([{"subject": 1}], "the workflow has `topic`, `tone` and `target_group`", "rename its columns"),
        (
            [{"tone": 1, "topics": 1}],
            "no row of d.csv has `topic`: it has `tone` and `topics`",
            "did you mean `topics`",
        ),
        ([{"tone": 1}, {"target_group": 1}], "no row of d.csv has `topic`", "add it, or give it with -i"),
        ([{"topic": 1, "Tone": 2}], "the column `Tone` of d.csv is not the input `tone`", "did you mean `tone`"),
        ([{"topic": 1, "Target Group": 2}], "is not the input `target_group`", "Rename the column"),
        ([{"n": 1, "_node": "a[1]", "_error": {}}], "failed items of a foreach", "--mended d.csv"),
    ],
)
def test_what_does_not(rows: list[Json], error: str, hint: str) -> None:
    fit = fit_of(INPUTS, (), rows, "d.csv")
    assert error in fit.error
    assert hint in fit.hint


def test_inputs_that_are_given_are_no_columns_that_are_missing() -> None:
    assert fit_of(INPUTS, ("topic",), [{"tone": "x"}], "d.csv").error == ""
    assert fit_of(INPUTS, ("tone",), [{"topic": 1, "Tone": "x"}], "d.csv").error == ""
    assert "no column" in fit_of(INPUTS, ("topic",), [{"other": "x"}], "d.csv").error
    assert "has no inputs" in fit_of({}, (), [{"other": "x"}], "d.csv").error


def test_a_row_that_lacks_what_others_have_is_its_own_affair() -> None:
    assert fit_of(INPUTS, (), [{"tone": 1}, {"topic": 1}], "d.csv").error == ""


def test_a_name_that_is_nearly_that_of_an_input_is_reported() -> None:
    assert fit_of(INPUTS, (), [{"topic": 1, "tones": 2, "note": 3}], "d.csv").notices == (
        "the column `tones` of d.csv is no input, and is left alone (did you mean `tone`?)",
    )


def test_spaces_around_the_names_of_a_rows_columns_are_left_out() -> None:
    found = row_inputs(INPUTS, {" topic": "x", "tone ": "y", "tone": "z"})
    assert (found["topic"], found["tone"]) == ("x", "z")
