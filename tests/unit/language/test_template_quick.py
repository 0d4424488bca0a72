"""What is read without Jinja's parser is what that parser reads."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import nodes

from flowllm.language.template_errors import TemplateSyntaxProblem, parse
from flowllm.language.template_quick import quick_tree

_PIECES = [
    *(
        "{{ a }}",
        "{{b}}",
        "{{ a.b }}",
        "{{ a['x y'].c[0] }}",
        "{{ _x.not.true }}",
        "{{ x[10] }}",
        "{{ x[''] }}",
        "{{  if  }}",
    ),
    *(
        "{{",
        "}}",
        "{",
        "}",
        "{{ ",
        " }}",
        "{%",
        "{#",
        "{{-",
        "-}}",
        "{{ not a }}",
        "{{ True }}",
        "{{ none.x }}",
        "{{ x[01] }}",
    ),
    *(
        "a",
        " ",
        "\n",
        "  \n",
        "é",
        ".b",
        "['k']",
        '["k"]',
        "[1_0]",
        "['\\n']",
        "['é']",
        "{{ a | b }}",
        "%}",
        "#}",
        "{{ a.1 }}",
    ),
]


def _shape(node: nodes.Node) -> list[object]:
    """A tree with all its fields and places."""
    fields: list[object] = [type(node), node.lineno]
    for _, found in node.iter_fields():
        parts = found if isinstance(found, list) else [found]
        fields.append([_shape(part) if isinstance(part, nodes.Node) else part for part in parts])
    return fields


@settings(max_examples=300, deadline=None)
@example("{{ a }}")
@given(st.lists(st.sampled_from(_PIECES), min_size=1, max_size=6).map("".join))
def test_the_quick_tree_is_jinjas(text: str) -> None:
    found = quick_tree(text)
    if found is None:
        return
    try:
        expected = parse(text)
    except TemplateSyntaxProblem as error:
        raise AssertionError(text) from error
    assert _shape(found) == _shape(expected)


def test_what_only_names_things_is_read_quickly() -> None:
    for text in ("{{ a }}", "of {{ a.b }} and {{ c['d e'][0] }}.\n", "{{ a }}{{ b }} }} }"):
        assert quick_tree(text) is not None
