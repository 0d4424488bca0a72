"""What is read without Jinja's parser is what that parser reads."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import nodes

from flowllm.language.template_errors import TemplateSyntaxProblem, parse
from flowllm.language.template_paths import Path, taken_apart
from flowllm.language.template_quick import quick_parts

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


def _parts(tree: nodes.Template, text: str) -> Iterator[str | Path]:
    """A tree's texts and paths, with all their places."""
    for statement in tree.body:
        assert isinstance(statement, nodes.Output)
        for node in statement.nodes:
            if isinstance(node, nodes.TemplateData):
                yield node.data
                continue
            root, keys = taken_apart(node, text)
            assert isinstance(root, nodes.Name)
            path = Path(root.name, root.lineno, tuple(keys))
            assert path.end == node.lineno
            yield path


@settings(max_examples=300, deadline=None)
@example("{{ a }}")
@given(st.lists(st.sampled_from(_PIECES), min_size=1, max_size=6).map("".join))
def test_the_quick_parts_are_jinjas(text: str) -> None:
    found = quick_parts(text)
    if found is None:
        return
    try:
        expected = parse(text)
    except TemplateSyntaxProblem as error:
        raise AssertionError(text) from error
    assert found == list(_parts(expected, text))


def test_what_only_names_things_is_read_quickly() -> None:
    for text in ("{{ a }}", "of {{ a.b }} and {{ c['d e'][0] }}.\n", "{{ a }}{{ b }} }} }"):
        assert quick_parts(text) is not None
