"""`ask`, by which a function of the user's asks models: each question is a prompt step within its own.

It goes through everything that a step's question does: the cache, single flight, limits, budget, retries, validation,
fallbacks, and is on record as `STEP.ask[0]`, `STEP.ask[1]`, … in the order in which the function calls it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from flowllm.core.cancel import being_cancelled
from flowllm.core.errors import AskFailed
from flowllm.core.fingerprint import canonical
from flowllm.core.tasks import start_task
from flowllm.core.types import CachePolicy, Json, NodeStatus, Usage
from flowllm.functions.json_values import NotJson, to_json
from flowllm.language.output import output_of
from flowllm.language.problems import SourceError
from flowllm.language.template import ValueTemplate
from flowllm.language.workflow import Asks, LlmBody, Step
from flowllm.steps.base import Within
from flowllm.storage.base import NodeRecord

_SENT = ("max_tokens", "temperature", "top_p", "seed", "stop")


class RunStopping(asyncio.CancelledError):
    """The question was not sent: the run is stopping, or the step has ended. The step is carried out again by a resume."""


class Variants:
    """The prompt steps that the questions of one step's function make of its defaults, one for each set of options."""

    def __init__(self, asks: Asks) -> None:
        self._asks = asks
        self._made: dict[str, Step] = {}

    def of(self, options: Mapping[str, Json]) -> Step:
        """Raises ValueError for options that do not go."""
        name = canonical(dict(options))
        if name not in self._made:
            self._made[name] = self._make(options)
        return self._made[name]

    def _make(self, options: Mapping[str, Json]) -> Step:
        step = self._asks.step
        body = cast("LlmBody", step.body)
        for name in ("model", "provider"):
            if name in options and not (isinstance(options[name], str) and options[name].strip()):
                raise ValueError(f"ask({name}=…) takes a name, not {options[name]!r}")
        body = replace(
            body,
            model=ValueTemplate.of(options["model"]) if "model" in options else body.model,
            provider=ValueTemplate.of(options["provider"]) if "provider" in options else body.provider,
        )
        if "output" in options:
            try:
                body = replace(body, output=output_of(options["output"]))
            except SourceError as error:
                raise ValueError(f"ask(output=…): {error.message}") from None
        if more := {name: options[name] for name in _SENT if name in options} | options.get("params", {}):
            defaults = {} if body.params is None else body.params.render({})
            body = replace(body, params=ValueTemplate.of({**defaults, **more}))
        cache = step.cache if "cache" not in options else CachePolicy(enabled=bool(options["cache"]))
        return replace(step, body=body, cache=cache)


class AskCalls:
    """All questions of one node, over all attempts at its function."""

    def __init__(self, variants: Variants, system: str | None, within: Within) -> None:
        self._variants = variants
        self._system = system
        self._within = within
        self._answered: dict[int, tuple[Step, Mapping[str, Json], NodeRecord]] = {}
        self._usage = Usage()
        self._cost: float | None = 0.0
        self._queue_s = 0.0
        self.waited = 0.0
        """Seconds in which a question was under way, which count against no timeout of the step's."""

    def figures(self) -> Mapping[str, Json]:
        """What they took, as fields of the node's record."""
        return {"usage": self._usage, "cost_usd": self._cost, "queue_s": self._queue_s}

    def step_of(self, options: Mapping[str, Json]) -> Step:
        """The prompt step of a question. Raises ValueError."""
        return self._variants.of(options)

    def messages(self, prompt: Json, system: Json, messages: Json) -> list[Json]:
        """What is asked. Raises ValueError."""
        if (prompt is None) == (messages is None):
            raise ValueError("ask takes either a prompt or messages")
        system = self._system if system is None else system
        if not isinstance(prompt, str | None) or not isinstance(system, str | None):
            raise ValueError("ask takes texts as prompt and system")  # noqa: TRY004 - of a value that JSON knows
        if messages is not None and not isinstance(messages, list):
            raise ValueError("ask takes a list of messages, each {'role': …, 'content': …}")
        first = [] if system is None else [{"role": "system", "content": system}]
        return [*first, *([{"role": "user", "content": prompt}] if messages is None else messages)]

    async def record(self, number: int, step: Step, values: Mapping[str, Json]) -> NodeRecord | None:
        """What becomes of a question; what an earlier attempt at the function was told is told again."""
        known = self._answered.get(number)
        if known is not None and known[0] is step and known[1] == values:
            return known[2]
        record = await self._within(name=f"ask[{number}]", step=step, values=values)
        if record is not None:
            self._usage += record.usage
            unknown = self._cost is None or record.cost_usd is None
            self._cost = None if unknown else (self._cost or 0.0) + (record.cost_usd or 0.0)
            self._queue_s += record.queue_s
            if record.status is NodeStatus.SUCCEEDED:
                self._answered[number] = (step, values, record)
        return record


