"""Tasks that begin in their turn, whatever the program around has set its loop to; and daemon threads."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def start_task(work: Coroutine[object, object, T]) -> asyncio.Task[T]:
    """A task on the running loop that takes its first step at the loop's next turn, after those started before it.

    Not by the loop's task factory: an eager one would run the work before its starter knows of the task.
    """
    return asyncio.Task(work, loop=asyncio.get_running_loop())


def run_loop(work: Coroutine[object, object, T]) -> T:
    """What `asyncio.run` gives. At its end that writes its task out as text, for an error that nobody sees, and all of the
    task's result with it; so the result stays out of the task."""
    found: list[T] = []

    async def main() -> None:
        found.append(await work)

    asyncio.run(main())
    return found[0]


async def to_the_end(work: Coroutine[object, object, T], *, abort: Callable[[], None] | None = None) -> T:
    """What the work gives. A caller that is cancelled waits until it is done all the same, however often it is cancelled;
    `abort` is called then, to make it short."""
    task = start_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if abort is not None and not task.done():
            abort()
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # heard: the caller has gone
        raise


async def in_thread(function: Callable[[], Any]) -> Any:
    """What the function gives, called in a thread of its own that does not keep the process alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def hand_over(value: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_result((value, error))

    def call() -> None:
        value: Any = None
        failure: BaseException | None = None
        try:
            value = context.run(function)
        except StopIteration as error:  # no coroutine can raise it
            failure = RuntimeError("StopIteration was raised").with_traceback(error.__traceback__)
        except BaseException as error:  # noqa: BLE001 - it is raised where the value is awaited
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(hand_over, value, failure)

    threading.Thread(target=call, name="flowllm-work", daemon=True).start()
    value, failure = await future  # not by `set_exception`: a KeyboardInterrupt would end the loop
    if failure is not None:
        raise failure
    return value
