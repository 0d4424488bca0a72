"""`foreach` and what belongs to it: where items come from, what templates call them, what is looked at of a step."""

from __future__ import annotations

import pytest

from flowllm.core.types import Part, Tolerance
from flowllm.datasets.files import BY_ENDING
from flowllm.language.steps import ENDINGS
from flowllm.language.template import ValueTemplate
from flowllm.language.workflow import DataFile, Foreach, PythonBody, Step
from tests.support.workflows import problems, workflow

TOP = """
defaults: {model: m}
inputs: {list: [1, 2], n: 3}
secrets: [TOKEN]
steps:
  other: {value: [1]}
"""
VALUES = {"inputs": {"list": [1, 2], "n": 3}, "steps": {}}


def step(body: str) -> Step:
    return workflow(f"{TOP}  a: {body}\n").steps["a"]


def foreach(text: str) -> Foreach:
    found = step(f"{{value: x, {text}}}").foreach
    assert found is not None
    return found


def problem(body: str) -> str:
    found = problems(f"{TOP}  a: {body}\n")
    assert len(found) == 1, found
    return f"{found[0].message} ({found[0].hint})"


def test_a_step_without_foreach_has_none() -> None:
    assert step("{value: 1}").foreach is None
    assert step("{value: 1}").save is None


@pytest.mark.parametrize(
    ("written", "items"),
    [('"{{ inputs.list }}"', [1, 2]), ("[a, 2, {b: 3}]", ["a", 2, {"b": 3}]), ('["{{ inputs.n }}"]', [3]), ("[]", [])],
)  # fmt: skip
def test_items_are_an_expression_or_a_list(written: str, items: list[object]) -> None:
    found = foreach(f"foreach: {written}")
    assert found.items is not None
    assert (found.file, found.matrix, found.name, found.accept) == (None, None, "item", None)
    assert found.items.render(VALUES) == items


def test_a_file_is_relative_to_the_one_in_which_it_is_named() -> None:
    found = foreach('foreach: {file: "{{ inputs.n }}.csv", format: csv, delimiter: ";", limit: 5}').file
    assert found is not None
    assert found.path.text(VALUES) == "3.csv"
    assert (found.folder, found.format, found.delimiter, found.limit) == ("/flows", "csv", ";", 5)


def test_standard_input_and_templates_need_no_ending() -> None:
    for path in ('"-"', '"{{ inputs.n }}"'):
        found = foreach(f"foreach: {{file: {path}}}").file
        assert found is not None
        assert found.format is None


def test_the_endings_are_those_that_can_be_read() -> None:
    assert ENDINGS == BY_ENDING


def test_a_matrix_has_lists_and_files_in_their_order() -> None:
    matrix = foreach('foreach: {matrix: {row: {file: r.jsonl}, lang: "{{ inputs.list }}", n: [1]}}').matrix
    assert matrix is not None
    assert list(matrix) == ["row", "lang", "n"]
    assert isinstance(matrix["row"], DataFile)
    assert isinstance(matrix["lang"], ValueTemplate)
    assert matrix["lang"].render(VALUES) == [1, 2]


def test_the_options_of_a_foreach() -> None:
    found = foreach(
        "foreach: [1], as: row, max_concurrent: 3, on_error: continue, max_failed: 5%, "
        'accept: {when: "{{ output > 1 and row and index and accepted }}", count: "{{ inputs.n }}", overshoot: 1.5}'
    )
    assert (found.name, found.max_concurrent, found.max_failed, found.max_failed_share) == ("row", 3, None, 0.05)
    accept = found.accept
    assert accept is not None
    assert (accept.count.render(VALUES), accept.overshoot, accept.ordered) == (3, 1.5, True)


def test_accept_alone_asks_in_no_order_and_none_in_vain() -> None:
    accept = foreach('foreach: [1], accept: {when: "{{ output > 1 }}", count: 2}').accept
    assert accept is not None
    assert (accept.count.render({}), accept.overshoot, accept.ordered) == (2, 1.0, False)


def test_a_number_of_failures_is_no_share() -> None:
    found = foreach("foreach: [1], on_error: continue, max_failed: 0")
    assert (found.max_failed, found.max_failed_share) == (0, None)


