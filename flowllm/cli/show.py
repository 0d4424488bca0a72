"""flowllm show: one run, or one step of it, as it is on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import click

from flowllm.app.flowllm import FlowLLM
from flowllm.app.result import (
    MOST_ITEMS,
    RunResult,
    StepResult,
    all_nodes,
    counted,
    figures_of,
    whole_nodes,
    with_items,
)
from flowllm.cli.database import command, find_run, reading, step_kinds
from flowllm.cli.inputs import full_option
from flowllm.cli.options import Location, json_option, location_options
from flowllm.cli.output import heading, known_outputs, print_json, print_outputs, print_table, results
from flowllm.core.clock import timestamp
from flowllm.core.errors import UsageError
from flowllm.core.money import Spend, price
from flowllm.core.types import (
    RUN_RESUMABLE,
    AttemptStatus,
    Counts,
    Json,
    NodeId,
    NodeStatus,
    RunStatus,
    StepKind,
    Usage,
    WaitReason,
    step_path,
)
from flowllm.language.problems import nearest
from flowllm.reporting.screen import Screen
from flowllm.reporting.summary import error_lines, figures, took
from flowllm.reporting.text import (
    at_least,
    clock_time,
    dollars,
    duration,
    error_text,
    item_shares,
    json_text,
    one_line,
    plural,
    readable,
    resume_options,
    suspended_text,
    visible,
    waits_text,
)
from flowllm.storage.base import AttemptRecord, NodeRecord, RunRecord, Store
from flowllm.storage.live import SUSPENDED

ITEMS_SHOWN = 20
"""Items of a foreach that are listed."""
WAIT_SHOWN = 1.0
"""Seconds from which the table of steps names the waits of one."""
_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is on record of one node, or of the run itself."""

    run: RunRecord
    nodes: Sequence[NodeRecord]
    """The steps at the top, or within the node."""
    attempts: Mapping[NodeId, Sequence[AttemptRecord]]
    """The requests of nodes, by their ids."""
    spends: Mapping[NodeId, Spend]
    """What those nodes have cost so far whose cost is unknown."""
    node: NodeRecord | None = None
    items: Sequence[NodeRecord] = field(default_factory=list)
    """The first ones of a foreach."""

    def as_dict(self) -> dict[str, Json]:
        """What --json prints: of a run what `run --json` prints, and more."""
        run, node = self.run, self.node
        steps = {one.node_id: self._step_dict(one) for one in self.nodes}
        if node is None:
            more = {"path": run.path, "options": dict(run.options), "tenant": run.tenant}
            times = {"started_at": timestamp(run.started_at), "finished_at": timestamp(run.finished_at)}
            return {**RunResult.of(run, self.nodes).as_dict(), **more, **times, "steps": steps}
        found = self._step_dict(node)
        if node.place is not None:
            found |= {"index": node.place, "item": node.item}
        if node.counts is not None:
            found["items"] = [_item_dict(item) for item in self.items]
        elif steps:
            found["steps"] = steps
        return found

    def _step_dict(self, node: NodeRecord) -> dict[str, Json]:
        """One step, with what was sent for it."""
        return {
            **StepResult.of(node).as_dict(),
            "reused": node.reused,
            "key": node.key or None,
            "request": dict(node.parts),
            "waits": {reason: round(seconds, 3) for reason, seconds in node.waits.items()},
            "attempt_log": [_attempt_dict(attempt) for attempt in self.attempts.get(node.node_id, ())],
        }


def _item_dict(item: NodeRecord) -> dict[str, Json]:
    where = {"node": item.node_id, "index": item.place, "item": item.item}
    return where | {"status": item.status.value, "output": item.output, "error": item.error}


_ATTEMPT = (
    *("number", "status", "provider", "model", "key", "started_at", "finished_at", "error", "usage", "cost_usd"),
    *("reserved_tokens", "reserved_usd"),
)


def _attempt_dict(attempt: AttemptRecord) -> dict[str, Json]:
    return {name: getattr(attempt, name) for name in _ATTEMPT} | {
        "status": attempt.status.value,
        "started_at": timestamp(attempt.started_at),
        "finished_at": timestamp(attempt.finished_at),
        "usage": attempt.usage.as_dict(),
    }


