"""Combinations of data sets."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowllm.core.errors import BadRow, DataFailed
from flowllm.datasets import rows as rows_module
from flowllm.datasets.base import Row
from flowllm.datasets.files import open_file
from flowllm.datasets.rows import Axis, ListRows, MatrixRows
from tests.support.data import drain, drained, write

pytestmark = pytest.mark.anyio


class Opened:
    """An axis as of a file: nobody knows its length; counts how often it is opened and closed."""

    def __init__(self, values: list[Any], *, page: int = 3, breaks_at: int | None = None) -> None:
        self.values, self.page, self.breaks_at = values, page, breaks_at
        self.opened = self.closed = 0

    @property
    def axis(self) -> Axis:
        return Axis(opened=self)

    def __call__(self) -> Any:
        self.opened += 1
        owner = self

        class One:
            total = None
            at = 0

            async def take(self, most: int) -> list[Row]:
                begin, self.at = self.at, self.at + min(most, owner.page)
                if owner.breaks_at is not None and begin >= owner.breaks_at:
                    raise DataFailed("it breaks")
                return [
                    Row(index=0, value=value, error=BadRow("bad") if value == "bad" else None)
                    for value in owner.values[begin : self.at]
                ]

            async def count_rest(self) -> int:
                return 0

            async def close(self) -> None:
                owner.closed += 1

        return One()


def _listed(values: list[Any]) -> Axis:
    return Axis(opened=lambda: ListRows(values), total=len(values))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=4), st.integers(1, 9))
def test_all_combinations_each_once_the_last_axis_fastest(shape: list[tuple[int, bool]], most: int) -> None:
    import anyio

    async def check() -> None:
        axes = {
            f"a{n}": _listed(list(range(size))) if known else Opened(list(range(size))).axis
            for n, (size, known) in enumerate(shape)
        }
        rows = MatrixRows(axes)
        found = [row.value for row in await drain(rows, most)]
        expected = itertools.product(*(range(size) for size, _ in shape))
        assert found == [dict(zip(axes, row, strict=True)) for row in expected]
        assert rows.total == (len(found) if all(known for _, known in shape) else None)
        await rows.close()

    anyio.run(check)


async def test_the_total_is_known_where_all_axes_are_lists() -> None:
    rows = MatrixRows({"a": _listed([1, 2]), "b": _listed([1, 2, 3])})
    assert rows.total == 6
    await rows.take(2)
    assert await rows.count_rest() == 4
    assert len(await rows.take(99)) == 4


async def test_the_rest_of_files_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "x.txt", "a\nb\nc\n")
    rows = MatrixRows({"x": Axis(opened=lambda: open_file(path)), "y": _listed([1, 2])})
    assert rows.total is None
    await rows.take(2)
    assert await rows.count_rest() == 4
    assert await rows.take(1) == []


async def test_a_bad_row_makes_its_combinations_bad() -> None:
    rows = MatrixRows({"x": _listed([1, 2]), "y": Opened(["good", "bad"]).axis})
    assert [row.error is not None for row in await drain(rows)] == [False, True, False, True]


async def test_a_short_file_is_read_once() -> None:
    first, second = Opened(list(range(7))), Opened(list(range(5)))
    rows = MatrixRows({"a": first.axis, "b": second.axis})
    assert len(await drain(rows)) == 35
    assert (first.opened, second.opened) == (1, 1)
    assert (first.closed, second.closed) == (1, 1)


@pytest.mark.parametrize(("limit", "value"), [("KEPT", 4), ("KEPT_SIZE", 4)])
async def test_a_long_one_is_read_again(limit: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, limit, value)
    first, second = Opened(list(range(7))), Opened(list(range(5)))
    rows = MatrixRows({"a": first.axis, "b": second.axis})
    assert await drained(rows) == [{"a": a, "b": b} for a in range(7) for b in range(5)]
    assert (first.opened, second.opened) == (1, 7)
    assert (first.closed, second.closed) == (1, 7)


async def test_what_was_combined_before_data_breaks_is_given() -> None:
    rows = MatrixRows({"a": _listed([1, 2]), "b": Opened([1, 2, 3, 4], page=2, breaks_at=2).axis})
    assert [row.value["b"] for row in await rows.take(9)] == [1, 2]  # type: ignore[index,call-overload]
    for _ in range(2):
        with pytest.raises(DataFailed, match="breaks"):
            await rows.take(9)
    assert await rows.count_rest() == 0


async def test_all_are_closed_also_in_the_middle() -> None:
    first, second = Opened(list(range(7))), Opened(list(range(5)))
    rows = MatrixRows({"a": first.axis, "b": second.axis})
    await rows.take(2)
    await rows.close()
    assert (first.closed, second.closed) == (1, 1)
    await rows.close()
    assert (first.closed, second.closed) == (1, 1)
