"""Tasks that begin in their turn, whatever the program around has set its loop to; and threads that nobody waits for."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


def start_task(work: Coroutine[object, object, T]) -> asyncio.Task[T]:
    """A task on the running loop that takes its first step at the loop's next turn, after those started before it.

    Not by the loop's task factory: an eager one would run the work before its starter knows of the task.
    """
    return asyncio.Task(work, loop=asyncio.get_running_loop())


async def in_thread(function: Callable[[], Any]) -> Any:
    """What the function gives, called in a thread of its own that does not keep the process alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def hand_over(value: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_result(value) if error is None else future.set_exception(error)

    def call() -> None:
        value, failure = None, None
        try:
            value = context.run(function)
        except BaseException as error:  # noqa: BLE001 - it is raised where the value is awaited
            failure = error if _can_be_raised(error) else _stand_in(error)
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits for the value
            loop.call_soon_threadsafe(hand_over, value, failure)

    threading.Thread(target=call, name="flowllm-work", daemon=True).start()
    return await future


def _can_be_raised(error: BaseException) -> bool:
    """Where it is awaited: a future refuses a StopIteration, and a KeyboardInterrupt would end the loop."""
    known = isinstance(error, (Exception, SystemExit, asyncio.CancelledError))
    return known and not isinstance(error, StopIteration)


def _stand_in(error: BaseException) -> RuntimeError:
    return RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)
