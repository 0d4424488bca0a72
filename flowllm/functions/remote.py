"""One call of a function of the user's on a node of a cluster: JSON in, JSON out.

It is called in the main thread of a process of the cluster, and bounds its time itself: nobody else knows when it began.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from flowllm.core.errors import FlowLLMError
from flowllm.core.fingerprint import digest
from flowllm.core.types import Json
from flowllm.functions.errors import whole_error
from flowllm.functions.json_values import NotJson, to_json
from flowllm.functions.modules import StepModules

PATIENCE = 5.0
"""Seconds that code which is told to stop gets before its process ends."""
_LONGEST: Final = 200_000
"""Characters of what an exception says that travel."""
_modules: dict[str, StepModules] = {}
"""By the digest of what is called: a process calls many times, and loads once."""


def call(code: bytes, given: bytes) -> bytes:
    """What comes of a call, as JSON: `took`, the seconds, and either `value`, or `missing` (it is not there), or `not_json` (a
    message and a hint), or `raised` (message, place, traceback, hint), or `late` (it took longer than `limit`).

    `code` says where the function is: in `file` (absolute, or in the working folder), with the texts of `files` in place of
    what is on disk, or in `module`; `given` has its name, `function`, its `arguments`, and `limit` in seconds.
    """
    began = time.monotonic()
    what, asked = json.loads(code), json.loads(given)
    modules = _modules.setdefault(digest(code.decode()), StepModules(what["files"]))
    late = _Late()
    try:
        with late.after(asked["limit"]):
            found = _outcome(what, modules, asked["function"], asked["arguments"])
    except KeyboardInterrupt:
        if not late.fired:
            raise  # it was cancelled
        found = {"late": True}
    return json.dumps({**found, "took": time.monotonic() - began}).encode()


def _outcome(what: dict[str, Any], modules: StepModules, name: str, arguments: dict[str, Json]) -> dict[str, Json]:
    file = os.path.abspath(what["file"]) if what["file"] else ""  # noqa: PTH100 - text only
    try:
        module = modules.load(file) if file else importlib.import_module(what["module"])
        function = getattr(module, name, None)
        if not callable(function):
            return {"missing": f"{what['file'] or what['module']} has no function {name}"}
        return {"value": _value(function, arguments)}
    except NotJson as error:
        return {"not_json": [error.message, error.hint]}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - the user's code may raise whatever it likes
        whole = whole_error(error, folder=os.path.join(os.path.dirname(file), "") if file else os.devnull)  # noqa: PTH118, PTH120
        texts = (whole.message, whole.place, whole.traceback)
        hint = vars(error).get("hint") if issubclass(type(error), FlowLLMError) else ""
        return {"raised": [*(modules.clean(text)[:_LONGEST] for text in texts), hint if isinstance(hint, str) else ""]}


def _value(function: Callable[..., Any], arguments: dict[str, Json]) -> Json:
    """What it gives, plain; a coroutine gets a loop of its own."""
    value = function(**arguments)
    if inspect.isawaitable(value) or hasattr(value, "__aiter__"):
        value = asyncio.run(_awaited(value))
    return to_json(value)


async def _awaited(value: Any) -> Any:
    if inspect.isawaitable(value):
        value = await value
    return [item async for item in value] if hasattr(value, "__aiter__") else value


class _Late:
    """Interrupts the main thread after a time, and ends the process if that does not help."""

    def __init__(self) -> None:
        self.fired = False
        self._over = False
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def after(self, limit: float) -> Iterator[None]:
        """Raises KeyboardInterrupt in what is done meanwhile, once that has taken so many seconds."""
        thread, before = threading.get_ident(), signal.signal(signal.SIGINT, signal.default_int_handler)
        blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # as Ray has it in its processes
        timers = [
            threading.Timer(min(limit, threading.TIMEOUT_MAX - PATIENCE), self._interrupt, [thread]),
            threading.Timer(min(limit + PATIENCE, threading.TIMEOUT_MAX), self._end),
        ]
        for timer in timers:
            timer.daemon = True
            timer.start()
        try:
            yield
        finally:
            with self._lock:
                self._over = True
            for timer in timers:
                timer.cancel()
            if self.fired:  # the signal may be on its way still: it must not come later
                time.sleep(0.01)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            signal.signal(signal.SIGINT, before)

    def _interrupt(self, thread: int) -> None:
        with self._lock:
            if not self._over:
                self.fired = True
                signal.pthread_kill(thread, signal.SIGINT)

    def _end(self) -> None:
        with self._lock:
            if not self._over:
                os._exit(1)
