"""Guards against what users' functions should not do: hold the event loop, and start runs within a run."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import linecache
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

from flowllm.core.errors import UsageError
from flowllm.core.types import step_path
from flowllm.functions.modules import PREFIX

PATIENCE = 2.0
"""Seconds that the loop may stand still before that is told."""
_BEAT = 0.25


class Watchdog:
    """Looks at the running loop from a thread, while steps are under way whose code runs there."""

    def __init__(
        self, tell: Callable[[str], None], *, node_of: Callable[[types.FrameType], str], patience: float = PATIENCE
    ) -> None:
        """`tell` is called in the thread, once for each step, with what a person should read; `node_of` gives the node
        that a frame belongs to, if it does."""
        self._tell = tell
        self._node_of = node_of
        self._patience = patience
        self._lock = threading.Lock()
        self._folders: dict[str, int] = {}
        self._told: set[str] = set()
        self._wanted = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watch(self, folder: str) -> Iterator[None]:
        """While code that is below `folder` may run on the loop."""
        if self._thread is None:
            loop = asyncio.get_running_loop()
            self._thread = threading.Thread(
                target=self._look, args=(loop, threading.get_ident()), name="flowllm-watchdog", daemon=True
            )
            self._thread.start()
        with self._lock:
            self._folders[folder] = self._folders.get(folder, 0) + 1
            self._wanted.set()
        try:
            yield
        finally:
            with self._lock:
                self._folders[folder] -= 1
                if not self._folders[folder]:
                    del self._folders[folder]
                if not self._folders and not self._closed:
                    self._wanted.clear()

    def close(self) -> None:
        """Look no more."""
        with self._lock:
            self._closed = True
            self._wanted.set()

    def _look(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        while self._wanted.wait() and not self._closed:
            turned = threading.Event()
            try:
                loop.call_soon_threadsafe(turned.set)
            except RuntimeError:  # it is closed
                return
            if not turned.wait(self._patience):
                self._report(thread)
                while not turned.wait(1.0) and not self._closed:
                    pass
            time.sleep(_BEAT)

    def _report(self, thread: int) -> None:
        node, place = "", ""
        frame = sys._current_frames().get(thread)  # noqa: SLF001 - there is no other way
        while frame is not None and not node:
            file, number, function = frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
            if not place and file.startswith(tuple(self._folders)):
                source = linecache.getline(file, number).strip()[:80]
                place = f"{Path(file).name}:{number}, in {function}{f': {source}' if source else ''}"
            node = self._node_of(frame)
            frame = frame.f_back
        step = step_path(node)
        if not (place or node) or (step or place) in self._told:
            return
        self._told.add(step or place)
        self._tell(
            f"{f'the python step {step}' if step else 'a python step'} has held the event loop for "
            f"{self._patience:g} s{f' ({place})' if place else ''}: nothing else can go on meanwhile. "
            "Let it await, or write `def` in place of `async def`."
        )


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
