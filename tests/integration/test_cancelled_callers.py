"""Calls of a FlowLLM that are cancelled at each of their suspensions: nothing is lost, kept open, or left running."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any, Literal

import pytest

from flowllm import FlowLLM
from flowllm.app.result import RunResult
from flowllm.core.types import RunStatus
from flowllm.runtime.options import RunOptions

How = Literal["early", "late", "level"]
WORKFLOW = """
providers: {sim: {type: simulated, latency: 1ms}}
defaults: {provider: sim, model: m, max_tokens: 20}
inputs: {n: {type: string, default: x}}
steps: {a: {prompt: "say {{ inputs.n }}"}, b: {value: "{{ 1 // 0 }}", needs: [a]}}
outputs: {a: "{{ a }}"}
"""


class Driven:
    """Cancels its task at the n-th suspension: `early` before what is awaited is done, `late` just when it is, `level` from
    there on at each, as the scopes of anyio do."""

    def __init__(self, work: Awaitable[Any], place: int, how: How) -> None:
        self.work, self.place, self.how, self.count = work, place, how, 0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps, task = self.work.__await__(), asyncio.current_task()
        assert task is not None
        resume: Callable[[Any], Any] = steps.send
        value: Any = None
        while True:
            try:
                awaited = resume(value)
            except StopIteration as end:
                return end.value
            self.count += 1
            if self.count == self.place and self.how == "late" and awaited is not None:
                awaited.add_done_callback(lambda _: task.cancel())
            elif self.count == self.place or (self.how == "level" and self.count > self.place):
                task.cancel()
            try:
                resume, value = steps.send, (yield awaited)
            except BaseException as error:  # noqa: BLE001 - it goes on into the work
                resume, value = steps.throw, error


async def cancelled_everywhere(
    prepare: Callable[[int], Awaitable[Callable[[], Coroutine[Any, Any, Any]]]], how: How
) -> None:
    """Carry out the work again and again, and cancel it one suspension later each time, until it ends before."""
    ended = []  # kept, with the frames that their errors hold
    for place in range(1, 100):
        driven = Driven((await prepare(place))(), place, how)
        there = asyncio.all_tasks()

        async def go(driven: Driven = driven) -> object:
            return await driven

        task = asyncio.create_task(go())
        ended.append(task)
        await asyncio.wait([task], timeout=20)
        assert task.done(), place
        if driven.count < place:
            task.result()
            return
        assert task.cancelled(), (place, task.exception())
        left = [one for one in asyncio.all_tasks() if one not in there]
        if left:
            _, going = await asyncio.wait(left, timeout=5)
            assert not going
    raise AssertionError("it does not end")


def open_files(part: str) -> list[str]:
    found = []
    for descriptor in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(descriptor.readlink()))
    return sorted(name for name in found if part in name)


CALLS: dict[str, Callable[[FlowLLM, Path, RunResult, int], Coroutine[Any, Any, Any]]] = {
    "run": lambda app, folder, _, place: app.run(folder / "w.yaml", inputs={"n": str(place)}),
    "over": lambda app, folder, _, place: app.run(
        folder / "w.yaml",
        options=RunOptions(over=str(folder / "rows.jsonl"), output=str(folder / "out.jsonl"), overwrite=True),
    ),
    "resume over": lambda app, folder, failed, _: app.resume(failed.run_id, retry_failed=True),
    "resume": lambda app, _, failed, __: app.resume(failed.run_id),
    "take": lambda app, folder, failed, _: app.resume(failed.run_id, file=folder / "w.yaml", retry_failed=True),
    "delete": lambda app, _, failed, __: app.delete([failed.run_id]),
}


@pytest.mark.parametrize("name", list(CALLS))
def test_a_call_that_is_cancelled_leaves_all_as_others_need_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    (tmp_path / "rows.jsonl").write_text('{"n": "1"}\n')

    async def main() -> None:
        async with FlowLLM(database=tmp_path / "runs.db") as app:

            async def prepare(place: int) -> Callable[[], Coroutine[Any, Any, Any]]:
                options = None
                if name == "resume over":
                    options = RunOptions(
                        over=str(tmp_path / "rows.jsonl"), output=str(tmp_path / "out.jsonl"), overwrite=True
                    )
                failed = await app.run(tmp_path / "w.yaml", options=options)
                return lambda: CALLS[name](app, tmp_path, failed, place)

            for how in ("early", "late", "level"):
                await cancelled_everywhere(prepare, how)
                runs = await app.store.runs(limit=1000)
                assert RunStatus.RUNNING not in {run.status for run in runs}, how
                last = await app.run(tmp_path / "w.yaml", inputs={"n": f"last {how}"})
                assert last.status is RunStatus.FAILED
                for run in runs[:1]:
                    assert (await app.resume(run.run_id)).status is not RunStatus.RUNNING

    asyncio.run(asyncio.wait_for(main(), 60))
    assert open_files(str(tmp_path)) == []


@pytest.mark.parametrize("how", ["early", "late", "level"])
def test_one_that_is_cancelled_as_it_opens_or_closes_gives_all_back(how: How, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(WORKFLOW)

    async def whole() -> None:
        async with FlowLLM(database=tmp_path / "runs.db") as app:
            await app.run(tmp_path / "w.yaml")
            await asyncio.gather(app.store.runs(), app.store.runs())

    async def prepare(_place: int) -> Callable[[], Coroutine[Any, Any, Any]]:
        return whole

    async def main() -> None:
        await cancelled_everywhere(prepare, how)
        assert open_files(str(tmp_path)) == []

    asyncio.run(asyncio.wait_for(main(), 60))