class Ask:
    """The `ask` of one attempt at a function. On an event loop it is awaited, elsewhere it waits by itself."""

    def __init__(self, calls: AskCalls) -> None:
        """To be made on the event loop."""
        self.stopped = False
        """A question was not sent as the run is stopping: what the function gives now is worth nothing."""
        self._calls = calls
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._count = 0
        self._closed = False
        self._deadline: asyncio.Timeout | None = None
        self._left: float | None = None
        self._pending = 0
        self._since = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()

    def __call__(
        self,
        prompt: str | None = None,
        *,
        system: str | None = None,
        messages: Sequence[Mapping[str, Json]] | None = None,
        sample: int = 0,
        **options: Json,
    ) -> Any:
        """The answer: a text, or the value where `output` is given; on the event loop something to await.

        `options` are model, provider, output (`"json"` or a JSON Schema), max_tokens, temperature, top_p, seed, stop,
        params and cache, each over the workflow's defaults. Raises AskFailed where there is no answer, ValueError and
        TypeError for arguments that do not go.
        """
        if unknown := [name for name in options if name not in _OPTIONS]:
            raise TypeError(f"ask has no argument {unknown[0]!r}; it has: {', '.join(_ARGUMENTS)}")
        try:
            given = to_json([prompt, system, messages, sample, {k: v for k, v in options.items() if v is not None}])
        except NotJson as error:
            raise ValueError(f"ask was given {error.message}; {error.hint}") from None
        step = self._calls.step_of(given[4])
        values = {"messages": self._calls.messages(*given[:3]), "sample": given[3]}
        with self._lock:
            number, self._count = self._count, self._count + 1
        if threading.get_ident() == self._thread:
            return self._answer(number, step, values)
        future = self._submit(number, step, values)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return future.result()
        return asyncio.wrap_future(future)  # on a loop of the function's own

    def hold(self, deadline: asyncio.Timeout) -> None:
        """Let a deadline stand still while a question is under way: that has a timeout of its own, and may queue."""
        self._deadline = deadline

    async def close(self) -> None:
        """The attempt is over: nothing more is asked, and what nobody waits for is broken off."""
        self._closed = True
        while self._tasks:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.wait(self._tasks)

    async def _answer(self, number: int, step: Step, values: Mapping[str, Json]) -> Json:
        if self._closed or self.stopped:
            raise RunStopping("the step has ended" if self._closed else "the run is stopping")
        task = start_task(self._calls.record(number, step, values))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._under_way(1)
        try:
            record = await task
        finally:
            self._under_way(-1)
        if record is None:
            if being_cancelled():
                raise asyncio.CancelledError
            self.stopped = not self._closed
            raise RunStopping("the run is stopping")
        if record.status is not NodeStatus.SUCCEEDED:
            error = record.error or {}
            raise AskFailed(
                str(error.get("type")),
                str(error.get("message")),
                hint=str(error.get("hint") or ""),
                answer=error.get("answer"),
            )
        return to_json(record.output)

    def _under_way(self, more: int) -> None:
        before, self._pending = self._pending, self._pending + more
        now = self._loop.time()
        if before and not self._pending:
            self._calls.waited += now - self._since
        elif not before:
            self._since = now
        deadline = self._deadline
        if deadline is None or self._closed or (before and self._pending):
            return
        if self._pending:
            when = deadline.when()
            self._left = None if when is None else when - now
            deadline.reschedule(None)
        elif self._left is not None and not deadline.expired():
            deadline.reschedule(now + self._left)

    def _submit(self, number: int, step: Step, values: Mapping[str, Json]) -> concurrent.futures.Future[Json]:
        """The same from another thread."""
        future: concurrent.futures.Future[Json] = concurrent.futures.Future()

        def over(task: asyncio.Task[Json]) -> None:
            error = RunStopping("the step has ended") if task.cancelled() else task.exception()
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(task.result())

        def start() -> None:
            task = start_task(self._answer(number, step, values))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(over)

        try:
            self._loop.call_soon_threadsafe(start)
        except RuntimeError:
            raise RunStopping("the run has ended") from None
        return future


_OPTIONS = ("model", "provider", "output", *_SENT, "params", "cache")
_ARGUMENTS = ("prompt", "system", "messages", "sample", *_OPTIONS)
