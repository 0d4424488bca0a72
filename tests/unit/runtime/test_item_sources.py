from __future__ import annotations

from pathlib import Path

import pytest

from flowllm.core.errors import DataFailed, TemplateFailed
from flowllm.core.types import Json
from flowllm.datasets.base import Rows
from flowllm.runtime.item_reader import open_rows
from flowllm.steps.base import LAZY, Lazy
from tests.support.workflows import workflow

pytestmark = pytest.mark.anyio


def opened(foreach: str, *, limit: int | None = None, **values: Json) -> Rows:
    text = f"""
        inputs: {{list: [], path: rows.csv}}
        steps:
          before: {{foreach: [1], value: "{{{{ item }}}}"}}
          a: {{foreach: {foreach}, value: "{{{{ item }}}}"}}
        """
    step = workflow(text).steps["a"]
    return open_rows(step.foreach, {"steps": {}, "inputs": {}, **values}, spool=None, limit=limit)


async def values_of(rows: Rows) -> list[Json]:
    found: list[Json] = []
    while batch := await rows.take(2):
        found += [row.value for row in batch]
    await rows.close()
    return found


async def test_an_expression_gives_a_list() -> None:
    rows = opened('"{{ inputs.list }}"', inputs={"list": [1, "two", {"three": 3}]})
    assert rows.total == 3
    assert await values_of(rows) == [1, "two", {"three": 3}]


@pytest.mark.parametrize(("value", "told"), [({"a": 1}, "a mapping"), ("text", "'text'"), (None, "None"), (3, "3")])
async def test_anything_else_is_an_error(value: Json, told: str) -> None:
    with pytest.raises(TemplateFailed, match=f"`foreach` wants a list, and this is {told}"):
        opened('"{{ inputs.list }}"', inputs={"list": value})


async def test_the_output_of_a_foreach_is_gone_through_without_being_rendered() -> None:
    lazy = Lazy(sequence=[7, 8, 9], digest="d")
    rows = opened('"{{ before }}"', **{LAZY: {"before": lazy}})
    assert await values_of(rows) == [7, 8, 9]


async def test_limit_cuts_what_the_foreach_gives() -> None:
    rows = opened("[1, 2, 3]", limit=2)
    assert rows.total == 2
    assert await values_of(rows) == [1, 2]


async def test_a_matrix_limits_its_combinations_not_its_axes() -> None:
    rows = opened('{matrix: {x: [1, 2], y: "{{ inputs.list }}"}}', limit=3, inputs={"list": [3, 4]})
    assert await values_of(rows) == [{"x": 1, "y": 3}, {"x": 1, "y": 4}, {"x": 2, "y": 3}]


async def test_the_name_of_a_file_may_be_a_template(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("n\n1\n2\n3\n")
    rows = opened('{file: "{{ inputs.path }}", limit: 2}', inputs={"path": str(tmp_path / "rows.csv")})
    assert await values_of(rows) == [{"n": "1"}, {"n": "2"}]


async def test_files_that_match_are_items_also_of_a_matrix(tmp_path: Path) -> None:
    for name in ("a.md", "b.md", "c.txt"):
        (tmp_path / name).write_text(f"text of {name}")
    value = f"{tmp_path}/*.md"
    rows = opened('{files: "{{ inputs.path }}", limit: 1}', inputs={"path": value})
    assert await values_of(rows) == [{"path": f"{tmp_path}/a.md", "text": "text of a.md"}]
    rows = opened('{matrix: {doc: {files: "{{ inputs.path }}"}, n: [1]}}', inputs={"path": value})
    found = await values_of(rows)
    assert [one["doc"]["text"] for one in found] == ["text of a.md", "text of b.md"]


async def test_standard_input_needs_a_place_to_be_kept() -> None:
    with pytest.raises(DataFailed, match="standard input"):
        opened('{file: "-"}')
