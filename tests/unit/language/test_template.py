"""What templates give: text, values, conditions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowllm.core.errors import ConditionFailed, TemplateFailed
from flowllm.language.template import RESERVED_IDS, Names, ValueTemplate, compile_template
from tests.support.templates import NAMES, VALUES, WHERE, compiled, failure, problems, text, value

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class TestText:
    @given(st.text().filter(lambda s: not any(b in s for b in ("{{", "{%", "{#", "\r", "\n"))))
    def test_constant_text_renders_to_itself(self, source: str) -> None:
        assert compile_template(source, where=WHERE, names=NAMES).text({}) == source

    @pytest.mark.parametrize("tail", ["", "\n", "\n\n", " \n"])
    def test_one_final_newline_is_dropped_with_and_without_anything_to_fill_in(self, tail: str) -> None:
        kept = tail.removesuffix("\n")
        assert text(f"a{tail}") == f"a{kept}"
        assert text(f"{{{{ other }}}}{tail}") == f"O{kept}"
        assert text(f"a {{{{ other }}}}b{tail}") == f"a Ob{kept}"

    def test_line_ends_become_newlines_in_both(self) -> None:
        assert text("a\r\nb") == "a\nb"
        assert text("a\r\n{{ other }}") == "a\nO"

    def test_blocks_leave_no_empty_lines(self) -> None:
        assert text("a\n  {% if true %}\n  b\n  {% endif %}\nc\n") == "a\n  b\nc"

    def test_white_space_control_keeps_what_is_around(self) -> None:
        assert text("a  {{- other -}}  b{% if true -%}  c{% endif %}") == "aObc"

    def test_raw_and_comments(self) -> None:
        assert text("{% raw %}{{ x }}{% endraw %}{# {{ nothing }} #}!") == "{{ x }}!"

    @pytest.mark.parametrize(
        ("expression", "shown"),
        [
            ("true", "true"),
            ("outline.ok", "true"),
            ("1.0", "1.0"),
            ("10", "10"),
            ("['é', '<', none, true]", '["é", "<", null, true]'),
            ("{'b': 1, 'a': 2}", '{"b": 1, "a": 2}'),
            ("(1, 2)", "[1, 2]"),
            ("inputs.tags | map('upper')", '["A", "B"]'),
            ("outline.parts | map(attribute='n')", "[1, 2]"),
            ("range(3)", "[0, 1, 2]"),
            ("[1, 2] | reverse", "[2, 1]"),
            ("{'a': 1}.items()", '[["a", 1]]'),
            ("'x' if false", ""),
        ],
    )
    def test_values_in_text_are_json(self, expression: str, shown: str) -> None:
        assert text(f"{{{{ {expression} }}}}") == shown
        assert text(f"<{{{{ {expression} }}}}>") == f"<{shown}>"

    @pytest.mark.parametrize(
        ("expression", "shown"),
        [
            ("true ~ [1, false] ~ {'é': '<'}", 'true[1, false]{"é": "<"}'),
            ("[true, [1, 'é'], 'x'] | join('|')", 'true|[1, "é"]|x'),
            ("outline.parts | join(', ', attribute='n')", "1, 2"),
            ("', '.join([true, 2])", "true, 2"),
            ("{'é<': ['&', \"'\"]} | tojson", '{"é<": ["&", "\'"]}'),
            ("'%s and %s' | format(true, [1])", "true and [1]"),
            ("'%s' % ([true],)", "[true]"),
            ("'{} {x}'.format(true, x={'a': 1})", 'true {"a": 1}'),
            ("'a-b' | replace('-', true)", "atrueb"),
            ("'a-b'.replace('-', [1])", "a[1]b"),
            ("[true] | upper", "[TRUE]"),
            ("true | string", "true"),
            ("'<é>' | escape", "&lt;é&gt;"),
            ("'a<' | safe ~ '<'", "a<<"),
            ("[true] | indent", "[true]"),
        ],
    )
    def test_every_way_to_text_is_json(self, expression: str, shown: str) -> None:
        assert text(f"_{{{{ {expression} }}}}_") == f"_{shown}_"

    @pytest.mark.parametrize("expression", ["none", "outline.none", "'a' ~ none", "[1, none] | join", "none | upper"])
    def test_null_in_text_is_an_error_that_says_what_to_write(self, expression: str) -> None:
        with pytest.raises(TemplateFailed) as caught:
            text(f"x{{{{ {expression} }}}}")
        assert "null" in caught.value.message
        assert "x or ''" in caught.value.hint

    def test_null_in_a_prompt_that_is_one_expression_is_an_error_too(self) -> None:
        with pytest.raises(TemplateFailed, match="null"):
            text("{{ outline.none }}")
        assert text("{{ outline.none or '' }}") == ""

    def test_text_from_values_is_data(self) -> None:
        assert text("{{ headline }}!") == "All about {{ 7*7 }}!"
        assert text("{{ other }}!", other="{% for x in y %}") == "{% for x in y %}!"

    def test_nothing_is_html(self) -> None:
        assert text("{{ inputs.topic }}.") == "<Tea> & é."

    def test_inputs_that_are_not_finite_are_errors(self) -> None:
        assert "inf" in failure("{{ 'inf' | float }}").message


class TestValue:
    @given(JSON)
    def test_one_expression_keeps_its_type(self, data: Any) -> None:
        template = compiled(" {{ other }}\n")
        found = template.value({**VALUES, "other": data})
        assert json.dumps(found) == json.dumps(data)

    def test_a_value_is_a_copy(self) -> None:
        given_value = {"a": [1]}
        found = value("{{ other }}", other=given_value)
        found["a"].append(2)
        assert given_value == {"a": [1]}

    def test_white_space_around_does_not_matter_for_values_and_stays_in_text(self) -> None:
        assert value("\n  {{ 3 }}  \n") == 3
        assert text(" {{ 3 }} ") == " 3 "

    @pytest.mark.parametrize("source", ["{{ 3 }}.", "{{ 1 }}{{ 2 }}", "{% if true %}{{ 3 }}{% endif %}", "3"])
    def test_everything_else_is_text(self, source: str) -> None:
        assert isinstance(value(source), str)

    def test_text_that_looks_like_json_stays_text(self) -> None:
        assert value("{{ other }}", other="[1,2]") == "[1,2]"
        assert value("{{ other }}", other=" 7 ") == " 7 "

    def test_what_json_cannot_hold_is_an_error(self) -> None:
        for source in (
            "{{ {1: 'a'} }}",
            "{{ range }}",
            "{{ namespace(a=1) }}",
            "{{ (-8) ** 0.5 }}",
            "{{ 'a' if false }}",
        ):
            failure(source)

    def test_a_template_can_be_used_again_and_again(self) -> None:
        template = compiled(
            "{% set ns = namespace(n=0) %}{% for x in inputs.tags %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
        )
        assert [template.text(VALUES) for _ in range(3)] == ["2", "2", "2"]
        with pytest.raises(TemplateFailed):
            compiled("{{ other.x }}").value(VALUES)
        assert template.text({**VALUES, "inputs": {"tags": [1]}}) == "1"

    def test_templates_do_not_share_names(self) -> None:
        compiled("{% set mine = 1 %}{{ mine }}").text(VALUES)
        assert problems("{{ mine }}")[0][2] == "unknown name `mine`"


class TestAccess:
    def test_a_key_comes_before_a_method(self) -> None:
        assert value("{{ other.items }}", other={"items": 5}) == 5
        assert value("{{ other.keys }}", other={"keys": [1]}) == [1]

    def test_a_key_of_that_name_hides_the_method(self) -> None:
        assert "`items` is a key" in failure("{{ other.items() }}", other={"items": 5}).message

    def test_a_method_that_is_not_called_is_an_error(self) -> None:
        error = failure("{{ outline.items }}")
        assert error.message.startswith("wf.yaml:1:12: ")
        assert "`.items()`" in error.message
        assert "call it" in failure("{{ other.upper }}").message

    def test_methods_can_be_called(self) -> None:
        assert value("{{ outline.get('title') }}") == "T"
        assert value("{{ {'a': 1}.items() }}") == [["a", 1]]
        assert value("{{ other.lower().upper() }}") == "O"

    def test_brackets_never_reach_methods(self) -> None:
        assert "`items`" in failure("{{ outline['items']() }}").message
        assert "`items`" in failure("{{ outline['items'] }}").message

    @pytest.mark.parametrize(
        ("source", "column", "said"),
        [
            ("{{ outline.titel }}", 12, "did you mean `title`?"),
            ("{{ outline['titel'] }}", 12, "did you mean `title`?"),
            ("{{ outline.parts[0].m }}", 21, "there is `n`"),
            ("{{ outline.parts[5] }}", 18, "no item 5"),
            ("{{ outline.parts.n }}", 18, "a list has no key `n`"),
            ("{{ other.x.y }}", 10, "text has no key `x`"),
            ("{{ outline[1] }}", 12, "keys of a mapping are text"),
            ("{{ 1 ~ outline.titel }}", 16, "no key `titel`"),
        ],
    )
    def test_a_missing_key_is_reported_with_its_place_and_what_there_is(
        self, source: str, column: int, said: str
    ) -> None:
        error = failure(source)
        assert error.message.startswith(f"wf.yaml:1:{column}: ")
        assert said in error.message

    def test_the_place_is_right_on_later_lines(self) -> None:
        with pytest.raises(TemplateFailed) as caught:
            text("one\n{% if true %}\n  two {{ outline.titel }}\n{% endif %}\n")
        assert caught.value.message.startswith("wf.yaml:3:18: ")

    def test_the_place_of_other_errors_is_their_expression(self) -> None:
        with pytest.raises(TemplateFailed, match=r"^wf\.yaml:2:6: division by zero"):
            text("a\nb {{ inputs.count / 0 }} c")

    def test_slices(self) -> None:
        assert value("{{ inputs.tags[1:] ~ other[:1] }}") == '["b"]O'
        assert value("{{ inputs.tags[::-1] }}") == ["b", "a"]


class TestSkipped:
    def test_a_skipped_step_is_undefined(self) -> None:
        assert value("{{ skipped is defined }}") is False
        assert value("{{ skipped | default('none') }}") == "none"
        assert value("{{ skipped.a.b | default(0) }}") == 0
        assert value("{{ skipped['a'][0] | d(0) }}") == 0
        assert value("{{ skipped.a.b is defined }}") is False
        assert value("{{ skipped.a | default(skipped.b) | default('z') }}") == "z"
        assert text("{{ other | default(skipped) }}.") == "O."

    def test_a_missing_key_gets_the_default_as_well(self) -> None:
        assert value("{{ outline.nope.nope | default(1) }}") == 1

    def test_using_it_otherwise_is_an_error_with_its_place(self) -> None:
        with pytest.raises(TemplateFailed) as caught:
            text("{{ other }} {{ skipped | default('') }} {{ other ~ skipped }}")
        assert caught.value.message.startswith("wf.yaml:1:52: step `skipped` has no output")
        assert "is defined" in caught.value.hint

    @pytest.mark.parametrize(
        "source",
        [
            "{{ skipped.x }}", "{{ skipped == 1 }}", "{{ not skipped }}", "{{ [skipped] }}", "{{ skipped | upper }}",
            "{{ skipped | length }}", "{{ skipped is none }}", "{{ skipped is mapping }}", "{{ range(skipped) }}",
            "{{ skipped() }}", "{{ skipped.x() }}", "{{ skipped + 1 }}", "{{ 'a' in skipped }}", "{{ -skipped }}",
            "{{ skipped[0] }}", "{{ outline[skipped] }}", "{{ skipped | tojson }}", "{{ 'a' | replace('a', skipped) }}",
            "{% for x in skipped %}{% endfor %}", "{% if skipped %}{% endif %}",
        ],
    )  # fmt: skip
    def test_undefined_is_strict_everywhere(self, source: str) -> None:
        assert "`skipped`" in failure(source).message

    def test_a_name_that_was_not_set(self) -> None:
        with pytest.raises(TemplateFailed, match=r"^wf\.yaml:3:4: `found` has no value here"):
            text("{% if inputs.count > 5 %}{% set found = 1 %}{% endif %}\n\n{{ found }}")


class TestCondition:
    @pytest.mark.parametrize(("expression", "outcome"), [("1 < 2", True), ("'a' == 'b'", False), ("outline.ok", True)])
    def test_true_and_false(self, expression: str, outcome: bool) -> None:
        assert compiled(f" {{{{ {expression} }}}} ", condition=True).condition(VALUES) is outcome

    @pytest.mark.parametrize("expression", ["'no'", "0", "1", "''", "none", "[]", "'true'", "{}"])
    def test_anything_else_is_an_error(self, expression: str) -> None:
        with pytest.raises(ConditionFailed) as caught:
            compiled(f"{{{{ {expression} }}}}", condition=True).condition(VALUES)
        assert caught.value.message.startswith("wf.yaml:1:4: a condition must give true or false")

    def test_an_expression_that_fails_is_a_failed_condition(self) -> None:
        with pytest.raises(ConditionFailed, match="no key `nope`"):
            compiled("{{ outline.nope }}", condition=True).condition(VALUES)

    @pytest.mark.parametrize(
        "source", ["true", "", "{{ true }}.", "{{ true }}{{ true }}", "{% if true %}true{% endif %}"]
    )
    def test_it_is_exactly_one_expression(self, source: str) -> None:
        assert "exactly one `{{ expression }}`" in problems(source, condition=True)[0][2]


class TestFunctions:
    @pytest.mark.parametrize(
        ("expression", "outcome"),
        [
            ("zip([1, 2, 3], 'ab')", [[1, "a"], [2, "b"]]),
            ("zip(inputs.tags | map('upper'), range(2))", [["A", 0], ["B", 1]]),
            ("product([1, 2], ['a', 'b'])", [[1, "a"], [1, "b"], [2, "a"], [2, "b"]]),
            ("product([1], [])", []),
            ("'Été à  Paris -- 2026!' | slug", "ete-a-paris-2026"),
            ("'日本語 テスト' | slug", "日本語-テスト"),
            ("'../../etc/passwd' | slug", "etc-passwd"),
            ("[3, 1, 2] | sort | join", "123"),
            ("[1, 2.5] | sum", 3.5),
            ("outline.parts | sum(attribute='n')", 3),
            ("outline.parts | selectattr('n', 'gt', 1) | list | length", 1),
            ("inputs.tags | map('upper') | length", 2),
            ("[1, 2, 3] | batch(2)", [[1, 2], [3]]),
            ("[1, 2, 3] | batch(2, 0)", [[1, 2], [3, 0]]),
            ("[1, 2, 3] | slice(2)", [[1, 2], [3]]),
            ("[{'k': 1, 'v': 2}] | groupby('k')", [[1, [{"k": 1, "v": 2}]]]),
            ("'%05.1f|%-3d|%%|%x' | format(2.25, 7, 255)", "002.2|7  |%|ff"),
            ("'%(a)s-%(b)d' % {'a': [1], 'b': 2}", "[1]-2"),
            ("'{:>5}|{:<4}'.format('ab', 1)", "   ab|1   "),
            ("dict(a=1).a", 1),
            ("2 ** 10", 1024),
            ("'ab' * 2", "abab"),
            ("{'b': 1} | dictsort", [["b", 1]]),
            ("'a b' | urlencode", "a%20b"),
            ("'é' | center(3)", " é "),
            ("'a,b'.split(',')", ["a", "b"]),
            ("'ab'.partition('b')", ["a", "b", ""]),
            ("'7'.zfill(3)", "007"),
            ("[1.26] | map('round', 1) | list", [1.3]),
            ("{'a': [1]} | tojson(indent=2)", '{\n  "a": [\n    1\n  ]\n}'),
            ("'one two' | wordwrap(4)", "one\ntwo"),
        ],
    )
    def test_outcomes(self, expression: str, outcome: Any) -> None:
        assert value(f"{{{{ {expression} }}}}") == outcome

    def test_loops_macros_and_blocks_work(self) -> None:
        assert (
            text("{% for k, v in outline.items() %}{{ loop.index }}{{ k }}{{ ',' if not loop.last }}{% endfor %}.")
            == "1title,2parts,3ok,4none,5é<."
        )
        assert (
            text(
                "{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller() if caller is defined else '' }}{% endmacro %}{{ m(1) }}{% call m(3) %}!{% endcall %}"
            )
            == "1232!"
        )
        assert (
            text(
                "{% for n in [1, [2]] recursive %}{% if n is number %}{{ n }}{% else %}({{ loop(n) }}){% endif %}{% endfor %}."
            )
            == "1(2)."
        )
        assert text("{% filter upper %}a{{ other }}b{% endfilter %}.") == "AOB."
        assert text("{% set b %}x{{ other }}{% endset %}{{ b }}{{ b }}") == "xOxO"
        assert text("{% with a = 1, c = 2 %}{{ a + c }}{% endwith %}.") == "3."
        assert text("{% for x in [1,2,3] if x > 1 %}{{ loop.length }}{{ x }}{% else %}none{% endfor %}.") == "2223."
        assert text("{% for x in [] %}{% else %}none{% endfor %}.") == "none."
        assert (
            text("{% for g in [{'k': 1}, {'k': 2}] | groupby('k') %}{{ g.grouper }}{{ g.list | length }} {% endfor %}.")
            == "11 21 ."
        )
        assert text("{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.current }}.") == "aba."
        assert (
            text("{% for x in [1, 1, 2] %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x) }}{% endfor %}.")
            == "atruebfalseatrue."
        )

    def test_macros_see_what_is_set_after_them(self) -> None:
        assert text("{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}.") == "B."


class TestValueTemplate:
    def test_texts_in_data_are_rendered_and_keys_are_not(self) -> None:
        tree = {"{{ k }}": [compiled("{{ inputs.count }}"), 1, None], "t": compiled("n={{ inputs.count }}")}
        assert ValueTemplate.of(tree).render(VALUES) == {"{{ k }}": [3, 1, None], "t": "n=3"}

    def test_the_strictest_reference_holds(self) -> None:
        tree = [compiled("{{ other | default(1) }}"), {"a": compiled("x {{ other }}")}]
        template = ValueTemplate.of(tree)
        assert [(r.step, r.tolerance.name, r.where.column) for r in template.references] == [("other", "REQUIRED", 6)]

    def test_plain_data_is_itself(self) -> None:
        assert ValueTemplate.of({"a": [1, "x"]}).render({}) == {"a": [1, "x"]}


def test_reserved_ids_hold_what_the_language_names() -> None:
    assert {
        "inputs",
        "steps",
        "secrets",
        "item",
        "index",
        "row",
        "run",
        "output",
        "accepted",
        "loop",
        "self",
        "if",
        "for",
        "not",
        "true",
        "none",
        "range",
        "zip",
        "product",
    } <= RESERVED_IDS
    assert not {"headline", "context", "result", "template"} & RESERVED_IDS


@pytest.mark.parametrize(
    "word", ["result", "context", "environment", "undefined", "concat", "missing", "_x", "class", "def", "l_0_x"]
)
def test_ids_that_mean_something_to_python_are_just_names(word: str) -> None:
    template = compile_template(
        "{{ " + word + " }}", where=WHERE, names=Names(inputs=frozenset(), steps=frozenset({word}))
    )
    assert template.value({word: [1]}) == [1]
    looped = compile_template(
        "{% for i in [1] %}{{ " + word + " }}{{ i }}{% endfor %}",
        where=WHERE,
        names=Names(inputs=frozenset(), steps=frozenset({word})),
    )
    assert looped.text({word: "v"}) == "v1"
