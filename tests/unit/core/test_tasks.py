from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flowllm.core.tasks import run_loop, start_task
from tests.support.factories import FACTORIES


def _eagerly(loop: asyncio.AbstractEventLoop, work: Any, **_: Any) -> asyncio.Task[Any]:
    """Enough of an eager factory for work that never waits, on any Python."""
    with pytest.raises(StopIteration):
        work.send(None)
    return asyncio.Task(asyncio.sleep(0), loop=loop)


@pytest.mark.parametrize("factory", [*FACTORIES, _eagerly])
def test_a_task_begins_after_its_starter_has_seen_it_and_in_order(factory: Callable[..., Any] | None) -> None:
    async def main() -> list[str]:
        asyncio.get_running_loop().set_task_factory(factory)
        order: list[str] = []

        async def work(name: str) -> None:
            order.append(name)

        tasks = [start_task(work(name)) for name in ("a", "b")]
        order.append("starter")
        await asyncio.wait(tasks)
        return order

    assert asyncio.run(main()) == ["starter", "a", "b"]


def test_a_result_is_not_written_out_when_its_loop_ends() -> None:
    written: list[str] = []

    class Large:
        def __repr__(self) -> str:
            written.append("whole")
            return "large"

    large = Large()

    async def work() -> Large:
        return large

    assert run_loop(work()) is large
    assert not written