@click.command()
@click.argument("run")
@click.argument("step", required=False)
@json_option
@full_option
@location_options
def show(*, run: str, step: str | None, as_json: bool, full: bool, location: Location) -> None:
    """Show RUN, or one STEP of it with its prompt, answer and attempts.

    RUN is an id, its beginning, or `last`. STEP may be an item, or a step within a step: 'posts[17]', post.headline.
    """
    outputs = (None if full else MOST_ITEMS) if as_json else 0

    async def work(app: FlowLLM) -> Record:
        store, found = app.store, await find_run(app.store, run)
        found = replace(found, stats=figures_of(found))
        if step is None:
            nodes = all_nodes(found, await whole_nodes(store, found, outputs), step_kinds(found))
            return await _record(store, found, nodes, attempts_of=nodes if as_json else ())
        return await _read_node(store, found, step, outputs, as_json=as_json)

    record = reading(location, work)
    if as_json:
        print_json(record.as_dict())
    elif record.node is None:
        _print_run(record, location)
    else:
        _print_step(record, record.node)


async def _read_node(store: Store, run: RunRecord, step: str, outputs: int | None, *, as_json: bool) -> Record:
    """One node, with so many outputs of foreaches (None: all). Raises UsageError for a step that the run does not have."""
    node = await _find_node(store, run, step)
    within, items = [], []
    if node.counts is not None:
        items = all_nodes(run, await _first_items(store, node, outputs if as_json else ITEMS_SHOWN), {})
    elif node.kind in {StepKind.WORKFLOW, StepKind.PYTHON}:
        inner = await store.nodes(run.run_id, node.node_id)
        if node.kind is StepKind.PYTHON:  # what it asked, in the order of the calls: ask[2] before ask[10]
            inner.sort(key=lambda one: (len(one.node_id), one.node_id))
        within = all_nodes(run, [await with_items(store, one, outputs) for one in inner], {})
    node = await with_items(store, node, outputs)
    return await _record(store, run, within, node, items, attempts_of=[*within, node] if as_json else [node])


async def _record(
    store: Store,
    run: RunRecord,
    nodes: Sequence[NodeRecord],
    node: NodeRecord | None = None,
    items: Sequence[NodeRecord] = (),
    *,
    attempts_of: Sequence[NodeRecord],
) -> Record:
    nodes = await counted(store, nodes)
    node = None if node is None else (await counted(store, [node]))[0]
    attempts = {
        one.node_id: [_as_seen(attempt, run) for attempt in await store.attempts(run.run_id, one.node_id)]
        for one in attempts_of
        if one.counts is None
    }
    spends = {
        one.node_id: await store.spend(run.run_id, one.node_id)
        for one in (nodes if node is None else [*nodes, node])
        if one.cost_usd is None and one.attempts > 0
    }
    return Record(run=run, nodes=nodes, node=node, items=items, attempts=attempts, spends=spends)


async def _find_node(store: Store, run: RunRecord, step: str) -> NodeRecord:
    """That node, even if it never ended. Raises UsageError."""
    found = await store.node(run.run_id, NodeId(step))
    if found is not None:
        return all_nodes(run, [found], {})[0]
    steps = {node.node_id: node for node in all_nodes(run, await store.nodes(run.run_id), step_kinds(run))}
    if step in steps:
        return steps[NodeId(step)]
    top = step_path(step).partition(".")[0]
    hint = nearest(step, steps)
    if top in steps:
        hint = f"`flowllm show {run.run_id} {top}` shows what is within {top}"
    raise UsageError(f"run {run.run_id} has no record of a step `{step}`", hint=hint)


async def _first_items(store: Store, node: NodeRecord, most: int | None) -> list[NodeRecord]:
    found: list[NodeRecord] = []
    while most is None or len(found) < most:
        after = (found[-1].place or 0) if found else -1
        limit = _PAGE if most is None else min(_PAGE, most - len(found))
        page = await store.items(node.run_id, node.node_id, after=after, limit=limit)
        if not page:
            break
        found += page
    return found


def _as_seen(attempt: AttemptRecord, run: RunRecord) -> AttemptRecord:
    """A request that was in flight when its process ended may have been paid for: its usage is unknown."""
    if attempt.status is AttemptStatus.SENT and run.status is not RunStatus.RUNNING:
        free = attempt.reserved_usd == 0
        return replace(attempt, status=AttemptStatus.UNKNOWN, usage=Usage.unknown(), cost_usd=0.0 if free else None)
    return attempt


# printing


