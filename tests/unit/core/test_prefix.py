from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from flowllm.core.prefix import SIZES, PromptPrefix
from flowllm.core.request import ChatRequest, OutputFormat

BYTES = 4


def marks(*texts: str, roles: str = "user", **how: object) -> tuple[int, ...]:
    messages = tuple({"role": roles, "content": text} for text in texts)
    return PromptPrefix(ChatRequest(model="m", messages=messages, **how)).marks


def shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Tokens that are the same by their marks, which must be those at the beginning."""
    same = [a == b for a, b in zip(one, other, strict=False)]
    assert same == sorted(same, reverse=True)
    return SIZES[sum(same) - 1] if any(same) else 0


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 3000))
def test_two_prompts_share_their_marks_up_to_where_they_differ(same: int, one: int, other: int) -> None:
    begin = "Ab é." * same
    found = shared(marks(f"{begin}x{'1' * one}"), marks(f"{begin}y{'2' * other}"))
    real = len(f"user\n{begin}".encode()) / BYTES
    assert found <= real
    shortest = min(one, other) / BYTES + real
    assert found >= max((size for size in SIZES if size <= real and size <= shortest), default=0)


def test_short_prompts_have_no_marks_and_long_ones_few() -> None:
    assert marks("x" * (1024 * BYTES - 10)) == ()
    assert len(marks("x" * (1024 * BYTES + 10))) == 1
    assert len(marks("x" * 4_000_000)) < 150
    assert [later - before for before, later in pairwise(SIZES[:25])] == [128] * 24


def test_what_a_model_reads_first_is_compared_first() -> None:
    long = "x" * 5000
    schema = OutputFormat(schema={"type": "object", "properties": {"a": {"type": "string"}}})
    assert shared(marks(long), marks(long)) > 0
    assert shared(marks(long), marks(long, output=schema)) == 0
    assert shared(marks(long), marks(long, params={"tools": [{"type": "function"}]})) == 0
    assert shared(marks(long), marks(long, params={"temperature": 1})) > 0
    assert shared(marks(long), marks(long, roles="system")) == 0
    assert shared(marks(long), marks([{"type": "text", "text": long}])) == 0
