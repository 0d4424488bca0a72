"""flowllm show: one run, or one step of it, as it is on record."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

import click

from flowllm.app.flowllm import FlowLLM
from flowllm.app.result import MOST_ITEMS, NODE_UNENDED, figures_of
from flowllm.cli.database import Record, command, find_run, read_node, read_run, reading
from flowllm.cli.inputs import full_option
from flowllm.cli.options import Location, json_option, location_options
from flowllm.cli.output import heading, known_outputs, print_json, print_outputs, print_table, results
from flowllm.core.money import price
from flowllm.core.types import RUN_RESUMABLE, Counts, Json, NodeStatus, Usage, WaitReason
from flowllm.reporting.models import model_lines
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
from flowllm.storage.base import AttemptRecord, NodeRecord, RunRecord
from flowllm.storage.monitoring import SUSPENDED

_LEAST_ROOM = 40
"""Characters of an item's output that are shown at least."""
WAIT_SHOWN = 1.0
"""Seconds from which the table of steps names the waits of one."""


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
            return await read_run(store, found, outputs, requests=as_json)
        return await read_node(store, found, step, outputs, as_json=as_json)

    record = reading(location, work)
    if as_json:
        print_json(record.as_dict())
    elif record.node is None:
        _print_run(record, location)
    else:
        _print_step(record, record.node)


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
    for line in [(), *model_lines(record.models)] if record.models else ():
        screen.line(*line)
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
    if run.options.get("config"):
        _field(screen, "config", str(run.options["config"]))
    if options := _options(run.options):
        _field(screen, "options", options)
    for name, value in run.inputs.items():
        _field(screen, f"input {name}", one_line(value if isinstance(value, str) else json_text(value, indent=None)))


def _options(given: Mapping[str, Json]) -> str:
    """As they were written behind `flowllm run`."""
    words: list[str] = []
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        match value:
            case _ if name in {"config", "given", "mended"}:
                pass
            case True:
                words.append(option)
            case Mapping():
                option = option.replace("settings", "set")
                words += [word for key, one in value.items() for word in (option, f"{key}={one}")]
            case list():
                words += [word for one in value for word in (option, str(one))]
            case _:
                words += [option, f"{value:g}s" if name == "grace" else str(value)]
    return shlex.join(words)


def _print_steps(record: Record) -> None:
    rows = []
    for node in record.nodes:
        spend = record.spends.get(node.node_id)
        known = node.usage.at_least if spend is None else spend.known_input + spend.known_output
        tokens = at_least(node.usage.total, known, "{:,}".format) if node.usage.total != 0 else ""
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
    found = [] if node.counts is None else [f"foreach {_counted(node)}"]
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


def _counted(node: NodeRecord) -> str:
    """`50,000: 49,997 ok, 3 failed`; of one that never ended `27: 11 ok, 16 cancelled`, those that had begun."""
    counts = node.counts or Counts()
    shares = [item_shares(counts.as_dict()).replace("succeeded", "ok")]
    open_items = counts.total - counts.succeeded - counts.failed - counts.skipped
    if node.status in NODE_UNENDED and open_items > 0:
        shares.append(f"{open_items:,} {'cancelled' if node.status is NodeStatus.CANCELLED else 'open'}")
    return f"{counts.total:,}: {', '.join(filter(None, shares))}".removesuffix(": ")


def _print_items(node: NodeRecord, items: Sequence[NodeRecord]) -> None:
    """The first ones, a line each."""
    screen = results()
    screen.line()
    if not items:
        screen.line("no items yet" if node.status is NodeStatus.RUNNING else "no items")
        return
    taken = max(len(item.node_id) for item in items) + max(len(item.status) for item in items) + 2 * len("  ")
    room = max(_LEAST_ROOM, screen.width() - taken)
    rows = [[item.node_id, item.status.value, _output_line(item, room)] for item in items]
    print_table(["ITEM", "STATUS", "OUTPUT"], rows)
    total = 0 if node.counts is None else node.counts.total
    if total > len(items):
        screen.line(f"and {total - len(items):,} more")


def _output_line(item: NodeRecord, room: int) -> str:
    if item.error is not None:
        return error_text(item.error, room)
    if item.output is None:
        return str(item.parts.get("reason") or (_note(item) if SUSPENDED in item.parts else ""))
    return one_line(item.output if isinstance(item.output, str) else json_text(item.output, indent=None), room)


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
    if node.item is not None:  # that of one that never ended is not on record
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
        _field(screen, "items", _counted(node))
    if node.model:
        _field(screen, "model", f"{node.model} at {node.provider}")
    _field(screen, "started", clock_time(node.started_at))
    if node.call_s or node.queue_s:
        together = "" if node.counts is None else ", of all items together"
        _field(screen, "took", f"{duration(node.call_s)} in calls, {duration(node.queue_s)} in the queue{together}")
    if waited := waits_text(node.waits):
        _field(screen, "waited", waited)
    if node.attempts or node.usage.total != 0:
        _field(screen, "tokens", f"{_tokens(record, node)}; {_cost(record, node)}")
    if how:
        _field(screen, "note", ", ".join(how))
    if suspended := node.parts.get(SUSPENDED):
        _field(screen, "waits for", suspended_text(**suspended))
    if reason := node.parts.get("reason"):
        _field(screen, "because", str(reason))
    if node.key:
        _field(screen, "key", node.key)


def _tokens(record: Record, node: NodeRecord) -> str:
    """`40 in, 525 out, and up to 1,038 for 1 request of unknown use`."""
    spend = record.spends.get(node.node_id)
    if spend is None or not spend.unknown:
        return _in_and_out(node.usage)
    most = f"up to {math.ceil(spend.reserved_tokens):,} for " if spend.reserved_tokens else ""
    known = replace(node.usage, input_tokens=spend.known_input, output_tokens=spend.known_output)
    return f"{_in_and_out(known)}, and {most}{plural(spend.unknown, 'request')} of unknown use"


def _in_and_out(usage: Usage) -> str:
    if usage.input_tokens is None and usage.output_tokens is None:
        return "unknown"
    cached = f" ({usage.cached_input_tokens:,} from the provider's cache)" if usage.cached_input_tokens else ""
    counts = ((f"in{cached}", usage.input_tokens), ("out", usage.output_tokens))
    return ", ".join(f"{'unknown' if count is None else f'{count:,}'} {word}" for word, count in counts)


def _of_attempt(usage: Usage) -> str:
    return "tokens unknown" if usage.total is None and not usage.at_least else _in_and_out(usage)


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
            f"{f'{visible(attempt.model)}  {_of_attempt(attempt.usage)}  ' if attempt.model else ''}{note}".rstrip()
        )
