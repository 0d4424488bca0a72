"""The language: names, and the dependencies that they make."""

from __future__ import annotations

import re

import pytest

from tests.support.author import Author

RESERVED = [
    *("inputs", "steps", "secrets", "item", "index", "row", "run", "output", "accepted", "loop", "self"),
    *("and", "or", "not", "in", "is", "if", "else", "elif", "for", "set", "macro", "import", "include", "with"),
    *("call", "filter", "raw", "block", "extends", "endif", "endfor", "endset", "true", "false", "none"),
    *("range", "dict", "lipsum", "cycler", "joiner", "namespace", "zip", "product"),
]


def test_inputs_outputs_and_records_have_their_names(author: Author) -> None:
    found = author.outputs("""
        inputs: {topic: tea}
        defaults: {model: test-model}
        steps:
          headline: {prompt: "[text=On {{ inputs.topic }}] write"}
          seen:
            value:
              text: "{{ headline }}"
              tokens: "{{ steps.headline.usage.output_tokens }}"
              record: "{{ [steps.headline.status, steps.headline.error, steps.headline.cached] }}"
              model: "{{ steps.headline.model }}"
              cost: "{{ steps.headline.cost_usd }}"
              none_yet: "{{ [steps.headline.rows, steps.headline.counts] }}"
        outputs: {seen: "{{ seen }}"}
        """)["seen"]
    assert found == {
        "text": "On tea",
        "tokens": 1,
        "record": ["succeeded", None, False],
        "model": "test-model",
        "cost": None,
        "none_yet": [None, None],
    }


def test_a_run_has_an_id_a_date_and_a_start(author: Author) -> None:
    result = author.run('steps: {it: {value: ["{{ run.id }}", "{{ run.date }}", "{{ run.started_at }}"]}}')
    run_id, date, started = result.steps["it"].output
    assert run_id == result.run_id
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", date)
    assert started.startswith(f"{date}T")


@pytest.mark.parametrize("word", RESERVED)
def test_reserved_words_are_no_ids(author: Author, word: str) -> None:
    problem = author.problem(f"steps:\n  {word}: {{value: 1}}\n")
    assert (problem.line, problem.column) == (2, 3)
    assert problem.message.startswith(f"`{word}` is reserved")


@pytest.mark.parametrize("word", ["Step", "2a", "a-b", "a.b", "é", "a b", "A"])
def test_ids_are_small_letters_digits_and_underscores(author: Author, word: str) -> None:
    assert f"`{word}` cannot be the id" in author.problem(f"steps:\n  {word}: {{value: 1}}\n").message


@pytest.mark.parametrize("word", ["on", "no", "y", "_", "a1", "items", "name", "prompt", "slug", "value", "needs"])
def test_everything_else_is_one_and_can_be_referred_to(author: Author, word: str) -> None:
    flow = f'steps:\n  {word}: {{value: 7}}\n  z9: {{value: "{{{{ {word} + 1 }}}}"}}\noutputs: {{o: "{{{{ z9 }}}}"}}'
    assert author.outputs(flow) == {"o": 8}


@pytest.mark.parametrize(
    "template",
    [
        "{% set other = 1 %}",
        "{% for other in [1] %}{% endfor %}",
        "{% macro m(other) %}{% endmacro %}",
        "{% macro other() %}{% endmacro %}",
    ],
)
def test_templates_cannot_take_a_steps_id(author: Author, template: str) -> None:
    problem = author.problem(f'steps:\n  other: {{value: 1}}\n  it: {{value: "{template}"}}\n')
    assert problem.line == 3
    assert "`other` is the id of a step" in problem.message


@pytest.mark.parametrize("expression", ["steps", "steps[inputs.x]", "steps[inputs.x].status", "steps.items()"])
def test_steps_as_a_whole_or_by_a_computed_name_are_errors(author: Author, expression: str) -> None:
    problem = author.problem(
        f'inputs: {{x: it}}\nsteps:\n  a: {{value: 1}}\n  it: {{value: "{{{{ {expression} }}}}"}}\n'
    )
    assert (problem.line, problem.column >= 19) == (4, True)
    assert "steps" in problem.message or "unknown step" in problem.message


@pytest.mark.parametrize(
    ("flow", "place", "message", "hint"),
    [
        ("nam: x\nsteps: {a: {value: 1}}", (1, 1), "unknown key `nam`", "`name`"),
        ("steps:\n  a: {prompt: hi, model: m, temprature: 1}", (2, 29), "unknown key `temprature`", "`temperature`"),
        ("steps:\n  a: {promt: hi}", (2, 7), "unknown key `promt`", "`prompt`"),
        ("steps:\n  a:\n    value: 1\n    retry: {max_atempts: 2}", (4, 13), "unknown key `max_atempts`", "`max_attempts`"),
        ("defaults: {max_token: 1}\nsteps: {a: {value: 1}}", (1, 12), "unknown key `max_token`", "`max_tokens`"),
        ("limits: {requests_per_min: 1}\nsteps: {a: {value: 1}}", (1, 10), "unknown key `requests_per_min`", "minute`"),
        ("providers: {p: {type: openai, base_ulr: x}}\nsteps: {a: {value: 1}}", (1, 31), "unknown key", "`base_url`"),
        ("inputs: {x: {tpye: string}}\nsteps: {a: {value: 1}}", (1, 14), "unknown key `tpye`", "`type`"),
        ('steps:\n  a: {value: 1}\n  b: {value: "x {{ aa }}"}', (3, 20), "unknown name `aa`", ""),
        ('inputs: {topic: x}\nsteps: {b: {value: "{{ inputs.topik }}"}}', (2, 31), "unknown input `topik`", "`topic`"),
        ("inputs: {topic: x}\nsteps: {b: {prompt: '{{ topic }}', model: m}}", (2, 25), "unknown name `topic`", "`inputs.topic`"),
        ('steps:\n  a: {value: 1}\n  b: {value: "{{ steps.a.statu }}"}', (3, 26), "unknown field `statu`", "`status`"),
        ('steps:\n  a: {value: 1}\n  b: {value: "{{ steps.a.usage.foo }}"}', (3, 32), "unknown field `foo` of `steps.a.usage`", "tokens"),
        ('steps: {a: {value: 1}}\noutputs: {o: "{{ aa }}"}', (2, 18), "unknown name `aa`", ""),
        ("steps:\n  alpha: {value: 1}\n  b: {value: 1, needs: [alhpa]}", (3, 25), "no step `alhpa`", "`alpha`"),
        ("steps:\n  b:\n    value: |\n      one\n      two {{ run.dat }}", (5, 18), "unknown field `dat`", "`date`"),
    ],
)  # fmt: skip
def test_an_unknown_name_or_key_has_its_place_and_the_nearest_that_exists(
    author: Author, flow: str, place: tuple[int, int], message: str, hint: str
) -> None:
    problem = author.problem(flow)
    assert (problem.line, problem.column) == place
    assert message in problem.message
    assert hint in problem.hint


