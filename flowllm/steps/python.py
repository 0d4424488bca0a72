"""`python`: a function of the user's own. Coroutines run on the loop, plain functions in threads."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import importlib.util
import inspect
import sys
import threading
import traceback
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flowllm.calls.gate import being_cancelled
from flowllm.errors import PythonFailed
from flowllm.fingerprint import digest, fingerprint
from flowllm.steps.base import Bound, Work
from flowllm.steps.jsonable import not_json, plain
from flowllm.steps.lazy import lazy_arguments
from flowllm.steps.local import Act, Local, too_late

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowllm.redact import Redactor
    from flowllm.spec.workflow import PythonBody, Step
    from flowllm.steps.base import NodeContext
    from flowllm.store.base import NodeRecord
    from flowllm.types import Json

MOST_THREADS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A function's arguments, with the real secrets in them: never stored."""

    arguments: Mapping[str, Json]


class _Places:
    """A thread for a plain function; a coroutine needs none."""

    def __init__(self, function: Callable[[], Callable[..., Any]], threads: asyncio.Semaphore) -> None:
        self._function = function
        self._threads = threads
        self._held = False

    async def __aenter__(self) -> None:
        if not inspect.iscoroutinefunction(self._function()):
            await self._threads.acquire()
            self._held = True

    async def __aexit__(self, *exception: object) -> None:
        if self._held:
            self._held = False
            self._threads.release()


class PythonKind:
    """Steps that call a function. One of these serves a whole run and loads each file once."""

    def __init__(self, files: Mapping[str, str], secrets: Mapping[str, str], redactor: Redactor) -> None:
        """`files` is path to text: what is executed is what the run's snapshot holds, not what the disk holds."""
        self._files = files
        self._secrets = secrets
        self._redactor = redactor
        self._functions: dict[str, Callable[..., Any]] = {}
        self._hashes: dict[str, str] = {}
        self._threads = asyncio.Semaphore(MOST_THREADS)
        self._local = Local("python")

    def bind(self, step: Step, values: Mapping[str, Json]) -> Bound:
        """The arguments, once as they are and once with secrets masked, for the key."""
        body = cast("PythonBody", step.body)
        masked = {name: f"***{name}***" for name in self._secrets}
        shown, lazy = lazy_arguments(body.arguments, {**values, "secrets": masked})
        real = shown
        if self._secrets:
            real, lazy = lazy_arguments(body.arguments, {**values, "secrets": self._secrets})
        parts = {
            "kind": "python",
            "function": f"{body.module or Path(body.file or '').name}:{body.function}",
            "source": self._source_hash(body),
            "with": shown,
        }
        return Bound(step=step, key=fingerprint(parts), parts=parts, work=_Call(arguments={**real, **lazy}))

    def work(self, bound: Bound) -> Work:
        """No requests; what it gives is known before only if it is in the memo."""
        return Work(memo_keys=(bound.key,) if bound.step.cache.enabled else ())

    async def run(self, bound: Bound, context: NodeContext) -> NodeRecord:
        """Call the function, again where the step's `retry` says so, and keep what it gives."""
        body = cast("PythonBody", bound.step.body)

        async def once(left: float) -> Json:
            return await self._once(bound, self._loaded(body), left)

        act = Act(once=once, places=_Places(lambda: self._loaded(body), self._threads))
        return await self._local.carry_out(bound, context, act)

    async def _once(self, bound: Bound, function: Callable[..., Any], left: float) -> Json:
        step = bound.step
        body = cast("PythonBody", step.body)
        name = bound.parts["function"]
        limit = min(left, step.retry.attempt_timeout)
        deadline = asyncio.timeout(limit)
        try:
            async with deadline:
                value = await _invoke(function, cast("_Call", bound.work).arguments)
            return self._redactor.value(_checked(value, name))
        except PythonFailed:
            raise
        except asyncio.CancelledError as error:
            if being_cancelled():
                raise
            raise PythonFailed(self._told(error, body)) from None
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's code raises is the step's failure
            if deadline.expired():
                then = "a plain function goes on in its thread, a coroutine was cancelled"
                raise too_late(f"{name} did not return", limit, then, attempt=limit < left) from None
            raise PythonFailed(self._told(error, body)) from None

    def _loaded(self, body: PythonBody) -> Callable[..., Any]:
        try:
            return self._function(body)
        except PythonFailed:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - importing runs the user's code
            raise PythonFailed(self._told(error, body)) from None

    def _function(self, body: PythonBody) -> Callable[..., Any]:
        place = f"{body.module or body.file}:{body.function}"
        if place not in self._functions:
            module = (
                importlib.import_module(body.module) if body.module else load(body.file or "", self._files)
            )
            function = getattr(module, body.function, None)
            if not callable(function):
                raise PythonFailed(f"{body.module or body.file} has no function {body.function}")
            self._functions[place] = function
        return self._functions[place]

    def _source_hash(self, body: PythonBody) -> str:
        place = body.file or body.module or ""
        if place not in self._hashes:
            self._hashes[place] = source_hash(body, self._files)
        return self._hashes[place]

    def _told(self, error: BaseException, body: PythonBody) -> str:
        where = ""
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if frame.filename == body.file or "flowllm" not in frame.filename:
                where = f" ({Path(frame.filename).name}:{frame.lineno})"
                break
        said = self._redactor.text(f"{type(error).__name__}: {error}".strip(": "))
        return f"{body.function} raised {said}{where}"