@pytest.mark.parametrize(
    "body",
    [
        '{foreach: [1], prompt: "{{ item }} {{ index }}"}',
        '{foreach: [1], as: row, prompt: "{{ row.id }} {{ index }}"}',
        '{foreach: [1], as: one, prompt: x, system: "{{ one }}", when: "{{ one > 0 }}", model: "{{ one }}"}',
        '{foreach: [1], as: one, prompt: x, sample: "{{ index }}", max_tokens: "{{ one }}", images: ["{{ one }}"]}',
        '{foreach: [1], messages: [{role: user, content: "{{ item }}"}]}',
        '{foreach: [1], value: {a: ["{{ item }}"]}, save: "{{ index }}{{ item }}{{ output }}"}',
        '{foreach: [1], python: "json:dumps", with: {obj: "{{ item }}"}}',
        '{foreach: [1], embed: "{{ item }}", model: m, dimensions: "{{ index }}"}',
        '{foreach: [1], shell: ls, stdin: "{{ item }}", env: {A: "{{ index }}{{ secrets.TOKEN }}"}}',
        '{foreach: [1], http: {url: "https://{{ item }}", headers: {A: "{{ item }}"}, query: {a: "{{ item }}"}, body: "{{ item }}"}}',
        '{foreach: [1], workflow: {inputs: {x: }, steps: {v: {value: "{{ inputs.x }}"}}}, with: {x: "{{ item }}"}}',
        '{foreach: [1], accept: {when: "{{ item and index and output and accepted }}", count: 1}, value: 1}',
        '{value: 1, save: "{{ output }}.md"}',
    ],
)  # fmt: skip
def test_where_the_names_of_an_item_are_known(body: str) -> None:
    assert problems(f"{TOP}  a: {body}\n") == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{value: "{{ item }}"}', "`item` is only known in a step that has `foreach`"),
        ('{foreach: "{{ item }}", value: 1}', "`item` is only known in a step that has `foreach`"),
        ('{foreach: {file: "{{ index }}.csv"}, value: 1}', "`index` is only known in a step that has `foreach`"),
        ('{foreach: [1], as: row, value: "{{ item }}"}', "`as` calls it `row` here"),
        ('{foreach: [1], value: "{{ row }}"}', "write `as: row`|`as: row` names the item so"),
        ('{foreach: [1], value: "{{ output }}"}', "`output` is only known in `accept.when` and `save`"),
        ('{foreach: [1], value: 1, save: "{{ accepted }}"}', "`accepted` is only known in `accept.when`"),
        ('{foreach: [1], value: "{% set item = 1 %}{{ item }}"}', "`item` has a meaning of its own"),
        ("{foreach: [1], as: other, value: 1}", "`other` is the id of a step"),
        ('{foreach: "{{ inputs.list }}s", value: 1}', "is not a list of items"),
        ("{foreach: , value: 1}", "nothing is not a list of items"),
        ("{foreach: {file: x.csv, matrix: {a: [1]}}, value: 1}", "unknown key `matrix` in `foreach`"),
        ("{foreach: {files: x/*.md, format: csv}, value: 1}", "unknown key `format` in `foreach`"),
        ('{foreach: {files: "{{ index }}/*"}, value: 1}', "`index` is only known in a step that has `foreach`"),
        ("{foreach: {matrix: {}}, value: 1}", "`matrix` is a mapping of names to lists"),
        ("{foreach: [1], max_failed: 3, value: 1}", "`max_failed` needs `on_error: continue`"),
        ("{foreach: [1], on_error: continue, max_failed: 101%, value: 1}", "more than 100%"),
        ("{foreach: [1], on_error: continue, max_failed: -1, value: 1}", "too small"),
    ],
)  # fmt: skip
def test_what_is_invalid_is_reported(body: str, message: str) -> None:
    assert any(part in problem(body) for part in message.split("|"))


def test_max_failed_is_right_where_the_defaults_say_continue() -> None:
    text = "defaults: {model: m, on_error: continue}\nsteps:\n  a: {foreach: [1], max_failed: 3, prompt: x}\n"
    assert problems(text) == []


# --- what is looked at of other steps ---------------------------------------------------------------------

OUTPUT, ROWS, RECORD = frozenset({Part.OUTPUT}), frozenset({Part.ROWS}), frozenset({Part.RECORD})


@pytest.mark.parametrize(
    ("body", "uses"),
    [
        ('{value: "{{ other }}"}', OUTPUT),
        ('{value: "{{ other[0].a }}"}', OUTPUT),
        ('{value: "{{ steps.other.rows[0].item }}"}', ROWS),
        ('{value: "{{ steps.other.counts.total }}{{ steps.other.status }}"}', RECORD),
        ('{value: ["{{ steps.other.rows }}", "{{ steps.other.model }}"], when: "{{ other is defined }}"}', OUTPUT | ROWS | RECORD),
        ('{value: 1, foreach: "{{ other | list }}"}', OUTPUT),
        ('{value: 1, foreach: ["{{ other }}"]}', OUTPUT),
        ('{value: 1, foreach: {matrix: {a: "{{ other }}"}}}', OUTPUT),
        ('{python: "json:dumps", with: {obj: ["{{ other }}"]}}', OUTPUT),
        ('{python: "json:dumps", with: {obj: "{{ other }}", sep: "{{ other | length }}"}}', OUTPUT),
        # gone through, never held
        ('{value: 1, foreach: "{{ other }}"}', None),
        ('{python: "json:dumps", with: {obj: "{{ other }}"}}', None),
        ("{value: 1, needs: [other]}", None),
    ],
)  # fmt: skip
def test_what_templates_look_at(body: str, uses: frozenset[Part] | None) -> None:
    found = step(body)
    assert found.edges["other"] is not None
    assert found.uses == ({} if uses is None else {"other": uses})


def test_a_foreach_waits_for_what_its_source_names() -> None:
    assert step('{value: 1, foreach: "{{ other }}"}').edges == {"other": Tolerance.REQUIRED}
    assert step('{value: 1, foreach: {file: "{{ other }}.csv"}}').edges == {"other": Tolerance.REQUIRED}
    assert step('{value: 1, foreach: "{{ other | default([]) }}"}').edges == {"other": Tolerance.OPTIONAL}


@pytest.mark.parametrize("body", ['{value: 1, foreach: "{{ a }}"}', '{value: 1, foreach: ["{{ a.b }}"]}'])
def test_a_foreach_cannot_go_through_its_own_output(body: str) -> None:
    assert "refers to its own output" in problem(body)


def test_a_whole_output_is_known_as_one() -> None:
    body = step('{python: "json:dumps", with: {obj: "{{ other }}", n: "{{ other[0] }}"}}').body
    assert isinstance(body, PythonBody)
    assert body.arguments is not None
    assert [leaf.bare for leaf in body.arguments.tree.values()] == ["other", None]
