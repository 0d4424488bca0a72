"""`python`: a function of the user's own. Coroutines run on the loop, plain functions in threads."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import functools
import importlib
import importlib.util
import inspect
import os
import signal
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, cast

from flowllm.calls.single_flight import InFlightCalls
from flowllm.cluster.base import Cluster
from flowllm.core.cancel import CallStopped, being_cancelled
from flowllm.core.errors import FlowLLMError, PythonFailed, StepError, describe_error, type_name
from flowllm.core.fingerprint import canonical, digest, fingerprint
from flowllm.core.records import dataclass
from flowllm.core.redact import Redactor
from flowllm.core.tasks import in_thread
from flowllm.core.types import Json, WaitReason
from flowllm.functions.errors import ErrorText, error_text, has_own_text
from flowllm.functions.json_values import NotJson, TooLargeForLoop, to_json
from flowllm.functions.modules import StepModules
from flowllm.language.workflow import Asks, PythonBody, Step
from flowllm.steps.base import Bound, NodeContext, StepRunner, WorkEstimate, lazy_arguments
from flowllm.steps.pipeline import LocalWork, run_local, too_late
from flowllm.steps.python.ask import Ask, AskCalls, Variants
from flowllm.steps.python.guards import Watchdog, within_step
from flowllm.steps.python.on_cluster import ClusterFunctions
from flowllm.storage.base import NodeRecord

LONGEST_DESCRIPTION = 5.0
"""Seconds in which an exception's own class may say what it is."""
MOST_THREADS: Final = 32
MOST_ASKING_THREADS: Final = 512
"""Of functions that ask models, and so wait most of the time."""
_THREADS: Final = "python threads"
_ASKING_THREADS: Final = "python threads that ask"
_LOOP: Final = "python coroutines"
_CLUSTER: Final = "python on a cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A function's arguments, with the real secrets in them: never stored."""

    arguments: Mapping[str, Json]
    system: str | None = None
    """The default system message of what it asks."""


