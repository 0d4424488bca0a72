from __future__ import annotations

import asyncio

from flowllm.core.errors import StorageFailed
from flowllm.core.types import NodeStatus, StepKind
from flowllm.runtime.background import TaskSet, WriteQueue
from flowllm.storage.base import NodeRecord, NodeWrite, RunLease
from tests.support.virtual import run_virtual

LEASE = RunLease(run_id="r1", epoch=1)


def record(name: str) -> NodeRecord:
    return NodeRecord(run_id="r1", node_id=name, kind=StepKind.VALUE, status=NodeStatus.SUCCEEDED)


class SlowStore:
    """Takes a second for each unit; fails for a node called `bad`."""

    def __init__(self) -> None:
        self.written: list[list[str]] = []

    async def commit(self, *, nodes: tuple[NodeWrite, ...]) -> None:
        names = [write.node.node_id for write in nodes]
        assert all(write.lease == LEASE for write in nodes)
        self.written.append(names)
        await asyncio.sleep(1)
        if "bad" in names:
            raise StorageFailed("the disk is full")


def test_a_committed_row_is_written_behind_those_that_were_enqueued_before_it_which_go_together() -> None:
    async def main() -> None:
        store = SlowStore()
        queue = WriteQueue(store, LEASE, on_error=lambda _: None)
        queue.enqueue(record("a"), record("b"))
        queue.enqueue(record("c"))
        assert store.written == []
        await queue.commit(record("d"))
        assert store.written == [["a", "b", "c"], ["d"]]

    run_virtual(main())


def test_who_enqueues_more_is_held_up_until_few_are_pending() -> None:
    async def main() -> None:
        queue, loop = WriteQueue(SlowStore(), LEASE, on_error=lambda _: None), asyncio.get_running_loop()
        for name in "abc":
            queue.enqueue(record(name))
            await asyncio.sleep(0.1)
        await queue.wait(most=3)
        assert loop.time() < 0.5
        await queue.wait(most=2)
        assert loop.time() == 1
        await queue.wait(most=0)
        assert (round(loop.time(), 3), bool(queue)) == (1.2, False)

    run_virtual(main())


def test_the_error_of_an_enqueued_write_is_reported_and_that_of_a_commit_is_raised() -> None:
    async def main() -> list[str]:
        errors: list[str] = []
        queue = WriteQueue(SlowStore(), LEASE, on_error=lambda error: errors.append(str(error)))
        queue.enqueue(record("bad"))
        await queue.wait(most=0)
        try:
            await queue.commit(record("bad"))
        except StorageFailed as error:
            return [*errors, f"raised: {error}"]
        raise AssertionError

    assert run_virtual(main()) == ["the disk is full", "raised: the disk is full"]


def test_a_task_that_was_cancelled_before_it_began_is_reported_as_dropped_and_one_that_broke_too() -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        tasks = TaskSet(on_error=lambda error: seen.append(f"error: {error}"))

        async def work(*, fails: bool) -> None:
            await asyncio.sleep(1)
            if fails:
                raise ValueError("broken")
            seen.append("done")

        tasks.spawn(work(fails=False), lambda: seen.append("dropped 1"))
        tasks.spawn(work(fails=True), lambda: seen.append("dropped 2"))
        await tasks.wait()
        tasks.spawn(work(fails=False), lambda: seen.append("dropped 3"))
        tasks.cancel()
        await tasks.wait()
        assert not tasks
        return seen

    assert run_virtual(main()) == ["done", "error: broken", "dropped 2", "dropped 3"]
