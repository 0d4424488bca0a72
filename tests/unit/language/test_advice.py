"""Hints at other systems' keys, of missing models, and of what may not be what was meant."""

from __future__ import annotations

import pytest

from flowllm.language.file_keys import WorkflowKeys
from flowllm.language.foreign import kind_meant, meant
from flowllm.language.kinds import all_keys
from tests.support.workflows import problems, workflow

TOP = "defaults: {provider: simulated, model: m}\n"


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        *((key, "needs: [id]") for key in ("depends_on", "dependsOn", "depends-on", "after")),
        *((key, "when:") for key in ("if", "condition")),
        *((key, "foreach:") for key in ("loop", "for_each", "forEach", "with_items", "for-each")),
        *((key, "output:") for key in ("schema", "response_format", "json_schema")),
        *((key, "retry: {max_attempts") for key in ("retries", "max_retries", "maxRetries")),
        *((key, "prompt:") for key in ("input", "question")),
        *((key, "shell:") for key in ("cmd", "run", "script")),
        ("instructions", "system:"),
        ("uses", "workflow:"),
        ("temp", "temperature:"),
        ("max_output_tokens", "max_tokens:"),
        ("continue_on_error", "on_error: continue"),
        ("modle", "did you mean `model`?"),
    ],
)
def test_keys_of_other_systems(key: str, wanted: str) -> None:
    (found,) = problems(f"{TOP}steps: {{a: {{prompt: hi, '{key}': 1}}}}")
    assert found.message == f"unknown key `{key}` in the step `a`"
    assert wanted in found.hint


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("jobs: {}", "steps:"),
        ("tasks: {}", "steps:"),
        ("variables: {}", "inputs:"),
        ("model: m", "defaults:"),
        ("env: {}", "secrets"),
        ("defaults: {temp: 1}", "temperature:"),
        ("defaults: {retry: {max_retries: 1}}", "max_attempts:"),
        ("defaults: {retry: {backoff_factor: 2}}", "multiplier"),
        ("limits: {rpm: 5}", "requests_per_minute:"),
        ("limits: {requests_per_second: 5}", "windows:"),
        ("limits: {models: {m: {tpm: 5}}}", "tokens_per_minute:"),
    ],
)
def test_the_same_elsewhere(text: str, wanted: str) -> None:
    (found,) = problems(f"{text}\nsteps: {{a: {{value: 1}}}}")
    assert wanted in found.hint


@pytest.mark.parametrize("key", ["cmd", "run", "input", "function", "uses", "url", "prmpt"])
def test_a_step_with_such_a_key_alone_gets_a_hint_of_what_it_may_mean(key: str) -> None:
    (found,) = problems(f"steps: {{a: {{{key}: x, needs: []}}}}")
    assert found.message == f"unknown key `{key}` in the step `a`"
    assert "`" in found.hint


def test_no_key_of_flowllm_is_taken_for_one_of_another_system() -> None:
    assert [key for key in all_keys() if meant(key, "step")] == ["foreach"]  # as `for_each`
    assert [key for key in WorkflowKeys.table if meant(key, "top")] == []
    assert (kind_meant("temp"), kind_meant("cmd") != "") == ("", True)


def test_steps_without_a_model_are_reported_together() -> None:
    text = "steps:\n  a: {prompt: hi}\n  b: {prompt: hi, model: m}\n  c: {messages: [{role: user, content: x}]}\n"
    (found,) = problems(f"{text}  d: {{workflow: {{steps: {{e: {{prompt: hi}}}}}}}}\n")
    assert (found.line, found.message) == (2, "3 steps have no model: `a`, `c` and `e`")
    many = "steps:\n" + "".join(f"  s{n}: {{prompt: hi}}\n" for n in range(20))
    (found,) = problems(many)
    assert found.message == "20 steps have no model: `s0`, `s1`, `s2`, `s3`, `s4`, `s5` and 14 more"
    chats, embeds = problems("steps: {a: {prompt: hi}, b: {embed: x}, c: {embed: y}}")
    assert (chats.message, embeds.message) == ("the step `a` has no model", "2 steps have no model: `b` and `c`")


def warnings(step: str, rest: str = "") -> list[str]:
    return [one.message for one in workflow(f"{TOP}steps: {{it: {{{step}}}}}\n{rest}").warnings]