def _print_run(record: Record, location: Location) -> None:
    run, screen = record.run, results()
    screen.line("run ", (run.run_id, "bold"), f": {visible(run.workflow)}, ", (run.status.value, "bold"))
    _print_run_facts(screen, run)
    if run.finished_at is None:  # its requests are not counted yet
        screen.line("  ", took(run.stats))
    else:
        if run.epoch > 1:
            screen.line("  since it was last resumed:")
        for line in figures(run.stats, set()):
            screen.line("  ", *line)
    if record.nodes:
        screen.line()
        _print_steps(record)
    if run.error is not None:
        _print_error(screen, run.error)
    if outputs := known_outputs(run.status, run.outputs or {}):
        screen.line()
        print_outputs(outputs)
    if any(node.counts is not None and node.counts.failed for node in record.nodes):
        screen.line()
        screen.line("the failed items: ", (command("failed", run.run_id, location), "bold"))
    if run.status in RUN_RESUMABLE:
        screen.line()
        failed = [node.error for node in record.nodes if node.status is NodeStatus.FAILED and node.error]
        options = resume_options(run.status, [*failed, *([] if run.error is None else [run.error])], run.path)
        screen.line("resume it with: ", (command("resume", run.run_id, location) + options, "bold"))


def _print_run_facts(screen: Screen, run: RunRecord) -> None:
    _field(screen, "file", run.path)
    _field(screen, "started", clock_time(run.started_at))
    _field(screen, "finished", clock_time(run.finished_at))
    if run.owner is not None:
        _field(screen, "owner", f"process {run.owner.pid} on {run.owner.host}")
    _field(screen, "provider", run.provider)
    options = {name: value for name, value in run.options.items() if name not in {"given", "mended"}}
    if options:
        _field(screen, "options", json_text(options, indent=None))
    for name, value in run.inputs.items():
        _field(screen, f"input {name}", one_line(value if isinstance(value, str) else json_text(value, indent=None)))


def _print_steps(record: Record) -> None:
    rows = []
    for node in record.nodes:
        tokens = at_least(node.usage.total, node.usage.at_least, "{:,}".format) if node.usage.total != 0 else ""
        rows.append(
            [
                *(node.node_id, node.kind.value, node.status.value, str(node.attempts)),
                duration(node.call_s) if node.call_s else "-",
                tokens or "-",
                _cost(record, node) if node.attempts or tokens else "-",
                _note(node),
            ]
        )
    numbers = ("ATTEMPTS", "CALL", "TOKENS", "COST")
    print_table(["STEP", "KIND", "STATUS", *numbers, "NOTE"], rows, right=numbers)


def _cost(record: Record, node: NodeRecord) -> str:
    spend = record.spends.get(node.node_id)
    return dollars(node.cost_usd) if spend is None else price(spend.as_dict())


def _note(node: NodeRecord) -> str:
    """`foreach 50,000: 49,997 ok, 3 failed`, an error, or that it was cached; and a wait that can be felt."""
    found = [] if node.counts is None else [_counted(node.counts)]
    if suspended := node.parts.get(SUSPENDED):
        found.append(f"waits: {suspended_text(**suspended)}")
    elif node.error:
        found.append(one_line(str(node.error.get("message", "")), 60))
    elif node.cached:
        found.append("cached")
    waits = {reason: seconds for reason, seconds in node.waits.items() if reason != WaitReason.DEPENDENCY}
    if sum(waits.values()) >= WAIT_SHOWN:
        found.append(f"waited {waits_text(waits)}")
    return "; ".join(found)


def _counted(counts: Counts) -> str:
    shares = item_shares(counts.as_dict()).replace("succeeded", "ok")
    return f"foreach {counts.total:,}{': ' if shares else ''}{shares}"


def _print_items(node: NodeRecord, items: Sequence[NodeRecord]) -> None:
    """The first ones, a line each."""
    screen = results()
    screen.line()
    if not items:
        screen.line("no items yet" if node.status is NodeStatus.RUNNING else "no items")
        return
    print_table(["ITEM", "STATUS", "OUTPUT"], [[item.node_id, item.status.value, _output_line(item)] for item in items])
    total = 0 if node.counts is None else node.counts.total
    if total > len(items):
        screen.line(f"and {total - len(items):,} more")


