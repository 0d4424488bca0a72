"""Two runs held against each other, over a real store, page by page."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.types import Json, NodeStatus, StepKind
from flowllm.storage.base import RunRecord
from flowllm.storage.open import open_store
from flowllm.storage.sql.store import SqlStore
from flowllm.views import compare as module
from flowllm.views import report as report_module
from flowllm.views.compare import compare
from flowllm.views.differences import ItemCounts, differs
from flowllm.views.report import report
from tests.support.items import foreach, item, write
from tests.support.records import ME, lease_of, node, run

pytestmark = pytest.mark.anyio


async def _run(store: SqlStore, name: str, outputs: dict[str, Json], *, failed: str = "") -> RunRecord:
    """A run whose items have these outputs, by their contents; one of them may have failed."""
    begun = await store.create_run(run(name, owner=ME))
    rows = [replace(item(place, content), output=outputs[content]) for place, content in enumerate(outputs)]
    rows = [
        replace(row, status=NodeStatus.FAILED, output=None, error={"type": "X", "message": name})
        if row.content == failed
        else row
        for row in rows
    ]
    top = [foreach(), replace(node("alone", name), kind=StepKind.VALUE, output={"vector": [len(name)] * 50})]
    await write(store, lease_of(begun), *(replace(row, run_id=begun.run_id) for row in (*rows, *top)))
    return await store.run(begun.run_id)


async def test_pages_limits_and_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 2)
    read: list[int] = []
    store = await open_store("memory:", clock=SystemClock())
    assert isinstance(store, SqlStore)
    contents = "abcdefg"
    base = await _run(store, "r1", {one: {"n": {"score": 1}, "same": True} for one in contents}, failed="f")
    later = {one: {"n": {"score": 1 + (one in "ceg")}, "same": True} for one in reversed(contents)}
    last = await _run(store, "r22", later, failed="a")
    outcomes = store.item_outcomes

    async def counted(*args: object) -> object:
        read.append(len(args[2]))  # type: ignore[arg-type]
        return await outcomes(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "item_outcomes", counted)
    found = await compare(store, base, last, limit=3, now=0.0)
    alone, posts = found.steps
    assert posts.items == ItemCounts(same=2, changed=5, added=0, removed=0)
    assert read == [2, 2, 2, 2, 1, 1], "only what differs is read"
    (mean,) = posts.means
    assert (mean.path, mean.items, mean.before, mean.after) == ("n.score", 3, 1.0, 2.0)
    assert [(change.node, change.before.status, change.after.status) for change in found.changes] == [
        ("posts[1]", "failed", "succeeded"),
        ("posts[6]", "succeeded", "failed"),
        ("alone", "succeeded", "succeeded"),
    ]
    assert (found.total, alone.verdict, found.changed) == (6, "changed", True)
    (change,) = (await compare(store, base, last, "alone", now=0.0)).changes
    assert (len(change.fields), change.more_fields) == (module.MOST_FIELDS, 50 - module.MOST_FIELDS)
    assert change.fields[0].path == "vector.0"
    unchanged = await compare(store, last, last, limit=0, now=0.0)
    assert (unchanged.changed, unchanged.total, unchanged.steps[1].items.same) == (False, 0, 7)
    await store.close()


async def test_what_has_not_ended_in_a_run_that_goes_on_is_no_change() -> None:
    store = await open_store("memory:", clock=SystemClock())
    base = await _run(store, "r1", {"a": 1, "b": 2, "c": 3, "d": 4})
    going = await store.create_run(run("r2", owner=ME))
    rows = [replace(item(0, "a"), output=1), replace(item(1, "b"), output=5)]
    rows += [replace(item(2, "c"), status=NodeStatus.RUNNING, output=None, key="")]
    top = replace(foreach(), status=NodeStatus.RUNNING)
    await write(store, lease_of(going), *(replace(row, run_id=going.run_id) for row in (*rows, top)))
    going = await store.run(going.run_id)
    found = await compare(store, base, going, now=0.0)
    alone, posts = sorted(found.steps, key=lambda one: one.step)
    assert (alone.verdict, differs(alone)) == ("open", "not there yet")
    assert posts.items == ItemCounts(same=1, changed=1, added=0, removed=0)
    assert differs(posts) == "succeeded → running, 1 of 2 items"
    assert [change.node for change in found.changes] == ["posts[1]"]
    assert found.total == 1
    only = await compare(store, base, going, "alone", now=0.0)
    assert (only.changed, only.changes) == (False, ())
    (told,) = (await report(store, going, None, now=0.0)).sections
    assert (told.node["counts"]["succeeded"], told.node["counts"]["total"]) == (2, 3), (
        "in a report so far as it has come"
    )
    await store.close()


async def test_a_report_of_much_text_leaves_items_out_and_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    store = await open_store("memory:", clock=SystemClock())
    assert isinstance(store, SqlStore)
    made = await _run(store, "r1", dict.fromkeys("abcdefg", "word " * 1000), failed="d")
    for most, told in ((100_000, 7), (12_000, 4), (1, 0)):
        monkeypatch.setattr(report_module, "MOST_TEXT", most)
        (foreach_section,) = [
            one for one in (await report(store, made, None, now=0.0)).sections if one.node["counts"] is not None
        ]
        assert (len(foreach_section.within), foreach_section.omitted) == (told, 7 - told)
        assert all(one.node["status"] == "failed" for one in foreach_section.within[:1])
    await store.close()