def test_an_unknown_key_of_an_answer_has_its_place_too(author: Author) -> None:
    error = author.error("steps:\n  a: {value: {name: x}}\n  it:\n    value: '{{ a.nmae }}'")
    assert error["type"] == "TemplateFailed"
    assert "flow.yaml:4:18: the mapping has no key `nmae`; did you mean `name`?" in error["message"]


FAILS = 'fails: {value: "{{ 1 / 0 }}"}'


@pytest.mark.parametrize(
    ("template", "depends"),
    [
        ("{{ fails }}", True),
        ("{{ inputs.none_of[fails] }}", True),
        ("{% if false %}{{ fails }}{% endif %}", True),
        ("{% for x in [] %}{{ fails }}{% endfor %}", True),
        ("{% macro m(y) %}{{ fails }}{% endmacro %}", True),
        ("{{ [1] | map('default', fails) | list }}", True),
        ("{{ steps.fails.model }}", True),
        ("fails", False),
        ("{{ 'fails' }}", False),
        ("{{ inputs.fails }}", False),
        ("{{ {'fails': 1}.fails }}", False),
        ("{% raw %}{{ fails }}{% endraw %}", False),
        ("{# {{ fails }} #}", False),
    ],
)
def test_dependencies_are_read_from_the_syntax_tree(author: Author, template: str, *, depends: bool) -> None:
    flow = f'inputs: {{fails: 1, none_of: [1]}}\nsteps:\n  {FAILS}\n  it: {{value: "{template}"}}\n'
    assert author.steps(flow)["it"] == ("blocked" if depends else "succeeded")


@pytest.mark.parametrize(
    "key", ["system", "model", "provider", "sample", "when", "stop", "max_tokens", "params", "fallback"]
)
def test_every_template_of_a_step_makes_dependencies(author: Author, key: str) -> None:
    value = {"params": '{user: "{{ fails }}"}', "fallback": '["{{ fails }}"]'}.get(key, '"{{ fails }}"')
    model = "" if key == "model" else "model: m, "
    flow = f"steps:\n  {FAILS}\n  it: {{prompt: hi, {model}{key}: {value}}}\n"
    assert author.steps(flow) == {"fails": "failed", "it": "blocked"}
    assert author.server.requests == []


def test_needs_makes_a_step_wait(author: Author) -> None:
    flow = """
        defaults: {model: test-model}
        steps:
          second: {prompt: second, needs: [first]}
          first: {prompt: "[sleep=0.1] first"}
        """
    first, second = author.sent(flow)
    assert (first.prompt, second.prompt) == ("[sleep=0.1] first", "second")
    assert first.finished is not None
    assert first.finished <= second.arrived


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("{value: 1}", "succeeded"),
        ('{value: 1, when: "{{ false }}"}', "skipped"),
        ('{value: "{{ 1 / 0 }}"}', "blocked"),
        ('{value: "{{ 1 / 0 }}", on_error: continue}', "skipped"),
    ],
)
def test_an_edge_of_needs_is_as_strict_as_a_reference(author: Author, first: str, second: str) -> None:
    assert author.steps(f"steps:\n  first: {first}\n  it: {{value: 1, needs: [first]}}\n")["it"] == second


@pytest.mark.parametrize(
    ("first", "template", "output"),
    [
        ('{value: 1, when: "{{ false }}"}', "{{ first | default('none') }}", "none"),
        ('{value: 1, when: "{{ false }}"}', "{{ first is defined }}", False),
        ('{value: "{{ 1 / 0 }}"}', "{{ steps.first.status }}", "failed"),
    ],
)
def test_needs_takes_nothing_from_a_reference_that_tolerates(
    author: Author, first: str, template: str, output: object
) -> None:
    """`needs` adds an edge that no reference shows, nothing else."""
    result = author.run(f'steps:\n  first: {first}\n  it: {{value: "{template}", needs: [first]}}\n')
    assert (result.steps["it"].status, result.steps["it"].output) == ("succeeded", output)


def test_steps_that_wait_for_each_other_are_told_with_their_way(author: Author) -> None:
    problem = author.problem('steps:\n  a: {value: "{{ b }}"}\n  b: {value: 1, needs: [c]}\n  c: {value: "{{ a }}"}\n')
    assert all(step in problem.message for step in ("a (line 2)", "b (line 3)", "c (line 4)"))
