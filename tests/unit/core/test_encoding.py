from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowllm.core.encoding import encoder

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60)
@given(VALUES, st.booleans(), st.booleans())
def test_it_writes_what_the_standard_one_does(value: object, sort_keys: bool, ascii_only: bool) -> None:
    written = encoder(sort_keys=sort_keys, ascii_only=ascii_only)(value)
    assert written == json.dumps(value, sort_keys=sort_keys, ensure_ascii=ascii_only, separators=(",", ":"))


def test_what_json_cannot_hold_is_refused() -> None:
    write, endless = encoder(), []
    endless.append(endless)
    for value, error in (
        (math.nan, ValueError),
        ([math.inf], ValueError),
        ({1j: 2}, TypeError),
        (endless, RecursionError),
    ):
        with pytest.raises(error):
            write(value)
