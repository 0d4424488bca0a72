"""The language: optional references, skipped and failed steps, and what they mean for others."""

from __future__ import annotations

import pytest

from tests.support.author import Author

SKIPPED = 'x: {value: {a: {b: 1}}, when: "{{ false }}"}'
FAILED = 'x: {value: "{{ 1 / 0 }}"}'
LET_GO = 'x: {value: "{{ 1 / 0 }}", on_error: continue}'
BLOCKED = 'w: {value: "{{ 1 / 0 }}"}\n  x: {value: "{{ w }}"}'


def _after(author: Author, first: str, template: str) -> tuple[str, object]:
    step = author.run(f'steps:\n  {first}\n  it: {{value: "{template}"}}\n').steps["it"]
    return step.status, step.output


@pytest.mark.parametrize(
    ("template", "output"),
    [
        ("{{ x | default(0) }}", 0),
        ("{{ x.a | default(0) }}", 0),
        ("{{ x.a.b | default(0) }}", 0),
        ("{{ x['a'].b[0] | default(0) }}", 0),
        ("{{ x | d([]) }}", []),
        ("{{ x is defined }}", False),
        ("{{ x.a.b is defined }}", False),
        ("{{ x is not defined }}", True),
        ("{{ x is undefined }}", True),
        ("{{ 'has ' ~ x.a.b if x is defined else 'none' }}", "none"),
        ("{% if x is defined %}{{ x.a }}{% else %}none{% endif %}", "none"),
        ("{{ steps.x.model | default('m') }}", None),
    ],
)
def test_an_optional_reference_tolerates_a_skipped_step(author: Author, template: str, output: object) -> None:
    assert _after(author, SKIPPED, template) == ("succeeded", output)


@pytest.mark.parametrize(
    "template",
    [
        "{{ x }}",
        "{{ x.a.b }}",
        "{{ x or 0 }}",
        "{{ (x | string) | default(0) }}",
        "{{ x if false else 0 }}",
        "{{ steps.x.usage.output_tokens }}",
        "{{ steps.x.cached }}",
    ],
)
def test_any_other_reference_to_a_skipped_step_skips(author: Author, template: str) -> None:
    assert _after(author, SKIPPED, template) == ("skipped", None)


def test_a_default_is_no_stand_in_for_what_is_there(author: Author) -> None:
    assert _after(author, "x: {value: {a: {b: 1}}}", "{{ x.a.b | default(0) }}") == ("succeeded", 1)
    assert _after(author, "x: {value: {a: 1}}", "{{ x.b.c | default(0) }}") == ("succeeded", 0)


@pytest.mark.parametrize(("a", "b", "output"), [("true", "true", "A"), ("false", "true", "B"), ("true", "false", "A")])
def test_both_sides_of_a_default_are_optional(author: Author, a: str, b: str, output: str) -> None:
    flow = f"""
        steps:
          a: {{value: A, when: "{{{{ {a} }}}}"}}
          b: {{value: B, when: "{{{{ {b} }}}}"}}
          it: {{value: "{{{{ a | default(b) }}}}"}}
        """
    result = author.run(flow)
    assert (result.steps["it"].status, result.steps["it"].output) == ("succeeded", output)


def test_one_test_makes_all_references_of_that_template_optional_and_of_no_other(author: Author) -> None:
    flow = f"""
        steps:
          {SKIPPED}
          one: {{value: "{{{{ x.a if x is defined else 'none' }}}}"}}
          two: {{value: ["{{{{ x is defined }}}}", "{{{{ x }}}}"]}}
        """
    assert author.steps(flow) == {"x": "skipped", "one": "succeeded", "two": "skipped"}


def test_an_optional_reference_waits(author: Author) -> None:
    flow = """
        defaults: {model: test-model}
        steps:
          slow: {prompt: "[sleep=0.1] [text=late]"}
          it: {prompt: "then {{ slow | default('nothing') }}"}
        """
    assert [seen.prompt for seen in author.sent(flow)] == ["[sleep=0.1] [text=late]", "then late"]


@pytest.mark.parametrize("first", [FAILED, BLOCKED])
@pytest.mark.parametrize("template", ["{{ x | default(0) }}", "{{ x is defined }}", "{{ x }}"])
def test_an_optional_reference_tolerates_no_failure(author: Author, first: str, template: str) -> None:
    assert _after(author, first, template) == ("blocked", None)


@pytest.mark.parametrize(
    ("first", "status"), [(SKIPPED, "skipped"), (FAILED, "failed"), (LET_GO, "failed"), (BLOCKED, "blocked")]
)
def test_a_status_tolerates_any_outcome(author: Author, first: str, status: str) -> None:
    assert _after(author, first, "{{ steps.x.status }}") == ("succeeded", status)


def test_a_step_can_handle_the_failure_of_another(author: Author) -> None:
    flow = """
        defaults: {model: test-model}
        steps:
          risky: {prompt: "[status=400] try"}
          calm: {prompt: quiet}
          handler: {value: "{{ steps.risky.error.type }}", when: "{{ steps.risky.status == 'failed' }}"}
          idle: {value: 1, when: "{{ steps.calm.status == 'failed' }}"}
          fine: {value: "{{ steps.calm.error }}"}
        """
    result = author.run(flow)
    assert result.steps["handler"].output == "RequestRejected"
    assert result.steps["idle"].status == "skipped"
    assert (result.steps["fine"].status, result.steps["fine"].output) == ("succeeded", None)
    assert result.status == "failed", "a handler does not make a failure of its run undone"


def test_a_status_beside_a_plain_reference_tolerates_nothing(author: Author) -> None:
    assert _after(author, FAILED, "{{ steps.x.status }} {{ x }}") == ("blocked", None)


