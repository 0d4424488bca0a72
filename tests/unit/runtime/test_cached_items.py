"""Items that the response cache answers: together, in one read and one commit, and as any other in all that is seen."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from flowllm.calls.stored_answer import answer_of, memo_record
from flowllm.core.cancel import StopSignal
from flowllm.core.errors import StorageFailed
from flowllm.core.events import NodeEnded, NodeStarted, Notice
from flowllm.core.request import Answer
from flowllm.core.types import NodeStatus
from flowllm.runtime.foreach_state import OpenItemLimit
from flowllm.runtime.options import RunOptions
from flowllm.storage.sql.rows import MemoRow, memo_hash
from tests.support.answering import Told, sit, stage
from tests.support.run_attempts import Stage
from tests.support.virtual import run_virtual

STEP = """
steps: {{a: {{foreach: {items}, prompt: "{{{{ item }}}}"{more}}}}}
outputs: {{a: "{{{{ a }}}}"}}
"""


def flow(*items: object, more: str = "") -> str:
    return STEP.format(items=list(items), more=more)


class Counted:
    """How often the store of a stage is read and written for items; a test may have it fail."""

    def __init__(self, made: Stage) -> None:
        self.reads: list[int] = []
        self.commits: list[int] = []
        self.single: list[str] = []
        self.on_commit = lambda: None
        memos, memo, commit = made.store.memos, made.store.memo, made.store.commit

        async def counted_memos(keys: list[str]) -> object:
            self.reads.append(len(keys))
            return await memos(keys)

        async def counted_memo(key: str) -> object:
            self.single.append(key)
            return await memo(key)

        async def counted_commit(**how: object) -> None:
            if any(write.node.cached and write.node.place is not None for write in how.get("nodes", ())):
                self.commits.append(len(how["nodes"]))
                self.on_commit()
            await commit(**how)

        made.store.memos, made.store.memo, made.store.commit = counted_memos, counted_memo, counted_commit


def twice(text: str, second: str | None = None, **how: object) -> tuple[Told, Told, Counted]:
    async def main() -> tuple[Told, Told, Counted]:
        made = stage()
        first = await sit(made, text, run_id="r1")
        counted = Counted(made)
        return first, await sit(made, second or text, run_id="r2", **how), counted

    return run_virtual(main())


def of(told: Told, *fields: str) -> dict[str, tuple[object, ...]]:
    return {name: tuple(getattr(node, field) for field in fields) for name, node in told.nodes.items()}


def test_a_window_is_one_read_and_one_commit_and_no_request() -> None:
    first, again, counted = twice(flow(*range(40)))
    assert (again.status, again.asked, again.outputs) == ("succeeded", [], first.outputs)
    assert counted.reads == [16, 24]  # they hold no slots: once one was answered, more may be under way
    assert counted.commits == [16, 24]
    assert counted.single == []
    text = flow(*range(10), more=", max_concurrent: 4")
    _, again, counted = twice(text)
    assert (again.asked, counted.commits) == ([], [4, 4, 2])


def test_what_is_on_record_and_told_is_as_of_an_item_that_was_executed() -> None:
    first, again, _ = twice(flow("x", "y"))
    same = ["key", "parts", "output", "model", "provider", "item", "content", "place", "parent", "usage", "status"]
    assert of(again, *same) == of(first, *same)
    assert of(again, "cached", "attempts", "cost_usd")["a[1]"] == (True, 0, 0.0)
    told = [(type(one), one.node_id) for one in again.events if isinstance(one, NodeStarted | NodeEnded)]
    items = [(kind, f"a[{place}]") for place in range(2) for kind in (NodeStarted, NodeEnded)]
    assert told == [(NodeStarted, "a"), *items, (NodeEnded, "a")]
    ended = {one.node_id: one for one in again.events if isinstance(one, NodeEnded)}
    assert (ended["a"].counts["succeeded"], ended["a[0]"].cached) == (2, True)


def test_what_is_not_stored_is_executed_and_bound_once() -> None:
    first, again, counted = twice(flow("a", "b"), flow("b", "c", "a", "c"))
    assert again.asked == ["c"]
    assert again.outputs == {"a": ["re: b", "re: c", "re: a", "re: c"]}
    assert counted.reads == [3]
    assert len(counted.single) == 1
    assert first.asked == ["a", "b"]


def test_after_a_miss_nothing_is_looked_up_ahead_until_something_was_answered() -> None:
    _, again, counted = twice(flow(*range(16, 100)), flow(*range(100)))
    assert again.asked == [str(number) for number in range(16)]
    assert counted.reads[0] == 16
    assert 16 <= len(counted.single) <= 32
    assert sum(counted.reads) + len(counted.single) >= 100


def test_items_that_no_stored_answer_completes_are_executed() -> None:
    text = flow(1, 2, more=', when: "{{ item > 1 }}"')
    _, again, _ = twice(flow(1, 2), text)
    assert again.status_of("a[0]", "a[1]") == ["skipped", "succeeded"]
    for more in (", samples: 2", ", cache: false"):
        first, again, counted = twice(flow("x", more=more))
        assert (again.outputs, counted.commits == []) == (
            first.outputs,
            more == ", cache: false" or counted.commits == [],
        )
    _, again, counted = twice(flow("x"), flow("x"), options=RunOptions(no_cache=True))
    assert (again.asked, counted.reads) == (["x"], [])
    _, again, counted = twice(flow("x"), flow("x"), options=RunOptions(refresh=("a",)))
    assert (again.asked, counted.reads) == (["x"], [])
    _, again, _ = twice(flow(1, 2), flow(1, "{{", 2).replace("'{{'", '"two"').replace("{{ item }}", "{{ item + 1 }}"))
    assert again.status == "failed"
    assert again.status_of("a[0]", "a[1]", "a[2]") == ["succeeded", "failed", "succeeded"]


def test_an_answer_that_is_too_old_is_asked_again() -> None:
    async def main() -> None:
        made = stage()
        await sit(made, flow("x"), run_id="r1")
        await asyncio.sleep(100)
        kept = await sit(made, flow("x", more=", cache: {ttl: 1h}"), run_id="r2")
        old = await sit(made, flow("x", more=", cache: {ttl: 10s}"), run_id="r3")
        assert (kept.asked, old.asked) == ([], ["x"])

    run_virtual(main())


def test_a_damaged_answer_is_asked_again() -> None:
    async def main() -> None:
        made = stage()
        await sit(made, flow("x", "y"), run_id="r1")
        with sqlite3.connect(made.store.path) as connection:
            connection.execute("UPDATE memo SET answer = replace(answer, 're: x', 're: z')")
        again = await sit(made, flow("x", "y"), run_id="r2")
        assert (again.asked, again.outputs) == (["x"], {"a": ["re: x", "re: y"]})

    run_virtual(main())


def test_a_commit_that_fails_breaks_the_run_and_a_resume_goes_on() -> None:
    async def main() -> None:
        made = stage()
        await sit(made, flow("x", "y"), run_id="r1")
        counted = Counted(made)

        def fail() -> None:
            raise StorageFailed("the disk is full")

        counted.on_commit = fail
        broken = await sit(made, flow("x", "y"), run_id="r2")
        assert (broken.status, broken.asked) == ("interrupted", [])
        assert not [one for one in broken.events if isinstance(one, NodeEnded)]
        counted.on_commit = lambda: None
        again = await sit(made, flow("x", "y"), run_id="r2")
        assert (again.status, again.asked, again.outputs) == ("succeeded", [], {"a": ["re: x", "re: y"]})

    run_virtual(main())


def test_a_row_that_cannot_be_stored_is_told_of_its_item_alone() -> None:
    async def main() -> None:
        made = stage()
        await sit(made, flow("x", "y"), run_id="r1")
        counted, once = Counted(made), iter([True])

        def refuse() -> None:
            if next(once, False):
                raise ValueError("no JSON")

        counted.on_commit = refuse
        again = await sit(made, flow("x", "y"), run_id="r2")
        assert (again.asked, again.outputs) == ([], {"a": ["re: x", "re: y"]})
        assert counted.commits == [2, 1, 1]

    run_virtual(main())


def test_a_run_that_stops_during_the_look_ends_nothing() -> None:
    async def main() -> None:
        made, stop = stage(), StopSignal()
        await sit(made, flow("x", "y"), run_id="r1")
        look = made.store.memos

        async def slow(keys: list[str]) -> object:
            stop.request("test")
            await asyncio.sleep(1)
            return await look(keys)

        made.store.memos = slow
        stopped = await sit(made, flow("x", "y"), run_id="r2", stop=stop)
        assert (stopped.status, stopped.asked) == ("interrupted", [])
        assert stopped.nodes["a"].status is NodeStatus.RUNNING

    run_virtual(main())


def test_accept_takes_stored_answers_in_order() -> None:
    more = ", accept: {when: \"{{ output != 're: 1' }}\", count: 3}"
    first, again, _ = twice(flow(*range(20)), flow(*range(20), more=more))
    assert again.asked == []
    assert again.outputs == {"a": ["re: 0", "re: 2", "re: 3"]}
    assert again.nodes["a"].parts["chosen"] == [0, 2, 3]
    assert first.status == "succeeded"


def test_a_look_that_is_cancelled_as_its_commit_fails_ends_its_items_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        made = stage()
        await sit(made, flow("x", "y"), run_id="r1")
        counted, closed, close = Counted(made), [], OpenItemLimit.closed

        def fail() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            raise StorageFailed("the disk is full")

        counted.on_commit = fail
        monkeypatch.setattr(OpenItemLimit, "closed", lambda self: closed.append(close(self)))
        assert (await sit(made, flow("x", "y"), run_id="r2")).status == "interrupted"
        assert len(closed) == 2

    run_virtual(main())


@pytest.mark.parametrize(
    "change",
    [
        "json_remove(answer, '$.truncated')",
        "json_set(answer, '$.usage', 3)",
        "json_set(answer, '$.usage.input_tokens', 'few')",
        "json_set(answer, '$.model', null)",
        "'[1]'",
        "'null'",
    ],
)
def test_a_stored_answer_that_is_none_is_asked_again_and_that_is_said_once(change: str) -> None:
    async def main() -> None:
        made = stage()
        await sit(made, flow("x", "y", "z"), run_id="r1")
        with sqlite3.connect(made.store.path) as connection:
            connection.execute(f"UPDATE memo SET answer = {change} WHERE answer NOT LIKE '%re: y%'")
            for row in connection.execute(f"SELECT {', '.join(MemoRow._fields)} FROM memo").fetchall():
                mended = MemoRow(*row)
                hashed = (memo_hash(mended), mended.key)
                connection.execute("UPDATE memo SET content_hash = ? WHERE key = ?", hashed)
        again = await sit(made, flow("x", "y", "z"), run_id="r2")
        assert (again.asked, again.outputs) == (["x", "z"], {"a": ["re: x", "re: y", "re: z"]})
        (notice,) = (one.message for one in again.events if isinstance(one, Notice))
        assert notice.startswith("the stored answer of a[0] is not as this version of flowllm writes them")

    run_virtual(main())


def test_an_answer_of_a_version_that_counts_more_will_do() -> None:
    stored = memo_record("k", Answer(value="v", model="m", provider="p"), now=0)
    stored.answer["usage"] = {"input_tokens": 7, "new_tokens": 1}
    answer = answer_of(stored)
    assert answer is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 0)
