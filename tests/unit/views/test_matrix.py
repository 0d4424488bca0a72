"""Where an item of a matrix belongs before its values are on record."""

from __future__ import annotations

import pytest

from flowllm.views.matrix import expected


@pytest.mark.parametrize(
    ("index", "lengths", "at"),
    [
        (0, [2, 3], [0, 0]),
        (4, [2, 3], [1, 1]),
        (7, [2, 2, 2], [1, 1, 1]),
        (1, [2], [1]),
        (2, [1, 3], None),  # there may be more values of the last axis
        (6, [2, 3], None),  # a value of the first axis that is not known yet
        (0, [0, 0], None),
    ],
)
def test_the_last_axis_changes_fastest(index: int, lengths: list[int], at: list[int] | None) -> None:
    assert expected(index, lengths) == at
