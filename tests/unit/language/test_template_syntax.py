"""Errors in the syntax of a template, in plain words and at its place."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from jinja2.compiler import CodeGenerator
from jinja2.lexer import Lexer

from flowllm.language.sandbox import SANDBOX, TextGenerator
from tests.support.templates import VALUES, compiled, problems, text


@pytest.mark.parametrize(
    ("source", "line", "column", "said"),
    [
        ("{{ other other }}", 1, 10, "expected `}}`, not `other`"),
        ("{% if other other %}{% endif %}", 1, 13, "expected `%}`, not `other`"),
        ("{{ }}", 1, 4, "an expression is missing before `}}`"),
        ("{{ other + }}", 1, 12, "unexpected `}}`"),
        ("a\nb {{ $x }}", 2, 6, "unexpected `$`"),
        ("{{ (1 }}", 1, 7, "unexpected `}`"),
        ("{{ [1) }}", 1, 6, "unexpected `)`, `]` should come first"),
        ("{{ 1) }}", 1, 5, "unexpected `)`"),
        ("{{ other | }}", 1, 12, "expected a name, not `}}`"),
        ("{{ other. }}", 1, 11, "expected name or number"),
        ("a {{ other", 1, 3, "not closed: `}}` is missing"),
        ("a {{ ", 1, 3, "not closed"),
        ("a\n {# b", 2, 2, "comment is not closed"),
        ("{% raw %}a", 1, 1, "`raw` block is not closed"),
        ("x\n{% if other %}\n{{ other }}", 2, 1, "this `if` block is not closed: `{% endif %}` is missing"),
        ("{% for x in [] %}{% if x %}{% endif %}", 1, 1, "this `for` block is not closed"),
        ("{% if 1 %}{% set a = 1 %}{% set b %}{% endset %}{% for x in [] %}", 1, 49, "this `for` block is not closed"),
        ("{% endif %}", 1, 4, "there is no tag `endif`"),
        ("{% if 1 %}{% endfor %}", 1, 14, "there is no tag `endfor`"),
        ("{% for x in [] %}{% if 1 %}{% endfor %}", 1, 31, "`endfor` does not close what is open here, a `if` block"),
        ("{% foo %}", 1, 4, "there is no tag `foo`"),
        ("{% do other %}", 1, 4, "there is no tag `do`"),
        ("{% set 1 = 2 %}", 1, 8, "cannot be assigned to"),
        ("{% for loop in [1] %}{% endfor %}", 1, 8, "`loop` has a meaning of its own"),
        ("{{ 'open }}", 1, 4, "unexpected `'`"),
        ("{{ 1e999 }}", 1, 4, "too large"),
        ("{{ " + "9" * 5000 + " }}", 1, 1, "too many digits"),
    ],
)
def test_places_and_words(source: str, line: int, column: int, said: str) -> None:
    found = problems(source)
    assert found[0][:2] == (line, column)
    assert said in found[0][2] or said in found[0][3]


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("{% include 'x' %}", "include"),
        ("{% import 'x' as y %}", "import"),
        ("{% from 'x' import y %}", "from"),
        ("{% extends 'x' %}", "extends"),
        ("{% block b %}{% endblock %}", "block"),
        ("{% autoescape true %}{% endautoescape %}", "autoescape"),
    ],
)
def test_what_reaches_out_of_a_template_is_refused(source: str, word: str) -> None:
    assert problems(source) == [(1, 4, f"`{word}` cannot be used in a template", "")]


def test_refused_deep_inside_too() -> None:
    found = problems("{% if true %}\n{% for x in [] %}{% include 'x' %}{% endfor %}{% endif %}")
    assert found == [(2, 21, "`include` cannot be used in a template", "")]


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "[" * 5000,
        "{{ " + "1+" * 20000 + "1 }}",
        "{{ " + "not " * 20000 + "1 }}",
        "{{ other" + ".a" * 20000 + " }}",
        "{{ other" + "|upper" * 20000 + " }}",
        "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
        "{% for x in [] %}" * 30 + "{% endfor %}" * 30,
    ],
)
def test_nesting_without_end_is_a_problem_and_no_crash(source: str) -> None:
    assert "nested too deeply" in problems(source)[0][2]


def test_a_template_that_is_too_long() -> None:
    assert "too long" in problems("{{ 1 }}" + "x" * 1024 * 1024)[0][2]


def test_places_behind_stripped_white_space_and_comments() -> None:
    source = "  {%- if true -%}  \n\n  {#- note -#} \n {{- nope -}} \n{% raw -%} {{ x }} {%- endraw %}{{ nope2 }}\n{% endif %}"
    assert [found[:2] for found in problems(source)] == [(4, 6), (5, 36)]


def test_text_that_only_looks_like_a_template() -> None:
    assert text("} }} %} #} { { % }") == "} }} %} #} { { % }"


def test_what_is_overridden_in_jinja_is_there_and_has_an_upper_bound() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    (jinja,) = [one for one in pyproject["project"]["dependencies"] if one.startswith("jinja2")]
    assert ",<3.2" in jinja
    for hook in vars(TextGenerator):
        if hook.startswith("visit_"):
            assert callable(getattr(CodeGenerator, hook, None)), hook
    assert callable(Lexer.tokeniter)


def test_code_is_made_where_the_tree_is_not_enough_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    compile_code = SANDBOX.compile
    monkeypatch.setattr(SANDBOX, "compile", lambda tree, *args: made.append(tree) or compile_code(tree, *args))
    plain = compiled(
        "{{ outline.parts[:1][0].n | default(1) }} of {{ range(3) | list if other else inputs.topic.upper() }}"
    )
    assert [plain.text(VALUES), len(made)] == ["1 of [0, 1, 2]", 0]
    for _ in range(2):
        assert [compiled("{% if other %}{{ other }} made once{% endif %}").text(VALUES), len(made)] == [
            "O made once",
            1,
        ]
    assert problems("a {{ dict(a=1, a=2) }}") == [(1, 3, "keyword argument repeated: a", "")]
