"""Users' functions in threads of their own."""

from __future__ import annotations

import contextlib
import contextvars
import sys
import types
from collections.abc import Iterator

from flowllm.core.errors import UsageError
from flowllm.steps.python.modules import PREFIX

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