def _checked(value: Any, name: str) -> Json:
    """The value as plain JSON. Raises PythonFailed if it is none."""
    try:
        problem = not_json(value)
        if not problem:
            return plain(value)
    except RecursionError:
        problem = "a value that is nested too deeply, or contains itself"
    raise PythonFailed(
        f"{name} returned {problem}",
        hint="return plain JSON values: None, bool, numbers, text, lists, dicts",
    )


async def _invoke(function: Callable[..., Any], arguments: Mapping[str, Json]) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(**arguments)
    value = await in_thread(lambda: function(**arguments))
    return await value if inspect.isawaitable(value) else value


async def in_thread(function: Callable[[], Any]) -> Any:
    """What the function gives, called in a thread of its own that does not keep the process alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def hand_over(value: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_result(value) if error is None else future.set_exception(error)

    def call() -> None:
        value, failure = None, None
        try:
            value = function()
        except BaseException as error:  # noqa: BLE001 - it is raised where the value is awaited
            failure = error if _can_be_raised(error) else RuntimeError(f"{type(error).__name__}: {error}")
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits for the value
            loop.call_soon_threadsafe(hand_over, value, failure)

    threading.Thread(target=call, name="flowllm-python", daemon=True).start()
    return await future


def _can_be_raised(error: BaseException) -> bool:
    """Where it is awaited: a future refuses a StopIteration, and a KeyboardInterrupt would end the loop."""
    known = isinstance(error, (Exception, SystemExit, asyncio.CancelledError))
    return known and not isinstance(error, StopIteration)


def load(path: str, files: Mapping[str, str]) -> types.ModuleType:
    """A module from the text of a file, with the file's folder importable."""
    folder = str(Path(path).parent)
    if folder not in sys.path:
        sys.path.append(folder)
    module = types.ModuleType(f"flowllm_step_{digest(path)[:12]}")
    module.__file__ = path
    sys.modules[module.__name__] = module
    exec(compile(files[path], path, "exec"), module.__dict__)  # noqa: S102 - the author's own code, as asked
    return module


def source_hash(body: PythonBody, files: Mapping[str, str]) -> str:
    """Hash of the code: its syntax tree, so that comments and blank lines do not count."""
    if body.file is not None:
        text = files[body.file]
    else:
        try:
            spec = importlib.util.find_spec(body.module or "")
        except (ImportError, ValueError):
            spec = None
        except Exception as error:  # noqa: BLE001 - to find a module imports the packages around it
            said = f"{type(error).__name__}: {error}"
            raise PythonFailed(f"the package of {body.module} cannot be imported: {said}") from None
        if spec is None:
            raise PythonFailed(f"no module named {body.module}", hint="install it, or use ./file.py:function")
        if spec.origin is None or not spec.origin.endswith(".py"):
            return f"module {body.module}"
        text = Path(spec.origin).read_text(encoding="utf-8")
    try:
        return digest(ast.dump(ast.parse(text)))
    except SyntaxError as error:
        raise PythonFailed(f"{body.file or body.module}:{error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise PythonFailed(f"{body.file or body.module} is not Python: {error}") from None
