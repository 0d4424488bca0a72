"""The language: templates, what type a value has, and what lists, truth and null look like in text."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.author import Author
from tests.support.replies import Reply, prompt_of

DATA: dict[str, Any] = {"items": [1, 2], "name": "Zoë & <co>", "none": None, "keys": {"b": 1, "a": True}}


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ 1 + 1 }}", 2),
        ("  {{ 1 + 1 }}\n", 2),
        ("{{ 7 / 2 }}", 3.5),
        ("{{ true }}", True),
        ("{{ none }}", None),
        ("{{ [1, 'a'] }}", [1, "a"]),
        ("{{ {'a': [1]} }}", {"a": [1]}),
        ("{{ '12' }}", "12"),
        ("{{ '[1, 2]' }}", "[1, 2]"),
        ("{{ '{{ 1 }}' }}", "{{ 1 }}"),
        ("{{ range(3) }}", [0, 1, 2]),
        ("{{ [1, 2] | map('string') }}", ["1", "2"]),
        ("{{ 'ba' | list | sort }}", ["a", "b"]),
        ("{{ {'b': 1, 'a': 2}.keys() }}", ["b", "a"]),
        ("x{{ 1 }}", "x1"),
        ("{{ 1 }}{{ 2 }}", "12"),
        ("{{ 1 }} {{ 2 }}", "1 2"),
        ("{# note #}{{ 1 }}", 1),
        ("{% if true %}{{ 1 }}{% endif %}", "1"),
        ("1", "1"),
    ],
)
def test_exactly_one_expression_keeps_its_type_and_everything_else_is_text(
    author: Author, template: str, value: object
) -> None:
    found = author.value(template)
    assert found == value
    assert type(found) is type(value)


def test_types_are_kept_inside_of_lists_and_mappings_and_keys_are_no_templates(author: Author) -> None:
    tree = {"a": ["{{ 1 }}", {"b": "{{ [true] }}"}], "{{ 1 }}": "n {{ 1 }}", "plain": [1, None, False]}
    assert author.value(tree) == {"a": [1, {"b": [True]}], "{{ 1 }}": "n 1", "plain": [1, None, False]}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ d['items'] }}", "[1, 2]"),
        ("{{ d.name }}", "Zoë & <co>"),
        ("{{ [d.name] }}", '["Zoë & <co>"]'),
        ("{{ d['keys'] }}", '{"b": 1, "a": true}'),
        ("{{ true }} {{ 1 == 2 }}", "true false"),
        ("{{ [none, true] }}", "[null, true]"),
        ("{{ d['keys'] ~ d['items'] ~ true }}", '{"b": 1, "a": true}[1, 2]true'),
        ("{{ [[1], true, 'é'] | join(' ') }}", "[1] true é"),
        ("{{ d['keys'] | tojson }}", '{"b": 1, "a": true}'),
        ("{{ '<é>' | tojson }}", '"<é>"'),
        ("{{ [1, 2] | map('string') }}", '["1", "2"]'),
        ("{{ d['items'] | reverse }}", "[2, 1]"),
        ("{{ 1.0 }} {{ 1e3 }} {{ 5 }}", "1.0 1000.0 5"),
        ("{{ d.none or 'nothing' }}", "nothing"),
    ],
)  # fmt: skip
def test_in_text_values_are_json_as_people_write_it(author: Author, template: str, text: str) -> None:
    assert author.value(f"> {template} <", d=DATA) == f"> {text} <"


@pytest.mark.parametrize("expression", ["none", "d.none", "none ~ 'a'", "[none] | join(',')", "none | upper"])
def test_null_in_text_is_an_error_that_says_what_to_write(author: Author, expression: str) -> None:
    flow = f'steps: {{d: {{value: {{none: null}}}}, it: {{value: "> {{{{ {expression} }}}}"}}}}'
    error = author.error(flow)
    assert "null" in error["message"]
    assert "or ''" in error["hint"]


def test_null_as_a_whole_prompt_is_an_error_too_and_nothing_is_sent(author: Author) -> None:
    flow = 'defaults: {model: m}\nsteps: {it: {prompt: "{{ steps.a.error }}"}, a: {value: 1}}'
    assert "null" in author.error(flow)["message"]
    assert author.server.requests == []


@pytest.mark.parametrize(
    ("expression", "text"), [("5", "5"), ("true", "true"), ("['a']", '["a"]'), ("{'a': 1}", '{"a": 1}'), ("'05'", "05")]
)
def test_prompts_and_systems_are_always_text(author: Author, expression: str, text: str) -> None:
    body = author.asked(prompt=f"{{{{ {expression} }}}}", system=f" {{{{ {expression} }}}} ")
    assert body["messages"] == [{"role": "system", "content": f" {text} "}, {"role": "user", "content": text}]


def test_a_key_goes_before_a_method(author: Author) -> None:
    assert author.value("{{ d.items }}", d=DATA) == [1, 2]
    assert author.value("{{ d.keys.b }}", d=DATA) == 1
    assert author.value("{{ d.items() | length }}", d={"a": 1, "b": 2}) == 2


@pytest.mark.parametrize("expression", ["d.items", "d.items | list", "'a'.upper", "[1].count"])
def test_a_method_that_is_not_called_is_an_error(author: Author, expression: str) -> None:
    flow = f'steps: {{d: {{value: {{a: 1}}}}, it: {{value: "{{{{ {expression} }}}}"}}}}'
    error = author.error(flow)
    assert "is a method" in error["message"]
    assert "call it" in error["message"]


def test_what_is_undefined_is_an_error(author: Author) -> None:
    error = author.error('inputs: {d: {default: {a: 1}}}\nsteps: {it: {value: "> {{ inputs.d.b }}"}}')
    assert "has no key `b`" in error["message"]


def test_blocks_leave_no_blank_lines_and_one_final_newline_is_dropped(author: Author) -> None:
    template = (
        "first\n  {% if true %}\nsecond\n    {% endif %}\n  {% for x in [1, 2] %}\n{{ x }}\n  {% endfor %}\nlast\n\n"
    )
    assert author.value(template) == "first\nsecond\n1\n2\nlast\n"
    assert author.asked(prompt="plain\n")["messages"][0]["content"] == "plain"
    assert author.asked(prompt="{{ 'one' }} line\n")["messages"][0]["content"] == "one line"


@pytest.mark.parametrize("tag", ["include 'x.md'", "import 'x.md' as x", "from 'x.md' import x", "extends 'x.md'"])
def test_a_template_takes_in_no_other(author: Author, tag: str) -> None:
    author.write("x.md", "secret")
    problem = author.problem(f'steps: {{it: {{value: "{{% {tag} %}}"}}}}')
    assert f"`{tag.split(maxsplit=1)[0]}` cannot be used" in problem.message


@pytest.mark.parametrize(
    "expression", ["''.__class__", "[].__class__.__mro__", "inputs.__class__", "(1).real", "'a'.__len__()"]
)
def test_templates_are_sandboxed(author: Author, expression: str) -> None:
    flow = f'inputs: {{x: 1}}\nsteps: {{it: {{value: "{{{{ {expression} }}}}"}}}}'
    if "inputs" in expression:
        assert "unknown input" in author.problem(flow).message
    else:
        assert author.error(flow)["type"] == "TemplateFailed"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("zip([1, 2, 3], ['a', 'b'])", [[1, "a"], [2, "b"]]),
        ("[1, 2] | zip(['a', 'b'])", [[1, "a"], [2, "b"]]),
        ("product([1, 2], ['a', 'b'])", [[1, "a"], [1, "b"], [2, "a"], [2, "b"]]),
        ("[1] | product(['a', 'b'])", [[1, "a"], [1, "b"]]),
        ("'Été à Paris!' | slug", "ete-a-paris"),
    ],
)
def test_zip_product_and_slug_are_there(author: Author, expression: str, value: object) -> None:
    assert author.value(f"{{{{ {expression} }}}}") == value


@pytest.mark.parametrize(
    "answer", ["{{7*7}}", "{{ inputs.x }}", "{% set a = 1 %}", "{# note #}", "$(id) `id` <b>", "${HOME}"]
)
def test_what_a_model_says_is_data(author: Author, answer: str) -> None:
    author.server.script = lambda body, n: Reply(text=answer if prompt_of(body) == "speak" else "ok")
    flow = """
        inputs: {x: 1}
        defaults: {model: test-model}
        steps:
          said: {prompt: speak}
          again: {prompt: "It said: {{ said }}"}
          kept: {value: {whole: "{{ said }}", part: "[{{ said }}]", made: "{{ '{' ~ '{ 1 }}' }}"}}
        outputs: {kept: "{{ kept }}"}
        """
    requests = author.sent(flow)
    assert requests[1].prompt == f"It said: {answer}"
    assert author.outputs(flow) == {"kept": {"whole": answer, "part": f"[{answer}]", "made": "{{ 1 }}"}}


def test_what_an_input_says_is_data(author: Author) -> None:
    flow = 'inputs: {x: }\ndefaults: {model: m}\nsteps: {it: {prompt: "Say {{ inputs.x }}"}}'
    assert author.sent(flow, x="{{ 7 * 7 }}")[0].prompt == "Say {{ 7 * 7 }}"


def test_models_providers_and_samples_are_templates(author: Author) -> None:
    flow = """
        inputs: {which: chosen, where: openai, n: 3, tokens: 12}
        steps:
          it:
            prompt: hi
            model: "{{ inputs.which }}-model"
            provider: "{{ inputs.where }}"
            sample: "{{ inputs.n }}"
            max_tokens: "{{ inputs.tokens }}"
            stop: ["{{ inputs.which }}"]
            params: {user: "{{ inputs.n }}", n_best: "n{{ inputs.n }}"}
        """
    (seen,) = author.sent(flow)
    assert seen.body == {
        "model": "chosen-model",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 12,
        "stop": ["chosen"],
        "user": 3,
        "n_best": "n3",
    }


@pytest.mark.parametrize(
    "flow",
    [
        'defaults: {model: "{{ inputs.x }}"}\nsteps: {it: {prompt: hi}}',
        'defaults: {params: {a: ["{{ 1 }}"]}, model: m}\nsteps: {it: {prompt: hi}}',
        'limits: {max_concurrent: "{{ 1 }}"}\nsteps: {it: {value: 1}}',
        'providers: {p: {type: openai, base_url: "{{ 1 }}"}}\nsteps: {it: {value: 1}}',
        'steps: {a: {value: 1}, it: {value: 1, needs: ["{{ 1 }}"]}}',
        'steps: {it: {prompt: hi, model: m, output: {type: string, pattern: "{{ 1 }}"}}}',
        'steps: {it: {python: "{{ 1 }}:f"}}',
    ],
)
def test_where_there_are_no_templates_one_is_refused(author: Author, flow: str) -> None:
    author.problem(flow)
