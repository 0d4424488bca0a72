"""What is certain to fail when it is rendered is a problem to `validate`, and a warning to a run."""

from __future__ import annotations

import pytest

from tests.support.workflows import problems, workflow

CLOSED = (
    "{type: object, properties: {happy: {type: boolean}, why: {type: string}, of: {type: array, items: {type: object, \
properties: {n: {type: integer}}, additionalProperties: false}}}, additionalProperties: false}"
)
TOP = f"""
defaults: {{provider: simulated, model: m}}
inputs: {{topic: tea, n: {{type: integer, default: 1}}, yes: {{type: boolean, default: true}}, rows: {{type: array, default: []}}}}
steps:
  text: {{prompt: hi}}
  some: {{prompt: hi, samples: 2}}
  each: {{prompt: "{{{{ item }}}}", foreach: [1, 2]}}
  closed: {{prompt: hi, output: {CLOSED}}}
  open: {{prompt: hi, output: {{type: object, properties: {{score: {{type: integer}}, tags: {{type: array}}}}}}}}
  flag: {{prompt: hi, output: {{type: boolean}}}}
  any: {{prompt: hi, output: json}}
  out: {{shell: ls}}
  web: {{http: {{url: "https://example.com"}}}}
  sub: {{workflow: {{steps: {{x: {{value: 1}}}}, outputs: {{title: "{{{{ x }}}}"}}}}}}
  made: {{value: "a {{{{ text }}}}"}}
  calc: {{value: "{{{{ text }}}}"}}
  list: {{prompt: hi, output: {{type: array, items: {{$ref: "#/$defs/r"}}, $defs: {{r: {CLOSED}}}}}}}
"""


def reported(step: str) -> list[tuple[str, str]]:
    return [(one.message, one.hint) for one in problems(f"{TOP}  it: {step}\n", strict=True)]


def warned(step: str) -> list[str]:
    return [one.message for one in workflow(f"{TOP}  it: {step}\n").warnings]


def in_template(expression: str) -> str:
    return f'{{value: "x {{{{ {expression} }}}}"}}'


@pytest.mark.parametrize(
    ("expression", "message", "hint"),
    [
        *(
            (f"text.{key}", f"`text` is text, which has no key `{key}`", "write {{ text }}")
            for key in ("output", "text", "content")
        ),
        ("text['output']", "`text` is text, which has no key `output`", "write {{ text }}"),
        ("text.score", "`text` is text, which has no key `score`", "`output` schema"),
        ("out.stdout", "`out` is text", ""),
        ("made.x", "`made` is text", ""),
        ("closed.hapy", "`closed` has no key `hapy`", "did you mean `happy`?"),
        ("closed.zzz", "`closed` has no key `zzz`", "there is `happy`"),
        ("closed.why.x", "`closed.why` is text", ""),
        ("closed.happy.x", "`closed.happy` is true or false, which has no key `x`", ""),
        ("closed.of.n", "`closed.of` is a list, which has no key `n`", "map(attribute='n')"),
        ("closed.of[0].m", "`closed.of[0]` has no key `m`", "`n`"),
        ("closed.output", "`closed` has no key `output`", "write {{ closed }}"),
        ("open.score.x", "`open.score` is a number", ""),
        ("web.text", "`web` has no key `text`", ""),
        ("web.status.x", "`web.status` is a number", ""),
        ("sub.titel", "`sub` has no key `titel`", "did you mean `title`?"),
        ("some.x", "`some` is a list", ""),
        ("some[0].x", "`some[0]` is text", ""),
        ("each.x", "`each` is a list", ""),
        ("list[0].of[1].q", "`list[0].of[1]` has no key `q`", ""),
        ("inputs.topic.x", "`inputs.topic` is text", ""),
        ("inputs.n.x", "`inputs.n` is a number", ""),
        ("inputs.rows.x", "`inputs.rows` is a list", ""),
        ("text.x | upper ~ text", "`text` is text", ""),
    ],
)
def test_a_key_that_cannot_be_there(expression: str, message: str, hint: str) -> None:
    ((found, reported_hint),) = reported(in_template(expression))
    assert message in found
    assert hint in reported_hint
    assert warned(in_template(expression)) == [found], "a run says it and goes on"