class PythonRunner:
    """Steps that call a function. One of these serves a whole run and loads each file once."""

    slots: ClassVar = {
        _THREADS: MOST_THREADS,
        _ASKING_THREADS: MOST_ASKING_THREADS,
        _LOOP: sys.maxsize,
        _CLUSTER: sys.maxsize,
    }
    """How many functions run at the same time."""

    def __init__(
        self,
        calls: InFlightCalls,
        files: Mapping[str, str],
        secrets: Mapping[str, str],
        redactor: Redactor,
        *,
        prompts: StepRunner,
        cluster: Cluster | None = None,
    ) -> None:
        """`files` is path to text: what is executed is what the run's snapshot holds, not what the disk holds.
        `prompts` are the steps that functions ask by `ask`; functions of steps with `resources` are called on `cluster`."""
        self._prompts = prompts
        self._variants: dict[int, tuple[Asks, Variants]] = {}
        self._files = files
        self._modules = StepModules(files)
        self._secrets = secrets
        self._redactor = redactor
        self._functions: dict[str, Callable[..., Any]] = {}
        self._hashes: dict[str, str] = {}
        self._calls = calls
        self._cluster = None if cluster is None else ClusterFunctions(cluster, files, redactor)
        self._watchdog = Watchdog(self._tell, node_of=_node_of)

    def bind(self, step: Step, values: Mapping[str, Json]) -> Bound:
        """The arguments, once as they are and once with secrets masked, for the key."""
        body = cast("PythonBody", step.body)
        masked = {name: f"***{name}***" for name in self._secrets}
        shown, lazy = lazy_arguments(body.arguments, {**values, "secrets": masked})
        real = shown
        if self._secrets:
            real, lazy = lazy_arguments(body.arguments, {**values, "secrets": self._secrets})
            self._redactor.derive(real, shown)
        parts = {
            "kind": "python",
            "function": f"{body.module or Path(body.file or '').name}:{body.function}",
            "source": self._source_hash(body),
            "with": shown,
        }
        system = None
        if body.asks is not None:
            system = None if body.asks.system is None else body.asks.system.text(values)
            nothing = {"messages": [{"role": "user", "content": ""}], "sample": 0}
            asked = self._prompts.bind(body.asks.step, nothing)
            parts["asks"] = {**asked.parts, "system": system}
        work = _Call(arguments={**real, **lazy}, system=system)
        return Bound(step=step, key=fingerprint(parts), parts=parts, work=work)

    def work(self, bound: Bound) -> WorkEstimate:
        """No requests but those that its function asks for; what it gives is known before only if it is in the cache."""
        asks = cast("PythonBody", bound.step.body).asks is not None
        return WorkEstimate(memo_keys=(bound.key,) if bound.step.cache.enabled else (), requests=None if asks else 0)

    async def run(self, bound: Bound, context: NodeContext) -> NodeRecord:
        """Call the function, again where the step's `retry` says so, and keep what it gives."""
        body = cast("PythonBody", bound.step.body)
        if body.resources is not None:
            return await self._run_on_cluster(body, bound, context)
        asked = self._asked(bound, context)

        async def prepare() -> str:
            if inspect.iscoroutinefunction(await self._loaded(body)):
                return _LOOP
            return _THREADS if asked is None else _ASKING_THREADS

        async def perform(limit: float, left: float) -> Json:
            return await self._once(bound, context.caller.node_id, limit, left, asked)

        work = LocalWork(name="python", account=_THREADS, perform=perform, prepare=prepare)
        if asked is not None:
            work.figures, work.idle = asked.figures, lambda: asked.waited
        with within_step(context.caller.node_id), self._watchdog.watch(_folder(body)):
            return await run_local(self._calls, work, bound, context)

    async def _run_on_cluster(self, body: PythonBody, bound: Bound, context: NodeContext) -> NodeRecord:
        """The same on a node of the cluster; waiting for one counts against no timeout."""
        if self._cluster is None:
            raise PythonFailed(f"step {bound.step.id} has `resources`, and this process has no cluster")
        cluster, clock, queued = self._cluster, context.clock, 0.0
        name, arguments = bound.parts["function"], cast("_Call", bound.work).arguments

        async def perform(limit: float, left: float) -> Json:
            nonlocal queued
            began, took = clock.monotonic(), 0.0
            try:
                found = await cluster.call(body, arguments, name=name, limit=limit, node=context.caller.node_id)
                took = found["took"]
            finally:
                waited = max(0.0, clock.monotonic() - began - took)
                queued += waited
                context.caller.waited(WaitReason.SLOT, waited)
            return cluster.value(found, body, name, limit=limit, left=left)

        work = LocalWork(
            name="python", account=_CLUSTER, perform=perform, idle=lambda: queued, figures=lambda: {"queue_s": queued}
        )
        return await run_local(self._calls, work, bound, context)

    def _asked(self, bound: Bound, context: NodeContext) -> AskCalls | None:
        asks = cast("PythonBody", bound.step.body).asks
        if asks is None or context.within is None:
            return None
        if id(asks) not in self._variants:  # held together, so that no other can come to have that id
            self._variants[id(asks)] = (asks, Variants(asks))
        return AskCalls(self._variants[id(asks)][1], cast("_Call", bound.work).system, context.within)

    async def _once(
        self,
        bound: Bound,
        node_id: str,  # noqa: ARG002 - `_node_of` reads it
        limit: float,
        left: float,
        calls: AskCalls | None,
    ) -> Json:
        """One call of the function, for the node of that id. Raises CallStopped if it asked something that was not sent
        as the run is stopping, whatever it made of that."""
        if calls is None:
            return await self._called(bound, limit, left, None)
        ask = Ask(calls)
        try:
            value = await self._called(bound, limit, left, ask)
        except StepError:
            if ask.stopped:
                raise CallStopped from None
            raise
        finally:
            await ask.close()
        if ask.stopped:
            raise CallStopped
        return value

    async def _called(self, bound: Bound, limit: float, left: float, ask: Ask | None) -> Json:
        body = cast("PythonBody", bound.step.body)
        name, function = bound.parts["function"], self._function(body)
        deadline = asyncio.timeout(limit)
        arguments = cast("_Call", bound.work).arguments
        if ask is not None:
            arguments = {**arguments, "ask": ask}
            ask.hold(deadline)
        try:
            async with deadline:
                return await _invoke(function, arguments)
        except NotJson as error:
            raise PythonFailed(f"{name} returned {self._redactor.text(error.message)}", hint=error.hint) from None
        except PythonFailed:
            raise
        except asyncio.CancelledError as error:
            if being_cancelled():
                raise
            raise await self._failed(error, body) from None
        except BaseException as error:
            if type(error) is KeyboardInterrupt and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                raise  # it may be a Ctrl-C, which nobody else hears of
            if deadline.expired():
                then = "a plain function goes on in its thread, a coroutine was cancelled"
                raise too_late(f"{name} did not return", limit, then, attempt=limit < left) from None
            raise await self._failed(error, body) from None

    async def _loaded(self, body: PythonBody) -> Callable[..., Any]:
        try:
            return self._function(body)
        except PythonFailed:
            raise
        except BaseException as error:  # noqa: BLE001 - importing runs the user's code
            raise await self._failed(error, body) from None

    def _function(self, body: PythonBody) -> Callable[..., Any]:
        place = f"{body.module or body.file}:{body.function}"
        if place not in self._functions:
            module = importlib.import_module(body.module) if body.module else self._modules.load(body.file or "")
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

    async def close(self) -> None:
        """Forget the modules of the run's files."""
        self._modules.close()
        self._watchdog.close()

    def _tell(self, message: str) -> None:
        """To standard error, as nothing else is heard while the loop stands still."""
        with contextlib.suppress(OSError, ValueError):
            print(f"flowllm: {self._redactor.text(message)}", file=sys.stderr)  # noqa: T201

    async def _failed(self, error: BaseException, body: PythonBody) -> PythonFailed:
        def describe() -> ErrorText:
            return error_text(
                error, folder=_folder(body), clean=lambda text: self._redactor.text(self._modules.clean(text))
            )

        if not has_own_text(error) or type(error) is GeneratorExit:  # one that is closed may not wait
            what = describe()
        else:
            try:
                async with asyncio.timeout(LONGEST_DESCRIPTION):
                    what = await in_thread(describe)
            except TimeoutError:
                line = f"{type_name(error)}: <its text cannot be had: it takes over {LONGEST_DESCRIPTION:g} s>"
                what = ErrorText(line=line, traceback="")
        hint = vars(error).get("hint") if issubclass(type(error), FlowLLMError) else ""
        hint = self._redactor.text(hint) if isinstance(hint, str) else ""
        return PythonFailed(f"{body.function} raised {what.line}", hint=hint, traceback=what.traceback)