@pytest.mark.parametrize(
    "step",
    [
        "foreach: '{{ range(5) }}', prompt: Tell me a joke.",
        "foreach: [a, b], prompt: x, as: word, when: '{{ word != 1 }}', save: 'x{{ index }}'",
        "foreach: [a, b], messages: [{role: user, content: x}], sample: 3",
        "foreach: [a, b], prompt: x, samples: 3",
        "foreach: [a, b], embed: x, model: e",
        "foreach: [a, b], workflow: {steps: {i: {prompt: x}}}",
        "foreach: {file: x.csv}, prompt: x, accept: {when: '{{ item == output }}', count: 1}",
    ],
)
def test_a_foreach_whose_items_all_ask_the_same(step: str) -> None:
    (found,) = warnings(step)
    assert found.startswith("all items of `it` ask the same")


@pytest.mark.parametrize(
    "step",
    [
        "foreach: [a, b], prompt: x, sample: '{{ index }}'",
        "foreach: [a, b], prompt: 'x {{ item }}'",
        "foreach: [a, b], prompt: 'x {% for c in w %}{{ c }}{% endfor %}', as: w",
        "foreach: [a, b], prompt: x, system: '{{ index }}'",
        "foreach: [a, b], prompt: x, model: '{{ item }}'",
        "foreach: [a, b], prompt: x, seed: '{{ index }}'",
        "foreach: [a, b], prompt: x, params: {user: '{{ item }}'}",
        "foreach: [a, b], prompt: x, images: '{{ item }}'",
        "foreach: [a, b], messages: [{role: user, content: '{{ item }}'}]",
        "foreach: [a, b], prompt: x, cache: false",
        "foreach: [a], prompt: x",
        "foreach: [a, b], value: 1",
        "foreach: [a, b], workflow: {inputs: {x: }, steps: {i: {prompt: '{{ inputs.x }}'}}}, with: {x: '{{ item }}'}",
        "foreach: [a, b], workflow: {steps: {i: {shell: date}}}",
        "prompt: x",
    ],
)
def test_a_foreach_whose_items_differ(step: str) -> None:
    assert warnings(step) == []


@pytest.mark.parametrize(
    "text", ["it", "it.score", "'$it'", "'${it}'", "'{it}'", "steps.it.status", "[1, {x: it}]", "'it[0]'"]
)
def test_an_output_that_is_the_name_of_a_step(text: str) -> None:
    (found,) = warnings("value: 1", f"outputs: {{y: {text}}}")
    assert "not what the step `it` gives" in found


@pytest.mark.parametrize("text", ["'{{ it }}'", "it is", "its", "12", "null", "'it: {{ it }}'", "''"])
def test_an_output_that_is_not(text: str) -> None:
    assert warnings("value: 1", f"outputs: {{y: {text}}}") == []


def test_two_steps_that_save_to_one_path_are_reported_before_the_run() -> None:
    text = "steps:\n  a: {value: 1, save: out/x.txt}\n  b: {value: 2, save: ./out/../out/x.txt}\n  c: {value: 3, save: y.txt}\n"
    (found,) = problems(text)
    assert (found.line, found.column) == (3, 23)
    assert found.message == "`b` saves to ./out/../out/x.txt, and so does `a`"


@pytest.mark.parametrize(
    "steps",
    [
        "a: {value: 1, save: x}, b: {value: 2, when: '{{ a > 1 }}', save: x}",
        "f: {value: true, when: '{{ 1 > 2 }}'}, a: {value: '{{ f }}', save: x}, b: {value: 2, save: x}",
        "a: {value: 1, save: 'x{{ run.id }}'}, b: {value: 2, save: 'x{{ run.date }}'}",
    ],
)
def test_steps_of_which_one_may_not_run_may_save_to_one_path(steps: str) -> None:
    assert workflow(f"steps: {{{steps}}}").steps.keys() >= {"a", "b"}


RULES = "This is how we write. " * 200
"""1,100 tokens."""