@pytest.mark.parametrize(
    "expression",
    [
        "text.upper()",
        "text[0]",
        "text[:3]",
        "text.x | default('')",
        "text.x if text is mapping else text",
        "text is mapping and text.x",
        "text.x is defined",
        "any.x",
        "calc.x",
        "calc.output",
        "closed.happy",
        "closed.get('zzz')",
        "closed.items() | list",
        "closed[inputs.topic]",
        "closed.of[0].n",
        "closed.of[1:].foo",
        "closed.of | map(attribute='n') | list",
        "open.score",
        "open.elsewhere",
        "open.tags[0].x.y",
        "web.body.x",
        "web.headers.x",
        "sub.title.x",
        "steps.text.status",
        "list[0].why",
        "inputs.rows[0].x",
        "each | map('upper') | join",
    ],
)
def test_a_key_that_may_be_there(expression: str) -> None:
    assert reported(in_template(expression)) == []
    assert warned(in_template(expression)) == []


@pytest.mark.parametrize(
    "expression", ["open.scor", "open.output", "text.x if inputs.yes else 1", "inputs.yes and text.x"]
)
def test_what_is_likely_and_not_certain_is_a_warning(expression: str) -> None:
    assert reported(in_template(expression)) == []
    assert len(warned(in_template(expression))) == 1


def test_items_and_what_comes_of_them_are_known_too() -> None:
    assert reported('{foreach: "{{ list }}", value: "x {{ item.whi }}"}')[0][0] == "`item` has no key `whi`"
    assert reported('{foreach: "{{ list }}", as: row, value: "x {{ row.why }}"}') == []
    assert reported('{foreach: [1, 2], prompt: "{{ item }}", save: "{{ output.x }}.txt"}')[0][0].startswith(
        "`output` is text"
    )


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("text", "text"),
        ("inputs.topic", "text"),
        ("inputs.n", "a number"),
        ("'yes'", "text"),
        ("1", "a number"),
        ("[]", "a list"),
        ("{}", "a mapping"),
        ("text ~ 'x'", "text"),
        ("inputs.n - 1", "a number"),
        ("text | lower", "text"),
        ("each | length", "a number"),
        ("each | select('eq', 'x') | list", "a list"),
        ("closed.why", "text"),
        ("closed", "a mapping"),
        ("open.score", "a number"),
        ("'a' or 'b'", "text"),
        ("'a' if inputs.yes else 'b'", "text"),
    ],
)
def test_a_condition_that_is_none(expression: str, kind: str) -> None:
    step = f'{{value: 1, when: "{{{{ {expression} }}}}"}}'
    assert [one for one, _ in reported(step)] == [f"`when` must give true or false, and this is {kind}"]
    assert len(warned(step)) == 1
    accepting = f'{{foreach: [1, 2], value: 1, accept: {{count: 1, when: "{{{{ {expression} }}}}"}}}}'
    assert [one for one, _ in reported(accepting)] == [f"`accept.when` must give true or false, and this is {kind}"]


@pytest.mark.parametrize(
    "expression",
    [
        "flag",
        "inputs.yes",
        "true",
        "text == 'yes'",
        "closed.happy",
        "any",
        "any.x",
        "calc",
        "text in ['a']",
        "not text",
        "text is string",
        "inputs.yes and flag",
        "inputs.yes or text",
        "text | default(true)",
        "sub.title",
        "text.startswith('a')",
    ],
)
def test_a_condition_that_may_be_one(expression: str) -> None:
    assert reported(f'{{value: 1, when: "{{{{ {expression} }}}}"}}') == []


@pytest.mark.parametrize(
    ("expression", "kind"), [("text", "text"), ("closed", "a mapping"), ("inputs.n", "a number"), ("3", "a number")]
)
def test_a_foreach_over_what_is_no_list(expression: str, kind: str) -> None:
    found = reported(f'{{foreach: "{{{{ {expression} }}}}", value: 1}}')
    assert [one for one, _ in found] == [f"`foreach` wants a list, and this is {kind}"]
    assert reported('{foreach: "{{ some }}", value: "{{ item }}"}') == []


def test_the_record_of_a_step_has_no_output() -> None:
    ((message, hint),) = reported(in_template("steps.text.output"))
    assert (message, hint) == (
        "unknown field `output` of `steps.text`",
        "the output of a step goes by its id: {{ text }}",
    )


def test_outputs_are_looked_at_too() -> None:
    (found,) = problems(f'{TOP}outputs: {{y: "{{{{ text.output }}}}"}}\n', strict=True)
    assert found.message.startswith("`text` is text")
