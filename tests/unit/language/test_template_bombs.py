"""Templates that want too much, or what they must not have: all stop by a limit, and nothing but flowllm's errors escapes."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowllm.core.errors import StepError, TemplateFailed
from flowllm.language import sandbox_limits
from flowllm.language.template import TemplateProblems
from tests.support.templates import VALUES, compiled, failure, text, value

MEMORY = 400 * 1024 * 1024
"""Bytes that a bomb may take before it is stopped."""


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10 ** 9 }}",
        "{{ 10 ** 9 * 'a' }}",
        "{{ [0] * 10 ** 9 }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ (2 ** 4000) * (2 ** 4000) }}",
        "{{ range(10 ** 9) }}",
        "{{ range(10 ** 30) }}",
        "{{ 'a' | center(10 ** 9) }}",
        "{{ 'a'.center(10 ** 9) }}",
        "{{ 'a'.ljust(10 ** 9) }}",
        "{{ '1'.zfill(10 ** 9) }}",
        "{{ 'a' | indent(10 ** 9) }}",
        "{{ ('\\n' * 100000) | indent(9999, true, true) }}",
        "{{ [1] | batch(10 ** 9, 'x') }}",
        "{{ [1] | slice(10 ** 9) }}",
        "{{ 1.5 | round(10 ** 9, 'ceil') }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '%.1000000000f' | format(1) }}",
        "{{ '%*d' | format(10 ** 9, 1) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 10 ** 9) }}",
        "{{ '{:.1000000000f}'.format(1.5) }}",
        "{{ ('{0}' * 300000).format('x' * 1000000) }}",
        "{{ ('%(a)s' * 300000) | format(a='x' * 1000000) }}",
        "{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}",
        "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}",
        "{{ ('a ' * 1000000) | wordwrap(1, wrapstring='x' * 9999) }}",
        "{{ (range(100000) | list) | join('x' * 100000) }}",
        "{{ product(range(10000), range(10000)) }}",
        "{{ [1] | tojson(indent=10 ** 9) }}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(100000) recursive %}{% if loop.depth < 9 %}{{ loop(range(100000)) }}{% endif %}{% endfor %}",
        "{% for i in range(1000000) %}" + "x" * 1000 + "{% endfor %}",
        "{% set a %}{% for i in range(1000000) %}" + "x" * 1000 + "{% endfor %}{% endset %}",
        "{% filter upper %}{% for i in range(1000000) %}" + "x" * 1000 + "{% endfor %}{% endfilter %}",
        "{% set ns = namespace(a='aa') %}{% for i in range(100) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}",
        "{% set ns = namespace(a='aa') %}{% for i in range(100) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
        "{% set ns = namespace(a='aa') %}{% for i in range(100) %}{% set ns.a = [ns.a, ns.a] | join %}{% endfor %}",
        "{% set ns = namespace(a=[1]) %}{% for i in range(100) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a }}",
        "{% set ns = namespace(a=[1]) %}{% for i in range(5000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a }}",
        "{% set ns = namespace(a=9) %}{% for i in range(100) %}{% set ns.a = ns.a * ns.a %}{% endfor %}",
        "{{ range(1000000) | map('string') | map('center', 9999) | list | length }}",
        "{% set l = range(100000) | list %}{% for i in range(100000) %}{% if -1 in l %}{% endif %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    ],
)
def test_bombs_are_stopped(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_limits, "OPERATIONS", 200_000)
    template = compiled(source)
    tracemalloc.start()
    try:
        with pytest.raises(TemplateFailed):
            template.text(VALUES)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


GROWN = "{% set ns = namespace(x=START, y=START) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}"
SHARED = [
    GROWN.replace("START", start).replace("STEP", step) + GROWN.replace("START", start).replace("STEP", step).replace("ns.x", "ns.y").replace("namespace(x", "namespace(x=ns.x, z")
    for start, step in (("[1]", "[ns.x, ns.x]"), ("(1,)", "(ns.x, ns.x)"), ("{'a': 1}", "{'a': ns.x, 'b': ns.x}"))
]  # fmt: skip


@pytest.mark.parametrize(
    "expression",
    [
        *("x == y", "x != y", "x in [1, y]", "[x].count(y)", "[x].index(y)", "x is eq y", "x is in [y]"),
        *("[[x], [y]] | map('first') | select('eq', y) | list", "[{'k': x}] | selectattr('k', 'eq', y) | list"),
        *("1 < 2 == (x == y)", "x | tojson", "x ~ ''", "'%s' % x", "x | urlencode", "[x] | join", "'{}'.format(x)"),
        *("'' | replace(x, 'b')", "{'a': x, 'b': y} | dictsort(by='value')", "[1, 2][x] ~ (x ~ '')"),
    ],
)
def test_values_that_share_their_parts_are_not_gone_through_for_ever(
    expression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_limits, "OPERATIONS", 20_000)
    for shared in SHARED:
        source = shared + "{% set x = ns.x %}{% set y = ns.y %}{{ " + expression + " }}"
        with pytest.raises(TemplateFailed, match=r"wf\.yaml:1:\d+: "):
            compiled(source).text(VALUES)


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "x < y",
            "[x, y] | sort",
            "[x, y] | max",
            "[x, y] | min",
            "[x, y] | unique | list",
            "[[x], [y]] | groupby(0)",
        ),
        *("{x: 1}", "dict([[x, 1]])", "namespace([[x, 1]])", "{}.get(x)", "x in {}"),
    ],
)
def test_ordering_and_hashing_too(expression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_limits, "OPERATIONS", 20_000)
    tuples = SHARED[1] + "{% set x = ns.x %}{% set y = ns.y %}"
    deep = GROWN.replace("START", "(1,)").replace("STEP", "(ns.x,)").replace("60", "600")
    for made in (tuples, deep + "{% set x = ns.x %}{% set y = ((x[0], 1),) %}"):
        with pytest.raises(TemplateFailed, match=r"too much work|nested"):
            compiled(made + "{% if " + expression + " %}{% endif %}").text(VALUES)


def test_a_value_that_changes_in_a_loop_is_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_limits, "OPERATIONS", 20_000)
    source = "{% for v in [ns.x, ns.y] %}{{ loop.changed(v) }}{% endfor %}"
    for shared in SHARED:
        with pytest.raises(TemplateFailed, match="too much work"):
            compiled(shared + source).text(VALUES)


@pytest.mark.parametrize(
    "source",
    [
        "{{ a.rfind('b' ~ a[9:]) }}",
        "{{ a.rsplit('b' ~ a[9:]) }}",
        "{{ a.strip('b' * 9999 ~ 'a') }}",
        "{{ a | trim('b' * 9999 ~ 'a') }}",
        "{{ a | wordwrap(10) }}",
        "{{ a.split('a') }}",
        "{{ ('é\n' * 1100000).splitlines() }}",
        "{% for i in range(9999) %}{% set z = a.find('b') %}{% endfor %}",
        "{% set n = [0] * 9999 %}{% for i in range(9999) %}{% set z = n | select | list %}{% endfor %}",
        "{% set n = range(9999) %}{% for i in n %}{% set z = 5.5 in n %}{% endfor %}",
        "{% set n = [a ~ 'b'] * 9999 %}{{ (a ~ 'c') in n }}",
        "{% for i in range(9999) %}" + "{% if 0 %}{% endif %}" * 500 + "{% endfor %}",
        "{% macro m() %}"
        + "{% if 0 %}{% endif %}" * 500
        + "{% endmacro %}{% for i in range(9999) %}{{ m() }}{% endfor %}",
        "{% macro m() %}{% endmacro %}{% for i in range(99) %}{{ m(*range(9999)) }}{% endfor %}",
        "{{ ('f' * 9999) | int(base=16) }}",
        "{% set ns = namespace(x=[1] * 9999) %}{% for i in range(200) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson(indent=16) }}",
    ],
)
def test_what_takes_long_in_python_itself_is_paid_for(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_limits, "OPERATIONS", 500_000)
    monkeypatch.setattr(sandbox_limits, "MAX_TEXT", 2_000_000)
    with pytest.raises(TemplateFailed):
        compiled("{% set a = 'a' * 1000000 %}" + source).text(VALUES)


def test_comparing_keeps_pythons_meaning() -> None:
    other = {"a": [1, {"b": 2.0}], "s": "é"}
    assert value("{{ other == {'s': 'é', 'a': [1, {'b': 2}]} }}", other=other) is True
    assert value("{{ [(1, 2) == [1, 2], [1] < [1, 0], [2] <= [1, 9], 'a' in 'bar', 2 in {}, 'a' not in other] }}", other=other) == [
        *(False, True, False, True, False, False)
    ]  # fmt: skip
    assert value("{{ [0 < 1 < 2, 2 < 1 < (1 / 0), 1 in [1] == true, [3, 1, 2] | sort, ['B', 'a'] | sort | first] }}") == [
        *(True, False, False, [1, 2, 3], "a")
    ]  # fmt: skip
    assert "`<` cannot compare a number with text" in failure("{{ [1] < ['a'] }}").message


def test_time_is_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_limits, "SECONDS", 0.0)
    with pytest.raises(TemplateFailed, match="takes too long: over 0 s of computing"):
        compiled("{% for i in range(99999) %}{{ i }}{% endfor %}").text(VALUES)


def test_what_is_missing_is_looked_for_only_where_it_is_reported() -> None:
    other = {f"key{n}": n for n in range(20_000)}
    source = "{% for i in range(2000) %}{% if other.nope is defined %}x{% endif %}{% endfor %}"
    assert text(source, other=other) == ""
    assert "there are 20,000 keys" in failure("{{ other.nope }}", other=other).message


def test_the_budget_is_whole_again_for_the_next_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_limits, "OPERATIONS", 1000)
    template = compiled("{% for i in range(900) %}{% endfor %}x")
    failure_free = [compiled("{% for i in range(90) %}{% endfor %}x").text(VALUES) for _ in range(50)]
    assert failure_free == ["x"] * 50
    with pytest.raises(TemplateFailed, match="too much work: over 1,000 operations"):
        template.text(VALUES)


def test_data_that_is_only_named_may_be_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_limits, "OPERATIONS", 1000)
    rows = [{"id": i, "text": ["some text"]} for i in range(5000)]
    for source in ("{{ other }}", "{{ outline.rows }}", "{{ outline['rows'] }}"):
        assert compiled(source).value({"other": rows, "outline": {"rows": rows}}) == rows
    for source in ("{{ [other, other] }}", "{{ other * 2 }}", "{{ other[1:] }}", "x{{ other }}"):
        with pytest.raises(TemplateFailed, match="too much work"):
            compiled(source).value({"other": rows})
    with pytest.raises(TemplateFailed, match="too much work"):
        compiled("{{ other }}").text({"other": rows})


def test_what_is_named_is_copied() -> None:
    rows = [{"id": 1}]
    found = compiled("{{ other }}").value({"other": rows})
    found[0]["id"] = 2
    assert rows == [{"id": 1}]


def test_ordinary_large_work_is_within_the_budget() -> None:
    rows = [{"id": i, "text": "some text"} for i in range(50_000)]
    source = "{% for r in other %}{{ r.id }}: {{ r.text | upper }}\n{% endfor %}"
    assert text(source, other=rows).count("SOME TEXT") == 50_000
    assert compiled("{{ other }}").value({"other": rows}) == rows


def test_a_text_of_sixteen_mebibytes_passes_and_one_more_does_not() -> None:
    most = "x" * sandbox_limits.MAX_TEXT
    assert text("{{ other }}", other=most) == most
    with pytest.raises(TemplateFailed, match="16,777,216 characters"):
        text("{{ other }}!", other=most)
    with pytest.raises(TemplateFailed, match="16,777,216 characters"):
        text("{{ other ~ '!' }}", other=most)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ ''.__len__() }}",
        "{{ other.__init__() }}",
        "{{ {}.__class__() }}",
        "{{ [].append(1) }}",
        "{{ {}.update({}) }}",
        "{{ {}.setdefault('a', 1) }}",
        "{{ ''.encode() }}",
        "{{ (1).to_bytes(100, 'big') }}",
        "{{ '{0.__class__}'.format('') }}",
        "{{ '{0[0]}'.format('a') }}",
        "{{ '{a.__class__}'.format(a='') }}",
        "{{ ''.format_map({}) }}",
        "{{ range.__globals__ }}",
        "{{ zip.__globals__ }}",
        "{{ range.__call__(3) }}",
        "{{ cycler.__init__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ namespace()._Namespace__attrs }}",
        "{{ joiner().__init__ }}",
        "{{ cycler('a').items }}",
        "{{ inputs.tags | map(attribute='__class__') }}",
        "{{ inputs.tags | groupby('__class__') }}",
        "{% for x in [1] %}{{ loop._iterable }}{% endfor %}",
        "{% for x in [1] %}{{ loop.__class__ }}{% endfor %}",
        "{% macro m() %}{% endmacro %}{{ m.__globals__ }}{{ m._func }}",
        "{% macro m() %}{% endmacro %}{{ m.name }}",
    ],
)
def test_nothing_but_data_can_be_reached(source: str) -> None:
    error = failure(source)
    assert "wf.yaml:1:" in error.message


PIECES = st.sampled_from(
    [
        "{{ ", " }}", "{% ", " %}", "{# ", "#}", "if ", "endif", "for x in ", "endfor", "else", "set a = ", "macro m(a)",
        "endmacro", "call ", "raw", "endraw", "filter upper", "endfilter", "with a = 1", "endwith", "other", "outline",
        "skipped", "inputs", ".topic", ".parts", "[0]", "[1:]", ".items()", ".upper()", ".x", "| default(", "| join(", "| map('",
        "| upper", "| tojson", "| int", "| sort", "| sum", "| batch(", "| format(", " is defined", " is none", " in ", " ~ ",
        " + ", " * ", " ** ", " / ", " % ", "-", "not ", " if ", " and ", "(", ")", "[", "]", "{", "}", "'", '"', ",", ":", "1", "0",
        "9999999", "1.5", "'a'", "none", "true", "[1, 2]", "{'a': 1}", "range(", "zip(", "dict(", "\n", "\\", "é", "$", " ",
    ]
)  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(PIECES, max_size=14).map("".join))
def test_only_flowllms_own_errors_escape_from_any_text(source: str) -> None:
    _try(source)


EXPRESSIONS = st.recursive(
    st.sampled_from(
        ["other", "outline", "skipped", "inputs.tags", "inputs", "headline", "1", "0", "-7", "2.5", "'a'", "''", "none", "true",
         "[]", "[1, 'b', none]", "{}", "{'a': [1]}", "range(3)", "outline.parts", "10 ** 12", "namespace(a=1)", "range", "(1,)"]
    ),
    lambda inner: st.one_of(
        st.builds(
            "({} {} {})".format,
            inner,
            st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "~", "==", "<", ">=", "in", "and", "or", "not in"]),
            inner,
        ),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds("{}[{}]".format, inner, inner),
        st.builds("{}[{}:{}]".format, inner, inner, inner),
        st.builds(
            "({} | {})".format,
            inner,
            st.sampled_from(
                ["abs", "batch(2)", "capitalize", "center", "dictsort", "first", "float", "int", "items", "join", "last", "length", "list", "lower", "max", "min", "map('upper')", "reverse", "round", "select", "slice(2)", "slug", "sort", "string", "striptags", "sum", "title", "tojson", "trim", "truncate(3)", "unique", "upper", "urlencode", "wordcount", "wordwrap(2)", "filesizeformat", "groupby('a')", "indent", "escape", "safe", "selectattr('a')", "d(1)", "format(1)"]
            ),
        ),
        st.builds("({} | {}({}))".format, inner, st.sampled_from(["batch", "center", "join", "format", "indent", "round", "slice", "truncate", "replace", "default"]), inner),
        st.builds("{}.{}()".format, inner, st.sampled_from(["items", "keys", "upper", "split", "strip", "count", "get", "x"])),
        st.builds("{}.{}({})".format, inner, st.sampled_from(["join", "count", "get", "index", "split", "center", "format", "replace", "find"]), inner),
        st.builds("({} is {})".format, inner, st.sampled_from(["none", "string", "mapping", "number", "iterable", "odd", "divisibleby(0)", "sameas(1)"])),
        st.builds("(-{})".format, inner),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EXPRESSIONS)
def test_only_flowllms_own_errors_escape_from_any_expression(expression: str) -> None:
    _try("{{ " + expression + " }}")
    _try("{% for x in " + expression + " %}{{ x }}{% endfor %}")


def _try(source: str) -> None:
    try:
        template = compiled(source)
    except TemplateProblems as wrong:
        for problem in wrong.problems:
            assert problem.where.line >= 1
            assert problem.where.column >= 1
            assert problem.message
        return
    for render in (template.text, template.value, template.condition):
        message = "wf.yaml:"
        try:
            render(VALUES)
        except StepError as error:
            message = error.message
        assert message.startswith("wf.yaml:")