@pytest.mark.parametrize(
    ("steps", "varying", "place"),
    [
        (f'a: {{foreach: [x, y], prompt: "{{{{ item }}}}: {RULES}"}}', "{{ item }}", "3:33"),
        (
            f'a: {{foreach: [x, y], as: word, system: "Number {{{{ word }}}}.", prompt: "{RULES}"}}',
            "{{ word }}",
            "3:50",
        ),
        (
            f'a: {{foreach: [x, y], messages: [{{role: user, content: "{{{{ index }}}}"}}, {{role: user, content: "{RULES}"}}]}}',
            "{{ index }}",
            "",
        ),
        (
            """a: {foreach: [x, y], with: {t: "{{ item }}"}, workflow: {inputs: {t: {type: string}}, steps: {
            late: {prompt: "{{ early }} RULES"}, early: {prompt: "on {{ inputs.t }}"}}}}""".replace("RULES", RULES),
            "{{ early }}",
            "",
        ),
        (f'a: {{foreach: [x, y], prompt: "{RULES} {{{{ item }}}}: short"}}', "", ""),
        (f'a: {{foreach: [x, y], system: "{RULES}", prompt: "{{{{ item }}}}"}}', "", ""),
        (f'b: {{prompt: hi}}\n  a: {{foreach: [x, y], prompt: "{{{{ b }}}} {RULES} {{{{ item }}}}"}}', "", ""),
        (f'a: {{prompt: "{{{{ 1 + 1 }}}} {RULES}"}}', "", ""),
        ('a: {foreach: [x, y], prompt: "{{ item }}: {{ inputs.rules }}"}', "{{ item }}", "4:33"),
        ('a: {foreach: [x, y], prompt: "{{ inputs.rules }}: {{ item }} {{ inputs.rules }}"}', "", ""),
        ('a: {foreach: [x, y], prompt: "{{ item }}: {{ inputs.rules | length }}"}', "", ""),
        (
            """a: {foreach: [x, y], with: {t: "{{ item }}", r: "{{ inputs.rules }}"}, workflow: {inputs: {t: {type: string},
            r: {type: string}}, steps: {b: {prompt: "{{ inputs.t }} {{ inputs.r }}"}}}}""",
            "{{ inputs.t }}",
            "",
        ),
        (
            f"""a: {{foreach: [x, y], with: {{t: "{{{{ item }}}}"}}, workflow: {{inputs: {{t: {{type: string}},
            r: {{default: "{RULES}"}}}}, steps: {{b: {{prompt: "{{{{ inputs.t }}}} {{{{ inputs.r }}}}"}}}}}}}}""",
            "{{ inputs.t }}",
            "",
        ),
    ],
)
def test_what_differs_by_item_before_a_long_text_that_does_not(steps: str, varying: str, place: str) -> None:
    rules = f'inputs: {{rules: {{default: "{RULES}"}}}}\n' if "inputs.rules" in steps else ""
    found = [
        one for one in workflow(f"{TOP}{rules}steps:\n  {steps}").warnings if "differs from item to item" in one.message
    ]
    assert [one.message.partition(" differs")[0] for one in found] == [varying] * bool(varying)
    assert not place or f"{found[0].line}:{found[0].column}" == place
    assert not found or "1,1" in found[0].message


def test_a_hedge_is_said_to_have_no_slot_where_one_request_at_a_time_is_written() -> None:
    text = """
defaults: {model: m, retry: {hedge: auto}}
providers: {one: {type: simulated, limits: {max_concurrent: 4, models: {slow: {max_concurrent: 1}}}}}
limits: {max_concurrent: MOST}
inputs: {p: one}
steps:
  default: {prompt: a}
  merged: {prompt: a, retry: {max_attempts: 3}}
  own: {embed: a, model: e, retry: {hedge: 30s}}
  off: {prompt: a, retry: {hedge: off}}
  enough: {prompt: a, provider: one}
  model: {prompt: a, provider: one, model: slow, retry: {hedge: 20s}}
  later: {prompt: a, provider: "{{ inputs.p }}", model: slow, retry: {hedge: 20s}}
"""

    def told(most: str) -> list[tuple[str, int, int]]:
        found = workflow(text.replace("MOST", most)).warnings
        assert all("`max_concurrent: 1` leaves no slot" in one.message for one in found)
        return [(one.step, one.line, one.column) for one in found]

    assert told("1") == [("default", 2, 30), ("own", 9, 37), ("model", 12, 58)]
    assert told("2") == told("auto") == [("model", 12, 58)]
    assert not workflow("limits: {max_concurrent: 1}\nsteps: {a: {prompt: hi, model: m}}").warnings
