"""The names in templates: what exists, which steps are referred to, and how."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowllm.core.types import Part, Tolerance
from flowllm.language.problems import Location
from flowllm.language.template import ValueTemplate, compile_template
from tests.support.templates import NAMES, WHERE, compiled, problems, value


def references(source: str) -> dict[str, Tolerance]:
    return {reference.step: reference.tolerance for reference in compiled(source).references}


R, O, A = Tolerance.REQUIRED, Tolerance.OPTIONAL, Tolerance.ANY  # noqa: E741


class TestReferences:
    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("plain text with headline in it", {}),
            ("{# {{ headline }} #}{% raw %}{{ headline }}{% endraw %}", {}),
            ("{{ 'headline' }}", {}),
            ("{{ {'headline': 1}.headline }}", {}),
            ("{{ inputs.topic }} {{ run.date }}", {}),
            ("{{ headline }}", {"headline": R}),
            ("{{ headline.a[0].b }}", {"headline": R}),
            ("{{ outline[headline] }}", {"outline": R, "headline": R}),
            ("{{ inputs[headline] }}", {"headline": R}),
            ("{{ outline.get(headline) }}", {"outline": R, "headline": R}),
            ("{% if headline %}{% elif other %}{% else %}{{ outline }}{% endif %}", {"headline": R, "other": R, "outline": R}),
            ("{% for x in headline if x != other %}{% endfor %}", {"headline": R, "other": R}),
            ("{% macro m(a=headline) %}{{ other }}{% endmacro %}", {"headline": R, "other": R}),
            ("{% set a = headline %}{% with b = other %}{% endwith %}", {"headline": R, "other": R}),
            ("{% filter replace('a', headline) %}{{ other }}{% endfilter %}", {"headline": R, "other": R}),
            ("{% call(x) m(headline) %}{{ other }}{% endcall %}{% macro m(y) %}{% endmacro %}", None),
            ("{{ headline if other else outline }}", {"headline": R, "other": R, "outline": R}),
            ("{{ 'a' ~ headline ~ [other, {'k': outline}] }}", {"headline": R, "other": R, "outline": R}),
            ("{{ 'x' is in headline }}", {"headline": R}),
            # records
            ("{{ steps.headline }}", {"headline": A}),
            ("{{ steps.headline.get('model') }}", {"headline": A}),
            ("{{ steps.headline }}{{ steps.headline.model }}", {"headline": R}),
            ("{{ steps['headline'].model }}", {"headline": R}),
            ("{{ steps.headline.usage.output_tokens }}", {"headline": R}),
            ("{{ steps.headline.status }}", {"headline": A}),
            ("{{ steps['headline']['status'] }}", {"headline": A}),
            ("{{ steps.headline.error.message }}", {"headline": A}),
            ("{{ steps.headline.error }}{{ steps.headline.cost_usd }}", {"headline": R}),
            ("{{ steps.headline.status }}{{ headline }}", {"headline": R}),
            # optional
            ("{{ headline is defined }}", {"headline": O}),
            ("{{ headline is not defined }}", {"headline": O}),
            ("{{ headline is undefined }}", {"headline": O}),
            ("{{ headline | default('') }}", {"headline": O}),
            ("{{ headline | d('') }}", {"headline": O}),
            ("{{ headline.a['b'].c | default('') }}", {"headline": O}),
            ("{{ headline.a is defined }}", {"headline": O}),
            ("{{ headline | default(other) }}", {"headline": O, "other": O}),
            ("{{ headline.a | default(other.b) }}", {"headline": O, "other": O}),
            ("{{ headline | default(default_value=other) }}", {"headline": O, "other": O}),
            ("{{ headline | default(other) | default(outline) }}", {"headline": O, "other": O, "outline": O}),
            ("{{ headline | default(other | default(outline)) }}", {"headline": O, "other": O, "outline": O}),
            ("{% if headline is defined %}{{ headline.x }} {{ other }}{% endif %}", {"headline": O, "other": R}),
            ("{{ headline }}{{ headline | default('') }}", {"headline": O}),
            ("{{ headline is defined }}{{ steps.headline.error }}", {"headline": O}),
            ("{{ steps.headline.error | default('') }}", {"headline": A}),
            ("{{ headline | upper | default('') }}", {"headline": R}),
            ("{{ headline is none }}", {"headline": R}),
            ("{{ other[headline] | default('') }}", {"other": O, "headline": R}),
        ],
    )  # fmt: skip
    def test_steps_and_what_is_tolerated(self, source: str, expected: dict[str, Tolerance] | None) -> None:
        if expected is None:
            assert problems(source)[0][2] == "unknown name `m`"
        else:
            assert references(source) == expected

    def test_local_names_are_no_references(self) -> None:
        source = "{% for item in inputs.tags %}{% set row = item %}{{ row }}{{ loop.index }}{% endfor %}"
        assert references(source) == {}

    def test_a_reference_stands_where_the_first_of_its_kind_does(self) -> None:
        template = compiled("one\n  {{ other }} {{ headline }}\n{{ other }}")
        found = [(r.step, r.where.line, r.where.column) for r in template.references]
        assert found == [("other", 2, 6), ("headline", 2, 18)]

    def test_places_come_from_the_offsets_and_are_the_templates_own_without_one(self) -> None:
        moved = compile_template(
            "x\n {{ other }}",
            where=WHERE,
            names=NAMES,
            locate=lambda offset: Location(file="wf.yaml", line=12, column=4 + offset),
        )
        assert str(moved.references[0].where) == "wf.yaml:12:10"
        fixed = compile_template("x\n {{ other }}", where=WHERE, names=NAMES)
        assert fixed.references[0].where == WHERE


class TestUsed:
    @pytest.mark.parametrize(
        ("source", "names", "bare", "single"),
        [
            ("text", set(), None, False),
            ("{{ headline }}", set(), "headline", True),
            (" {{ headline }}\n", set(), "headline", True),
            ("{{ headline.a }}", set(), None, True),
            ("{{ headline | length }}", set(), None, True),
            ("{{ headline }}{{ headline }}", set(), None, False),
            ("{{ inputs.topic }}{{ run.id }}", {"inputs", "run"}, None, False),
            ("{{ steps.headline.rows }}", {"steps"}, None, True),
            ("{{ item.id ~ index }}", {"item", "index"}, None, True),
            ("{% for x in item %}{{ x }}{{ loop.index }}{% endfor %}", {"item"}, None, False),
        ],
    )
    def test_names_and_bare(self, source: str, names: set[str], bare: str | None, single: bool) -> None:
        local = replace(NAMES, local=frozenset({"item", "index"}))
        found = compile_template(source, where=WHERE, names=local)
        assert (found.names, found.bare, found.is_expression) == (names, bare, single)

    def test_of_a_value_all_templates_count(self) -> None:
        local = replace(NAMES, local=frozenset({"item"}))
        sources = ("{{ item }}", "{{ inputs.topic }}{{ steps.headline.rows }}", "{{ headline | default(1) }}")
        found = ValueTemplate.of([compile_template(one, where=WHERE, names=local) for one in sources])
        assert found.names == {"item", "inputs", "steps"}
        assert [(one.step, one.tolerance, one.parts) for one in found.references] == [
            ("headline", R, {Part.ROWS, Part.OUTPUT})
        ]

    @pytest.mark.parametrize(
        ("source", "parts"),
        [
            ("{{ headline }}{{ headline.a[0] }}", {Part.OUTPUT}),
            ("{{ steps.headline.rows[0].item.x }}{{ steps['headline'].rows }}", {Part.ROWS}),
            ("{{ steps.headline }}", {Part.ROWS, Part.RECORD}),
            ("{{ steps.headline[run.id] }}", {Part.ROWS, Part.RECORD}),
            ("{{ steps.headline.get('rows') }}", {Part.ROWS, Part.RECORD}),
            ("{{ steps.headline.counts.total }}", {Part.RECORD}),
            ("{{ steps.headline.status }}{{ steps.headline.rows }}{{ headline }}", set(Part)),
        ],
    )
    def test_parts_of_a_step(self, source: str, parts: set[Part]) -> None:
        assert [reference.parts for reference in compiled(source).references] == [parts]


class TestUnknown:
    def test_what_is_near_may_be_a_name_of_the_item(self) -> None:
        (found,) = problems("{{ itm.x }}", names=replace(NAMES, local=frozenset({"item", "index"})))
        assert found[3] == "did you mean `item`?"

    @pytest.mark.parametrize(
        ("source", "column", "message", "hint"),
        [
            ("{{ headlin }}", 4, "unknown name `headlin`", "did you mean `headline`?"),
            ("a {{ 1 + outlin.x }}", 10, "unknown name `outlin`", "did you mean `outline`?"),
            ("{{ topic }}", 4, "unknown name `topic`", "write `inputs.topic`"),
            ("{{ TOKEN }}", 4, "unknown name `TOKEN`", "write `secrets.TOKEN`"),
            ("{{ inputs.topik }}", 11, "unknown input `topik`", "did you mean `topic`?"),
            ("{{ inputs['topik'] }}", 11, "unknown input `topik`", "did you mean `topic`?"),
            ("{{ inputs . topik }}", 13, "unknown input `topik`", "did you mean `topic`?"),
            ("{{ inputs.items }}", 11, "unknown input `items`", ""),
            ("{{ steps.headlin.status }}", 10, "unknown step `headlin`", "did you mean `headline`?"),
            ("{{ steps['headlin'] }}", 10, "unknown step `headlin`", "did you mean `headline`?"),
            ("{{ steps.headline.modle }}", 19, "unknown field `modle` of `steps.headline`", "did you mean `model`?"),
            ("{{ steps.headline.output }}", 19, "unknown field `output` of `steps.headline`", ""),
            ("{{ steps.headline.usage.outputs }}", 25, "unknown field `outputs` of `steps.headline.usage`", "did you mean `output_tokens`?"),
            ("{{ steps.headline.error.msg }}", 25, "unknown field `msg` of `steps.headline.error`", ""),
            ("{{ steps.headline.counts.al }}", 26, "unknown field `al` of `steps.headline.counts`", ""),
            ("{{ run.dat }}", 8, "unknown field `dat` of `run`", "did you mean `date`?"),
            ("{{ steps }}", 4, "`steps` cannot be used as a whole", ""),
            ("{{ steps[inputs.topic] }}", 4, "`steps` cannot be used as a whole", ""),
            ("{% for s in steps %}{% endfor %}", 13, "`steps` cannot be used as a whole", ""),
            ("{{ other | uper }}", 12, "unknown filter `uper`", "did you mean `upper`?"),
            ("{{ other |  trim | uper }}", 20, "unknown filter `uper`", "did you mean `upper`?"),
            ("{{ inputs.tags | map('uper') }}", 22, "unknown filter `uper`", "did you mean `upper`?"),
            ("{{ inputs.tags | select('definde') }}", 25, "unknown test `definde`", "did you mean `defined`?"),
            ("{{ inputs.tags | rejectattr('x', 'definde') }}", 34, "unknown test `definde`", "did you mean `defined`?"),
            ("{{ other is definde }}", 13, "unknown test `definde`", "did you mean `defined`?"),
            ("{{ other is  not  definde }}", 19, "unknown test `definde`", "did you mean `defined`?"),
            ("{{ rang(3) }}", 4, "unknown name `rang`", "did you mean `range`?"),
            ("{{ lipsum() }}", 4, "unknown name `lipsum`", ""),
            ("{{ now() }}", 4, "unknown name `now`", ""),
            ("{{ self }}", 4, "unknown name `self`", ""),
            ("{{ loop.index }}", 4, "unknown name `loop`", "only known within a `for`"),
            ("{{ other | random }}", 12, "the filter `random` cannot be used", "always gives the same"),
            ("{{ other | attr('x') }}", 12, "the filter `attr` cannot be used", "x.name"),
            ("{{ item }}", 4, "unknown name `item`", "only known in a step that has `foreach`"),
            ("{{ index }}", 4, "unknown name `index`", "`foreach`"),
            ("{{ row.id }}", 4, "unknown name `row`", "with --over each column"),
            ("{{ output.score }}", 4, "unknown name `output`", "`accept.when`"),
            ("{{ accepted }}", 4, "unknown name `accepted`", "`accept.when`"),
        ],
    )  # fmt: skip
    def test_each_is_reported_with_its_column(self, source: str, column: int, message: str, hint: str) -> None:
        found = problems(source)
        assert len(found) == 1
        assert found[0][:2] == (1, column)
        assert message in found[0][2]
        assert hint in found[0][3]

    def test_all_of_a_template_at_once_in_the_order_of_its_text(self) -> None:
        source = "{% macro m() %}{{ first }}{% endmacro %}\n{{ second | third }}\n\n  {{ inputs.fourth }}"
        assert [(line, column) for line, column, *_ in problems(source)] == [(1, 19), (2, 4), (2, 13), (4, 13)]

    def test_methods_of_whole_mappings_may_be_called(self) -> None:
        assert value("{{ inputs.items() | length }}") == 3
        assert value("{{ inputs.get('nope', 1) }}") == 1
        assert value("{{ run.keys() }}") == ["id", "date", "started_at"]
        assert value("{{ steps.headline.usage.items() | length }}") == 4
        assert value("{{ steps.headline.keys() | first }}") == "usage"

    def test_whole_inputs_and_computed_keys(self) -> None:
        assert value("{{ inputs }}")["count"] == 3
        assert value("{{ inputs['to' ~ 'pic'] }}") == "<Tea> & é"
        assert value("{{ run }}")["id"] == "r1"


class TestScopes:
    @pytest.mark.parametrize(
        ("source", "column"),
        [
            ("{% set headline = 1 %}", 8),
            ("{% set a, headline = 1, 2 %}", 11),
            ("{% set headline %}x{% endset %}", 8),
            ("{% for headline in [] %}{% endfor %}", 8),
            ("{% for a, headline in [] %}{% endfor %}", 11),
            ("{% macro m(headline) %}{% endmacro %}", 12),
            ("{% macro headline() %}{% endmacro %}", 10),
            ("{% with headline = 1 %}{% endwith %}", 9),
            ("{% macro m() %}{% endmacro %}{% call(headline) m() %}{% endcall %}", 38),
        ],
    )
    def test_nothing_takes_a_steps_id(self, source: str, column: int) -> None:
        found = problems(source)
        assert found == [(1, column, "`headline` is the id of a step and cannot be used for anything else", "")]

    @pytest.mark.parametrize("name", ["inputs", "steps", "run", "secrets", "loop", "self"])
    def test_nor_a_name_with_a_meaning(self, name: str) -> None:
        assert "a meaning of its own" in problems(f"{{% set {name} = 1 %}}")[0][2]

    @pytest.mark.parametrize(
        "source",
        [
            "{{ a }}{% set a = 1 %}",
            "{% for a in [1] %}{% endfor %}{{ a }}",
            "{% for x in [1] %}{% set a = 1 %}{% endfor %}{{ a }}",
            "{% for a in a %}{% endfor %}",
            "{% for x in [1] %}{% set a = 1 %}{% else %}{{ a }}{% endfor %}",
            "{% with a = 1 %}{% endwith %}{{ a }}",
            "{% with a = 1, b = a %}{% endwith %}",
            "{% macro m(a) %}{% endmacro %}{{ a }}",
            "{% macro m() %}{% set a = 1 %}{% endmacro %}{{ a }}",
            "{% set b %}{% set a = 1 %}{% endset %}{{ a }}",
            "{% filter upper %}{% set a = 1 %}{% endfilter %}{{ a }}",
            "{% set a.b = 1 %}",
        ],
    )
    def test_names_end_with_their_block(self, source: str) -> None:
        assert [found[2] for found in problems(source)] == ["unknown name `a`"]

    def test_an_if_is_no_scope(self) -> None:
        compiled("{% if true %}{% set a = 1 %}{% else %}{% set a = 2 %}{% endif %}{{ a }}")


class TestSecrets:
    def test_only_where_they_are_allowed(self) -> None:
        found = problems("x {{ secrets.TOKEN }}")
        assert found[0][:3] == (1, 6, "secrets cannot be used here")
        assert value_of("{{ secrets.TOKEN }}") == "hush"

    @pytest.mark.parametrize(
        ("source", "column", "said"),
        [
            ("{{ secrets.TOKN }}", 12, "unknown secret `TOKN`"),
            ("{{ secrets }}", 4, "must be named"),
            ("{{ secrets[inputs.topic] }}", 4, "must be named"),
            ("{{ secrets | tojson }}", 4, "must be named"),
            ("{{ secrets.items() }}", 12, "unknown secret `items`"),
        ],
    )
    def test_and_only_by_a_name_that_is_listed(self, source: str, column: int, said: str) -> None:
        found = problems(source, allow_secrets=True)
        assert found[0][1] == column
        assert said in found[0][2]


def value_of(source: str) -> object:
    return compiled(source, allow_secrets=True).value({"secrets": {"TOKEN": "hush"}})
