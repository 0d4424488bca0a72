"""Resuming a run: which one, with which inputs and items, from which files."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from shlex import quote

from flowllm.app.dataset_run import RowFiles
from flowllm.core.errors import FlowLLMError, UsageError
from flowllm.core.redact import Redactor
from flowllm.core.types import IN_MEMORY, Json, NodeId, RunId
from flowllm.language.files import DiskFiles, Unreadable
from flowllm.language.inputs import LETTER, NODE, UNREAD, resolve_inputs
from flowllm.language.literals import missing, restored
from flowllm.language.workflow import Input, Workflow
from flowllm.runtime.options import RunOptions
from flowllm.storage.base import NodeRecord, RunLease, RunRecord, Store


async def run_to_resume(store: Store, run_id: str | None, lost: Sequence[str] = ()) -> RunRecord:
    """That run; without an id the newest that has not succeeded, or the newest if all have. `lost` is what the database has
    lost, told if there is none. Raises RunNotFound, UsageError."""
    try:
        return await store.run(RunId(run_id) if run_id is not None else await _newest(store))
    except UsageError as error:  # RunNotFound is one
        error.hint = "\n".join((error.hint, *lost))
        raise


async def _newest(store: Store) -> RunId:
    runs = await store.runs(limit=1, unfinished=True) or await store.runs(limit=1)
    if not runs:
        raise UsageError("there is no run to resume", hint="start one with `flowllm run FILE`")
    return runs[0].run_id


async def give_back(
    store: Store, claiming: asyncio.Task[RunRecord], before: RunRecord, rows: RowFiles | None, *, now: float
) -> None:
    """A claimed run that cannot be gone on with stays as it was. Raises StoreError."""
    if rows is not None:
        await rows.close()
    try:
        claimed = await claiming
    except FlowLLMError:  # told already: it is not claimed
        return
    await store.finish_run(
        RunLease(run_id=claimed.run_id, epoch=claimed.epoch),
        status=before.status,
        finished_at=before.finished_at or now,
        outputs=before.outputs,
        error=before.error,
        stats=before.stats,
    )


def inputs_again(
    run: RunRecord, options: RunOptions, workflow: Workflow, inputs: Mapping[str, Json], texts: Mapping[str, str]
) -> tuple[dict[str, Json], tuple[str, ...]]:
    """The inputs of a run that goes on with this workflow, and the names of those that are given: what it was given and
    still has a use for, under what it is given now; defaults are those of the workflow. Raises InvalidInputs."""
    before = run.inputs if options.given is None else options.given
    kept = {
        name: run.inputs[name]
        for name in before
        if name in run.inputs and name in workflow.inputs and name not in inputs and name not in texts
    }
    as_texts = {
        name: text for name, value in kept.items() if (text := _as_text(value, workflow.inputs[name])) is not None
    }
    values = resolve_inputs(
        workflow,
        {**{name: value for name, value in kept.items() if name not in as_texts}, **inputs},
        {**as_texts, **texts},
        partial=options.over is not None,
    )
    given = {*kept, *inputs, *texts}
    return values, tuple(name for name in workflow.inputs if name in given)


def _as_text(value: Json, declared: Input) -> str | None:
    """The text of a value that is to be converted to what the input takes now; None: as it is."""
    if isinstance(value, str):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return json.dumps(value) if number and declared.type == "string" else None


def unmasked(run: RunRecord) -> RunRecord:
    """The run with the secrets that its files have written out, which are not on record, as they are on disk. Raises
    UsageError if they are no longer there."""
    if not missing(run.snapshot):
        return run
    disk, texts = DiskFiles(), {}
    for path in run.snapshot:
        with contextlib.suppress(Unreadable):
            texts[path] = disk.read(path)
    whole = restored(run.snapshot, texts)
    lines = missing(whole)
    if lines:
        raise UsageError(
            f"run {run.run_id} began with a secret that was written out in {', '.join(lines)}; no record has it, and "
            "that line is no longer there",
            hint="put the line back, or go on with the files as they are now: "
            f"flowllm resume {run.run_id} --file {quote(run.path)}",
        )
    return replace(run, snapshot=whole)


def edited(run: RunRecord) -> list[str]:
    """What to tell of files that are not what they were when the run began."""
    disk, edited = DiskFiles(), []
    for path, text in run.snapshot.items():
        if path == run.path and path.endswith(IN_MEMORY):
            continue
        try:
            same = disk.read(path) == text
        except Unreadable:
            same = False
        if not same:
            edited.append(path)
    if not edited:
        return []
    changed = f"{', '.join(edited)} changed since this run began; it goes on with what it began with."
    return [f"{changed} To take what is on disk: flowllm resume {run.run_id} --file {quote(run.path)}"]


async def mended_items(
    store: Store, run: RunRecord, letters: Sequence[Json], redactor: Redactor
) -> dict[str, Mapping[str, Json]]:
    """The run's mended items with those of these lines of `flowllm failed`; see `RunOptions.mended`.

    An item that is as it was is left out. Raises UsageError for a line that names no item of the run.
    """
    found: dict[str, dict[str, Json]] = {name: dict(items) for name, items in run.options.get("mended", {}).items()}
    for number, letter in enumerate(letters, 1):
        node = letter.get(NODE) if isinstance(letter, dict) else None
        record = await store.node(run.run_id, NodeId(node)) if isinstance(node, str) else None
        if record is None or record.place is None:
            raise UsageError(
                f"line {number} of what was mended names no item of run {run.run_id}",
                hint=f"each line is one of `flowllm failed {run.run_id}`, mended, with its `{NODE}`",
            )
        item = _item(letter, record, number)
        if item != record.item:
            found.setdefault(record.parent, {})[str(record.place)] = [record.content, redactor.value(item)]
    return dict(found)


def _item(letter: Mapping[str, Json], record: NodeRecord, number: int) -> Json:
    """The item of a line, in the shape in which the data has it."""
    own = {name: value for name, value in letter.items() if name not in LETTER}
    if not isinstance(record.item, dict):
        if len(own) != 1:
            raise UsageError(
                f"line {number} of what was mended has {len(own)} fields, and the item {record.node_id} is one value",
                hint="`flowllm failed` prints such an item under one name: keep that, and mend the value",
            )
        return next(iter(own.values()))
    said = {name: value for name, value in own.items() if name not in UNREAD}
    return said if said and record.item.keys() == UNREAD else own  # a line that could not be read
