"""Users' functions in threads of their own."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
import threading
from typing import TYPE_CHECKING, Any

from flowllm.errors import UsageError
from flowllm.steps.modules import PREFIX

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator


_inside: contextvars.ContextVar[str] = contextvars.ContextVar("flowllm_step", default="")


def refuse_within_step() -> None:
    """Raises UsageError where the caller is a function that a step calls, or code of a step's file in any thread."""
    node = _inside.get()
    if node or _step_code():
        raise UsageError(
            f"a run cannot be started within {f'the python step {node}' if node else 'a python step'}: its requests "
            "would not count for the limits, the budget and the records of the run around it",
            hint="write `asks: true` into the step and ask by its argument `ask`, or make that workflow a step of its own: "
            "`workflow: ./other.yaml`",
        )


def _step_code() -> bool:
    """Code of a step's file has called: threads that a function starts by itself do not know their step."""
    frame: types.FrameType | None = sys._getframe()  # noqa: SLF001 - there is no other way
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith(PREFIX):
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def within_step(node: str) -> Iterator[None]:
    """What is called meanwhile is called by the function of that step."""
    token = _inside.set(node)
    try:
        yield
    finally:
        _inside.reset(token)


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

    threading.Thread(target=call, name="flowllm-python", daemon=True).start()
    return await future


def _can_be_raised(error: BaseException) -> bool:
    """Where it is awaited: a future refuses a StopIteration, and a KeyboardInterrupt would end the loop."""
    known = isinstance(error, (Exception, SystemExit, asyncio.CancelledError))
    return known and not isinstance(error, StopIteration)


def _stand_in(error: BaseException) -> RuntimeError:
    return RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)