def test_blocked_goes_before_skipped_and_skipped_before_running(author: Author) -> None:
    flow = """
        steps:
          skips: {value: 1, when: "{{ false }}"}
          fails: {value: "{{ 1 / 0 }}"}
          works: {value: 1}
          one: {value: "{{ skips }} {{ fails }}"}
          two: {value: "{{ works }} {{ skips }}"}
          three: {value: "{{ two }}"}
          four: {value: "{{ one }}"}
        """
    found = author.steps(flow)
    assert [found[step] for step in ("one", "two", "three", "four")] == ["blocked", "skipped", "skipped", "blocked"]


def test_a_failed_step_fails_the_run_and_the_rest_still_finishes(author: Author) -> None:
    flow = """
        defaults: {model: test-model}
        steps:
          fails: {prompt: "[status=400] one"}
          blocked: {prompt: "{{ fails }}"}
          other: {prompt: "[sleep=0.1] two"}
          last: {prompt: "three {{ other }}"}
        outputs: {last: "{{ last }}", blocked: "{{ blocked }}"}
        """
    result = author.run(flow)
    assert result.status == "failed"
    assert {name: step.status for name, step in result.steps.items()} == {
        "fails": "failed",
        "blocked": "blocked",
        "other": "succeeded",
        "last": "succeeded",
    }
    assert result.outputs["last"].startswith("answer")
    assert result.outputs["blocked"] is None


def test_under_continue_the_run_succeeds_and_dependents_see_a_skipped_step(author: Author) -> None:
    flow = """
        steps:
          x: {value: "{{ 1 / 0 }}", on_error: continue}
          needs_it: {value: "{{ x }}"}
          takes_it: {value: "{{ x | default('instead') }}"}
          knows: {value: "{{ x is defined }}"}
        outputs: {x: "{{ x }}", takes_it: "{{ takes_it }}", knows: "{{ knows }}"}
        """
    result = author.run(flow)
    assert result.status == "succeeded"
    assert (result.steps["x"].status, result.steps["x"].output) == ("failed", None)
    assert (result.steps["needs_it"].status, result.steps["needs_it"].output) == ("skipped", None)
    assert result.outputs == {"x": None, "takes_it": "instead", "knows": False}


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ("{{ x }}", None),
        ("text with {{ x }}", None),
        ("{{ x | default('none') }}", "none"),
        ("{{ steps.x.status }}", "skipped"),
    ],
)
def test_an_output_that_needs_a_skipped_step_is_null(author: Author, output: str, value: object) -> None:
    assert author.outputs(f'steps: {{{SKIPPED}}}\noutputs: {{o: "{output}", two: "{{{{ 1 }}}}"}}') == {
        "o": value,
        "two": 1,
    }


def test_an_output_that_is_made_of_several_is_null_as_a_whole(author: Author) -> None:
    flow = f'steps: {{{SKIPPED}, y: {{value: 1}}}}\noutputs: {{o: {{x: "{{{{ x }}}}", y: "{{{{ y }}}}"}}}}'
    assert author.outputs(flow) == {"o": None}


@pytest.mark.parametrize(
    "condition",
    ['"no"', "no", '"true"', "true", "1", '"x {{ true }}"', '"{{ true }}{{ true }}"', '"{% if true %}{% endif %}"'],
)
def test_when_is_exactly_one_expression(author: Author, condition: str) -> None:
    problem = author.problem(f"steps:\n  it: {{value: 1, when: {condition}}}\n")
    assert problem.line == 2
    assert "exactly one `{{ expression }}`" in problem.message


@pytest.mark.parametrize("gives", ["'no'", "'false'", "''", "0", "1", "[]", "none", "inputs.text"])
def test_when_must_give_true_or_false(author: Author, gives: str) -> None:
    error = author.error(f'inputs: {{text: "true"}}\nsteps:\n  it:\n    value: 1\n    when: "{{{{ {gives} }}}}"\n')
    assert error["type"] == "ConditionFailed"
    assert "flow.yaml:5:15: a condition must give true or false" in error["message"]


@pytest.mark.parametrize(("condition", "status"), [("{{ 1 > 0 }}", "succeeded"), (" {{ 1 < 0 }} ", "skipped")])
def test_when_decides(author: Author, condition: str, status: str) -> None:
    assert author.steps(f'steps:\n  it: {{value: 1, when: "{condition}"}}\n') == {"it": status}


def test_a_step_that_is_skipped_renders_nothing_and_sends_nothing(author: Author) -> None:
    flow = """
        defaults: {model: test-model}
        steps:
          it: {prompt: "{{ 1 / 0 }}", when: "{{ false }}"}
        """
    assert author.steps(flow) == {"it": "skipped"}
    assert author.server.requests == []


@pytest.mark.parametrize(
    ("step", "status"),
    [
        ("{value: 1}", "succeeded"),
        ('{value: "{{ 1 / 0 }}"}', "failed"),
        ('{value: "{{ 1 / 0 }}", on_error: continue}', "failed"),
        ('{value: 1, when: "{{ false }}"}', "skipped"),
        ('{value: "{{ bad }}"}', "blocked"),
    ],
)
@pytest.mark.parametrize(
    "looked", ["{{ steps.x }}", "{{ steps.x | tojson | fromjson }}", "{{ dict(steps.x.items()) }}"]
)
def test_a_whole_record_tolerates_any_outcome(author: Author, step: str, status: str, looked: str) -> None:
    flow = f"""
        steps:
          bad: {{value: "{{{{ 1 / 0 }}}}"}}
          x: {step}
          it: {{value: "{looked}"}}
        """
    found = author.run(flow).steps["it"]
    assert (found.status, found.output["status"]) == ("succeeded", status)
    assert (found.output["error"] is None) is (status != "failed")