def _folder(body: PythonBody) -> str:
    """Where the function's code is, with that of its helpers."""
    where = body.file or getattr(sys.modules.get(body.module or ""), "__file__", None) or ""
    return os.path.join(os.path.dirname(where), "") if where else os.devnull  # noqa: PTH118, PTH120 - text only


def _node_of(frame: types.FrameType) -> str:
    """The node whose function a frame of `PythonRunner._once` calls; empty for any other frame."""
    return str(frame.f_locals["node_id"]) if frame.f_code is PythonRunner._once.__code__ else ""  # noqa: SLF001


async def _invoke(function: Callable[..., Any], arguments: Mapping[str, Json]) -> Json:
    """What the function gives, plain. Raises NotJson, and whatever the function raises."""
    if not inspect.iscoroutinefunction(function):
        value, pending = await in_thread(lambda: _called(function, arguments))
        if not pending:
            return value
    else:
        value = function(**arguments)
    if inspect.isawaitable(value):
        value = await value
    if hasattr(value, "__aiter__"):
        value = [item async for item in value]
    try:
        return to_json(value, soon=True)
    except TooLargeForLoop:
        return await in_thread(lambda: to_json(value))


def _called(function: Callable[..., Any], arguments: Mapping[str, Json]) -> tuple[Any, bool]:
    """What a plain function gives; True beside it if that is still to be awaited, on the loop."""
    value = function(**arguments)
    if inspect.isawaitable(value) or hasattr(value, "__aiter__"):
        return value, True
    return to_json(value), False


def source_hash(body: PythonBody, files: Mapping[str, str]) -> str:
    """Hash of the code: its syntax tree and those of the files beside it that it imports, so that comments and blank
    lines do not count. Raises PythonFailed."""
    if body.file is None:
        return _module_hash(body.module or "")
    code = _tree_hash(files[body.file], body.file)
    if not body.helpers:
        return code
    folder = os.path.dirname(body.file)  # noqa: PTH120 - the path as it is in the snapshot
    helpers = {os.path.relpath(file, folder): _helper_hash(files[file], file) for file in body.helpers}
    return digest(canonical([code, helpers]))


@functools.cache
def _module_hash(module: str) -> str:
    """Once a process: what it has imported stays what it is, whatever becomes of the file."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    except BaseException as error:  # noqa: BLE001 - to find a module imports the packages around it
        raise PythonFailed(f"the package of {module} cannot be imported: {describe_error(error)}") from None
    if spec is None:
        raise PythonFailed(f"no module named {module}", hint="install it, or use ./file.py:function")
    if spec.origin is None or not spec.origin.endswith(".py"):
        return f"module {module}"
    return _tree_hash(Path(spec.origin).read_text(encoding="utf-8"), module)


def _tree_hash(text: str, name: str) -> str:
    try:
        return digest(ast.dump(ast.parse(text)))
    except SyntaxError as error:
        raise PythonFailed(f"{name}:{error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise PythonFailed(f"{name} is not Python: {error}") from None


def _helper_hash(text: str, name: str) -> str:
    """Also of one that is no Python: it may be one that is never imported."""
    try:
        return _tree_hash(text, name)
    except PythonFailed:
        return digest(text)