def _output_line(item: NodeRecord) -> str:
    if item.error is not None:
        return error_text(item.error, 80)
    if item.output is None:
        return str(item.parts.get("reason") or (_note(item) if SUSPENDED in item.parts else ""))
    return one_line(item.output if isinstance(item.output, str) else json_text(item.output, indent=None), 80)


def _field(screen: Screen, name: str, value: str) -> None:
    screen.line("  ", (f"{visible(name):<12} ", "dim"), visible(value))


def _print_step(record: Record, node: NodeRecord) -> None:
    screen = results()
    screen.line(
        "step " if node.place is None else "item ",
        (node.node_id, "bold"),
        f" ({node.kind}) of run {node.run_id}: ",
        (node.status.value, "bold"),
    )
    _print_facts(screen, record, node)
    if node.place is not None:
        _section(screen, "item", node.item)
    if node.counts is None:
        _print_request(screen, node.parts)
    if node.error is not None:
        _print_error(screen, node.error)
        if node.error.get("answer"):
            _section(screen, "last answer", node.error["answer"])
    elif node.output is not None and node.counts is None:
        _section(screen, "answer" if node.kind == "prompt" else "output", node.output)
    if node.counts is not None:
        _print_items(node, record.items)
    elif record.nodes:
        screen.line()
        _print_steps(record)
    _print_attempts(screen, record.attempts.get(node.node_id, []))


def _print_facts(screen: Screen, record: Record, node: NodeRecord) -> None:
    how = [word for word in ("cached", "reused", "truncated") if getattr(node, word)]
    if node.counts is not None:
        _field(screen, "items", _counted(node.counts))
    if node.model:
        _field(screen, "model", f"{node.model} at {node.provider}")
    _field(screen, "started", clock_time(node.started_at))
    if node.call_s or node.queue_s:
        _field(screen, "took", f"{duration(node.call_s)} in calls, {duration(node.queue_s)} in the queue")
    if waited := waits_text(node.waits):
        _field(screen, "waited", waited)
    if node.attempts or node.usage.total != 0:
        _field(screen, "tokens", f"{_in_and_out(node.usage)}; {_cost(record, node)}")
    if how:
        _field(screen, "note", ", ".join(how))
    if suspended := node.parts.get(SUSPENDED):
        _field(screen, "waits for", suspended_text(**suspended))
    if reason := node.parts.get("reason"):
        _field(screen, "because", str(reason))
    if node.key:
        _field(screen, "key", node.key)


def _in_and_out(usage: Usage) -> str:
    if usage.input_tokens is None and usage.output_tokens is None:
        return "tokens unknown"
    counts = (("in", usage.input_tokens), ("out", usage.output_tokens))
    return ", ".join(f"{'unknown' if count is None else f'{count:,}'} {word}" for word, count in counts)


def _print_request(screen: Screen, parts: dict[str, Json] | object) -> None:
    """Messages one by one, the rest of the request as JSON."""
    if not isinstance(parts, dict) or not parts:
        return
    body = parts.get("body")
    if not isinstance(body, dict):
        rest = {name: value for name, value in parts.items() if name not in {"reason", "kind", SUSPENDED}}
        if rest:
            _section(screen, "computed from", rest)
        return
    messages = body.get("messages") or body.get("input")
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, dict):
            _section(screen, str(message.get("role", "message")), message.get("content"))
    settings = {name: value for name, value in body.items() if name not in {"messages", "input"}}
    if settings:
        _section(screen, "request settings", settings)


def _print_error(screen: Screen, error: Mapping[str, Json]) -> None:
    screen.line()
    for line in error_lines("", error):
        screen.line(*line)


def _section(screen: Screen, name: str, value: Json) -> None:
    screen.line()
    heading(screen, name)
    screen.line(readable(value).rstrip("\n"))


def _print_attempts(screen: Screen, attempts: Sequence[AttemptRecord]) -> None:
    if not attempts:
        return
    screen.line()
    heading(screen, plural(len(attempts), "attempt"))
    for attempt in attempts:
        took = None if attempt.finished_at is None else attempt.finished_at - attempt.started_at
        note = one_line(str(attempt.error.get("message", ""))) if attempt.error else ""
        screen.line(
            f"{attempt.number}  {attempt.status.value:<9}  {clock_time(attempt.started_at)}  {duration(took):>7}  "
            f"{f'{visible(attempt.model)}  {_in_and_out(attempt.usage)}  ' if attempt.model else ''}{note}".rstrip()
        )
