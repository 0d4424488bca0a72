"""What one rendering of a template may cost, counted in operations: the same on every machine.

An operation is about what looking up one key costs; long texts and lists count by their size, and
anything whose size is known beforehand is refused before it is made. A limit in time stands behind that.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

OPERATIONS = 5_000_000
"""Operations that one rendering may take."""
WHOLE = 1_000_000_000
"""The same for a template that only names data that is there already, such as the output of a large foreach:
its work is bounded by the data's size."""
BRIEF = 200_000
"""Operations for which templates may hold the event loop, some tenths of a second."""
SECONDS = 2.0
"""Seconds of computing that one rendering may take; 20 times as many where it may take WHOLE operations."""
MAX_DEPTH = 200
"""Lists and mappings within each other, where they are compared or sorted."""
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


class Unfinished(BaseException):
    """More than BRIEF operations are needed: it is to be rendered again in a thread. No Exception, so that nothing
    on the way takes it for a failure. `tried`: it was begun."""

    def __init__(self, *, tried: bool = False) -> None:
        super().__init__()
        self.tried = tried


class _Meter(threading.local):
    """Operations left to the rendering that this thread is at."""

    left = OPERATIONS
    """Until the clock is looked at, or the budget is over."""
    rest = 0
    """Behind those."""
    until = 0.0
    """Of the thread's time."""
    brief: int | None = None
    """Within `rendered_now`: operations left to all renderings together."""
    started = False
    """Within `rendered_now`: one of them has begun."""
    loop: asyncio.AbstractEventLoop | None = None
    """The event loop, from the first `rendered_now` of one of its turns to that turn's end."""
    turn = 0
    """Operations that are left in the turn."""
    most: int | None = None
    """Within `at_most`: what no rendering may pass."""


_METER = _Meter()
_SLICE = 50_000
"""Operations between two looks at the clock."""


@contextmanager
def at_most(operations: int) -> Iterator[None]:
    """Each rendering within has that many operations at most, where it must not leave the event loop."""
    _METER.most = operations
    try:
        yield
    finally:
        _METER.most = None


def start(operations: int | None = None) -> None:
    """A rendering begins: all operations are there again."""
    seconds = SECONDS if operations is None or operations <= OPERATIONS else 20 * SECONDS
    _METER.until = time.thread_time() + seconds
    total = OPERATIONS if operations is None else operations
    if _METER.most is not None:
        total = min(total, _METER.most)
    if _METER.brief is not None:
        if _METER.started:
            _METER.brief = _METER.left
        _METER.left, _METER.rest, _METER.started = _METER.brief, 0, True
        return
    _METER.left = min(total, _SLICE)
    _METER.rest = total - _METER.left


def spend(operations: int) -> None:
    """Take operations. Raises LimitReached when there are none left."""
    _METER.left -= operations
    if _METER.left < 0:
        _read_on()


def _read_on() -> None:
    """A slice of the operations is used up."""
    if _METER.brief is not None:
        raise Unfinished(tried=True)
    _METER.rest += _METER.left
    _METER.left = min(_SLICE, _METER.rest)
    _METER.rest -= _METER.left
    hint = "loop over fewer items, or compute the value in a python step"
    if _METER.left < 0:
        most = OPERATIONS if _METER.most is None else _METER.most
        raise LimitReached(f"the template takes too much work: over {most:,} operations", hint=hint)
    if time.thread_time() > _METER.until:
        raise LimitReached(f"the template takes too long: over {SECONDS:g} s of computing", hint=hint)


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


def spend_size(value: object) -> None:
    """Take what reading or having made this value costs."""
    if isinstance(value, str):
        spend_text(len(value))
    elif isinstance(value, (list, tuple, dict, range)):
        spend(len(value))
    elif isinstance(value, int):
        _check_bits(value.bit_length())


def size_of(value: object) -> int:
    """What is in a value, however often it shares its parts: items, and each 32 characters of text. Takes as many
    operations. Raises LimitReached, also for what is nested over MAX_DEPTH deep.
    """
    if isinstance(value, (bool, int, float)):
        return 1
    total, left = 0, [(value, 0)]
    while left:
        part, depth = left.pop()
        size = 1
        if isinstance(part, str):
            size += len(part) >> CHARACTERS_AN_OPERATION
        elif isinstance(part, (list, tuple, Mapping)):
            if depth > MAX_DEPTH:
                raise LimitReached(f"the value is nested more than {MAX_DEPTH} deep")
            size += len(part)
            spend(size)
            left += [(item, depth + 1) for item in (part.values() if isinstance(part, Mapping) else part)]
            total += size
            continue
        spend(1)
        total += size
    return total


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


# rendering without holding the event loop

T = TypeVar("T")


def rendered_now(work: Callable[[], T]) -> T:
    """What `work` gives, which renders templates and changes nothing else. Raises Unfinished where all that is rendered in
    this turn of the event loop would hold it for more than BRIEF operations, and what `work` raises."""
    meter = _METER
    if not take_turn(1):
        raise Unfinished
    meter.brief, meter.started = BRIEF, False
    try:
        return work()
    finally:
        meter.turn -= BRIEF - meter.left if meter.started else 0
        meter.brief, meter.left = None, 0


def take_turn(operations: int) -> bool:
    """Whether work on the event loop may go on in this turn of it, and takes as many operations."""
    meter, loop = _METER, asyncio.get_running_loop()
    if meter.loop is not loop:
        meter.loop, meter.turn = loop, BRIEF
        loop.call_soon(_end_turn)
    if meter.turn <= 0:
        return False
    meter.turn -= operations
    return True


def _end_turn() -> None:
    _METER.loop = None


async def rendered(work: Callable[[], T]) -> T:
    """The same: at once where the templates are short, as nearly all are, else from the beginning in a thread."""
    while True:
        try:
            return rendered_now(work)
        except Unfinished as found:
            if found.tried:
                break
        await asyncio.sleep(0)
    return await asyncio.to_thread(work)
