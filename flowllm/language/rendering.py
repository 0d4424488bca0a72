"""Rendering without holding the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from flowllm.language.sandbox_limits import BRIEF, Unfinished, briefly

T = TypeVar("T")


class _Turn(threading.local):
    """What renderings may still take in this turn of the thread's event loop."""

    loop: asyncio.AbstractEventLoop | None = None
    left = 0

    def begin(self) -> None:
        """The first rendering of a turn."""
        loop = asyncio.get_running_loop()
        if self.loop is not loop:
            self.loop, self.left = loop, BRIEF
            loop.call_soon(self.end)

    def end(self) -> None:
        """The turn is over."""
        self.loop = None


_TURN = _Turn()


def rendered_now(work: Callable[[], T]) -> T:
    """What `work` gives, which renders templates and changes nothing else. Raises Unfinished where that would hold
    the event loop, and what `work` raises."""
    _TURN.begin()
    if _TURN.left <= 0:
        raise Unfinished
    with briefly() as spent:
        try:
            return work()
        finally:
            _TURN.left -= spent()


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
