from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from flowllm.reporting.stats import ACCURACY, LARGEST, SMALLEST, QuantileSketch


def test_no_values_no_quantile() -> None:
    assert QuantileSketch().quantile(0.5) is None


def test_one_value_is_exact() -> None:
    sketch = QuantileSketch()
    sketch.add(1.234)
    assert [sketch.quantile(share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.234] * 4


@given(st.lists(st.floats(min_value=SMALLEST, max_value=LARGEST), min_size=1, max_size=40), st.floats(0, 1))
def test_a_quantile_is_off_by_no_more_than_the_accuracy(values: list[float], share: float) -> None:
    sketch = QuantileSketch()
    for value in values:
        sketch.add(value)
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    found = sketch.quantile(share)
    assert found is not None
    assert abs(found - exact) <= ACCURACY * exact * 1.0001


def test_memory_is_bounded() -> None:
    sketch = QuantileSketch()
    for step in range(200_000):
        sketch.add(SMALLEST * 1.0002**step)
    sketch.add(0.0)
    sketch.add(1e12)
    assert len(sketch._counts) <= 2304
    assert sketch.quantile(1.0) is not None
