"""What one rendering of a template may cost, counted in operations: the same on every machine.

An operation is about what looking up one key costs; long texts and lists count by their size, and
anything whose size is known beforehand is refused before it is made.
"""

from __future__ import annotations

import threading
from typing import Any

OPERATIONS = 10_000_000
"""Operations that one rendering may take."""
WHOLE = 1_000_000_000
"""The same for a template that only names data that is there already, such as the output of a large foreach:
its work is bounded by the data's size."""
MAX_TEXT = 16 * 1024 * 1024
"""Characters in any one text that a template makes."""
MAX_ITEMS = 1_000_000
"""Items that `range`, `product`, `batch` and `slice` may make, and a list that is repeated."""
MAX_WIDTH = 10_000
"""Characters that a width, a precision or an indentation may ask for."""
MAX_BITS = 4096
"""Bits of a whole number; Python itself refuses to print numbers of over 4300 digits."""
CHARACTERS_AN_OPERATION = 5
"""As a shift: 32 characters of text that is made count as one operation."""


class RenderFailed(Exception):
    """A template cannot be rendered. `offset` is the place in its text, from 1; 0 where it is not known."""

    def __init__(self, message: str, *, hint: str = "", offset: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.offset = offset


class LimitReached(RenderFailed):
    """The template asks for more work, text or items than is allowed."""


class _Meter(threading.local):
    """Operations left to the rendering that this thread is at."""

    left = OPERATIONS


_METER = _Meter()


def start(operations: int | None = None) -> None:
    """A rendering begins: all operations are there again."""
    _METER.left = OPERATIONS if operations is None else operations


def spend(operations: int) -> None:
    """Take operations. Raises LimitReached when there are none left."""
    _METER.left -= operations
    if _METER.left < 0:
        raise LimitReached(
            f"the template takes too much work: over {OPERATIONS:,} operations",
            hint="loop over fewer items, or compute the value in a python step",
        )


def spend_text(characters: int) -> None:
    """Take what making a text of that length costs. Raises LimitReached, before it is made, if it is too long."""
    if characters > MAX_TEXT:
        raise LimitReached(f"the template makes a text of over {MAX_TEXT:,} characters")
    spend(characters >> CHARACTERS_AN_OPERATION)


def check_items(count: int) -> None:
    """Take what making that many items costs. Raises LimitReached, before they are made, if there are too many."""
    if count > MAX_ITEMS:
        raise LimitReached(f"the template makes a list of over {MAX_ITEMS:,} items")
    spend(max(0, count))


def check_width(width: object) -> None:
    """Raises LimitReached for a width or precision that is out of proportion."""
    if isinstance(width, (int, float)) and abs(width) > MAX_WIDTH:
        raise LimitReached(f"a width of over {MAX_WIDTH:,} characters")


def weigh(value: object) -> None:
    """Take what reading or having made this value costs."""
    if isinstance(value, str):
        spend_text(len(value))
    elif isinstance(value, (list, tuple, dict)):
        spend(len(value))


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Arithmetic whose result would be out of bounds. Raises LimitReached before it is done."""
    if operator == "*":
        _check_product(left, right)
    elif operator == "+" and isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
        if isinstance(left, str):
            spend_text(len(left) + len(right))
        else:
            spend(len(left) + len(right))
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * max(0, right))


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
        return
    if isinstance(left, int):
        left, right = right, left
    if isinstance(left, str) and isinstance(right, int):
        spend_text(len(left) * max(0, right))
    elif isinstance(left, (list, tuple)) and isinstance(right, int):
        check_items(len(left) * max(0, right))


def _check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise LimitReached(f"a whole number of over {MAX_BITS} bits")
