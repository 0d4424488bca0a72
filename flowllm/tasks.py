"""Tasks that begin in their turn, whatever the program around has set its loop to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


def start_task(work: Coroutine[object, object, T]) -> asyncio.Task[T]:
    """A task on the running loop that takes its first step at the loop's next turn, after those started before it.

    Not by the loop's task factory: an eager one would run the work before its starter knows of the task.
    """
    return asyncio.Task(work, loop=asyncio.get_running_loop())
