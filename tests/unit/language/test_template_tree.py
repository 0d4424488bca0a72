"""What is rendered from the syntax tree is what Jinja's code gives: result, error, place, and what it costs."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowllm.core.errors import TemplateFailed
from flowllm.core.types import Json
from flowllm.language import sandbox_limits, template
from flowllm.language.sandbox import SANDBOX
from flowllm.language.template import Template, TemplateProblems
from tests.support.templates import VALUES, compiled

DATA: dict[str, Json] = {
    **VALUES,
    "inputs": {
        **VALUES["inputs"],
        "count": {"n": [0, -1, 2.5, 10**20, True, None, "", "7", "ü<b>", "a\nb"], "items": [], "": {}},
        "tags": ["b", "a", ["a", {"k": [1]}], {"a": 1, "b": {}}],
    },
}
NAMES = ["inputs", "inputs.count", "inputs.tags", "outline", "headline", "skipped", "other", "steps.skipped", "run"]
KEYS = [".n", ".parts", ".title", ".items", "['a']", "[0]", "[-1]", "[9]", "['é<']", ".ok", ".none", ".k", "[true]"]
CONSTANTS = ["0", "1", "-3", "2.5", "1e400", "true", "none", "''", "'a b'", '"<é>"', "'%s'", "[]", "{}", "()"]
OPERATORS = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">=", "in", "not in", "and", "or"]
FILTERS = sorted(name for name in SANDBOX.filters if name.isidentifier())
METHODS = ["upper", "items", "get", "split", "title", "n", "format", "count", "join", "gone"]
TESTS = sorted(name for name in SANDBOX.tests if name.isidentifier() and name not in {"in", "filter", "test"})

_paths = st.builds(
    lambda name, keys: name + "".join(keys), st.sampled_from(NAMES), st.lists(st.sampled_from(KEYS), max_size=3)
)
_leaves = st.sampled_from(CONSTANTS) | _paths | _paths


def _arguments(within: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    by_name = st.builds(
        lambda name, value: f"{name}={value}",
        st.sampled_from(["indent", "attribute", "boolean", "default_value", "d"]),
        within,
    )
    return st.lists(within | by_name, max_size=2).map(lambda found: f"({', '.join(found)})" if found else "")


def _larger(within: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("({} {} {})".format, within, st.sampled_from(OPERATORS), within),
        st.builds("({} < {} <= {})".format, within, within, within),
        st.builds("({} if {} else {})".format, within, within, within),
        st.builds("{} | {}{}".format, within, st.sampled_from(FILTERS), _arguments(within)),
        st.builds("{} | default({}, {})".format, within, within, within),
        st.builds("{} is {}{}".format, within, st.sampled_from(["", "not "]), st.sampled_from(TESTS)),
        st.builds("(not {})".format, within),
        st.builds("(-{})".format, within),
        st.builds("[{}, {}]".format, within, within),
        st.builds("({},)".format, within),
        st.builds("{{{}: {}}}".format, within, within),
        st.builds("({})[{}]".format, within, within),
        st.builds("({})[{}:{}]".format, within, within, st.just("") | within),
        st.builds("({} if {})".format, within, within),
        st.builds(
            "{}.{}{}".format, within, st.sampled_from(METHODS), _arguments(within).map(lambda found: found or "()")
        ),
        st.builds("{}({}, {})".format, st.sampled_from(["range", "dict", "zip", "product", "other"]), within, within),
        st.builds("({}).{}".format, within, st.sampled_from(["n", "title", "upper", "k"])),
    )


EXPRESSIONS = st.recursive(_leaves, _larger, max_leaves=6)
TEXTS = st.lists(
    EXPRESSIONS.map("{{{{ {} }}}}".format)
    | EXPRESSIONS.map("{{{{- {} -}}}}".format)
    | st.sampled_from(["a", " \n", "}} é", "{# no #}"]),
    min_size=1,
    max_size=4,
).map("".join)


def _by_code(source: str) -> Template | tuple[object, ...]:
    ways = ("quick_parts", "evaluation", "pieces_of")
    with patch.multiple(template, **dict.fromkeys(ways, lambda _: None)):
        return _loaded(source)


def _loaded(source: str) -> Template | tuple[object, ...]:
    try:
        return compiled(source)
    except TemplateProblems as found:
        return tuple((problem.where, problem.message, problem.hint) for problem in found.problems)


def _outcomes(found: Template) -> list[object]:
    """Each way to render it: the result with its types or the error, and the operations that are left."""
    outcomes: list[object] = []
    for render in (found.text, found.value, found.text):
        try:
            outcomes.append(repr(render(DATA)))
        except TemplateFailed as error:
            outcomes.append((error.message, error.hint))
        outcomes.append(sandbox_limits._METER.left + sandbox_limits._METER.rest)
    return outcomes


def _same(source: str) -> None:
    by_tree, by_code = _loaded(source), _by_code(source)
    if isinstance(by_tree, Template) and isinstance(by_code, Template):
        assert _outcomes(by_tree) == _outcomes(by_code), source
    else:
        assert by_tree == by_code, source


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(TEXTS)
def test_the_tree_gives_what_the_code_gives(source: str) -> None:
    _same(source)


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_gives_what_it_gives_in_code(name: str) -> None:
    for subject in ("headline", "outline.parts", "inputs.tags", "skipped.x", "outline.gone", "inputs.count.n[3]"):
        _same(f"{{{{ {subject} | {name} }}}}")
        _same(f"of {{{{ {subject} | {name}('a') }}}}{{{{ {subject} | {name}(2, x=outline.gone.gone) }}}}")
