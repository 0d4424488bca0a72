"""flowllm show: one run, or one step of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from flowllm.cli.options import Place, json_option, place_options
from flowllm.cli.output import heading, outputs_there, print_json, print_outputs, print_table, results
from flowllm.cli.record import Kept, read
from flowllm.cli.runs import shown_time
from flowllm.cli.session import failed_command, resume_command, wait_for
from flowllm.core.money import price
from flowllm.core.types import RUN_RESUMABLE, Counts, Json, NodeStatus, Usage
from flowllm.reporting.screen import Screen
from flowllm.reporting.summary import error_lines, figures, took
from flowllm.reporting.text import (
    at_least,
    dollars,
    duration,
    error_text,
    item_shares,
    json_text,
    one_line,
    plural,
    readable,
    resume_options,
    visible,
)
from flowllm.runtime.recorded import MOST_ITEMS
from flowllm.storage.base import AttemptRecord, NodeRecord, RunRecord

ITEMS_SHOWN = 20
"""Items of a foreach that are listed."""


@click.command()
@click.argument("run")
@click.argument("step", required=False)
@json_option
@click.option("--full", is_flag=True, help="With --json: all items of long outputs.")
@place_options
def show(*, run: str, step: str | None, as_json: bool, full: bool, place: Place) -> None:
    """Show RUN, or one STEP of it with its prompt, answer and attempts.

    RUN is an id, its beginning, or `last`. STEP may be an item, or a step within a step: 'posts[17]', post.headline.
    """
    kept = wait_for(read(run, step, place, full=full, most=_most(as_json=as_json, full=full)))
    if as_json:
        print_json(kept.run_dict() if kept.node is None else kept.node_dict(kept.node))
    elif kept.node is None:
        _print_run(kept, place)
    else:
        _print_step(kept, kept.node)


def _most(*, as_json: bool, full: bool) -> int:
    """Items of a foreach that are wanted."""
    if not as_json:
        return ITEMS_SHOWN
    return sys.maxsize if full else MOST_ITEMS


def _print_run(kept: Kept, place: Place) -> None:
    run, screen = kept.run, results()
    screen.line("run ", (run.run_id, "bold"), f": {visible(run.workflow)}, ", (run.status.value, "bold"))
    _print_run_facts(screen, run)
    if run.finished_at is None:  # nobody has counted its requests
        screen.line("  ", took(run.stats))
    else:
        if run.epoch > 1:
            screen.line("  since it was last resumed:")
        for line in figures(run.stats, set()):
            screen.line("  ", *line)
    if kept.nodes:
        screen.line()
        _print_steps(kept)
    if run.error is not None:
        screen.line()
        for line in error_lines("", run.error):
            screen.line(*line)
    if there := outputs_there(run.status, run.outputs or {}):
        screen.line()
        print_outputs(there)
    if any(node.counts is not None and node.counts.failed for node in kept.nodes):
        screen.line()
        screen.line("the failed items: ", (failed_command(run.run_id, place), "bold"))
    if run.status in RUN_RESUMABLE:
        screen.line()
        failed = [node.error for node in kept.nodes if node.status is NodeStatus.FAILED and node.error]
        options = resume_options(run.status, [*failed, *([] if run.error is None else [run.error])], run.path)
        screen.line("resume it with: ", (resume_command(run.run_id, place) + options, "bold"))


def _print_run_facts(screen: Screen, run: RunRecord) -> None:
    _field(screen, "file", run.path)
    _field(screen, "started", shown_time(run.started_at))
    _field(screen, "finished", shown_time(run.finished_at))
    if run.owner is not None:
        _field(screen, "owner", f"process {run.owner.pid} on {run.owner.host}")
    _field(screen, "provider", run.provider)
    told = {name: value for name, value in run.options.items() if name not in {"given", "mended"}}
    if told:
        _field(screen, "options", json_text(told, indent=None))
    for name, value in run.inputs.items():
        _field(screen, f"input {name}", one_line(value if isinstance(value, str) else json_text(value, indent=None)))


def _print_steps(kept: Kept) -> None:
    rows = []
    for node in kept.nodes:
        tokens = at_least(node.usage.total, node.usage.at_least, "{:,}".format) if node.usage.total != 0 else ""
        rows.append(
            [
                node.node_id,
                node.kind.value,
                node.status.value,
                str(node.attempts),
                duration(node.call_s) if node.call_s else "-",
                tokens or "-",
                _cost(kept, node) if node.attempts or tokens else "-",
                _note(node),
            ]
        )
    headers = ["STEP", "KIND", "STATUS", "ATTEMPTS", "CALL", "TOKENS", "COST", "NOTE"]
    print_table(headers, rows, right=("ATTEMPTS", "CALL", "TOKENS", "COST"))


def _cost(kept: Kept, node: NodeRecord) -> str:
    spend = kept.spends.get(node.node_id)
    return dollars(node.cost_usd) if spend is None else price(spend.as_dict())


def _note(node: NodeRecord) -> str:
    """`foreach 50,000: 49,997 ok, 3 failed`, an error, or that it was cached."""
    found = [] if node.counts is None else [_counted(node.counts)]
    if node.error:
        found.append(one_line(str(node.error.get("message", "")), 60))
    elif node.cached:
        found.append("cached")
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
    rows = []
    for item in items:
        wrong = item.error is not None
        text = error_text(item.error, 80) if wrong else _output_line(item)
        rows.append([item.node_id, item.status.value, text])
    print_table(["ITEM", "STATUS", "OUTPUT"], rows)
    total = 0 if node.counts is None else node.counts.total
    if total > len(items):
        screen.line(f"and {total - len(items):,} more")


def _output_line(item: NodeRecord) -> str:
    if item.output is None:
        return str(item.parts.get("reason") or "")
    return one_line(item.output if isinstance(item.output, str) else json_text(item.output, indent=None), 80)


def _field(screen: Screen, name: str, value: str) -> None:
    screen.line("  ", (f"{visible(name):<12} ", "dim"), visible(value))


def _print_step(kept: Kept, node: NodeRecord) -> None:
    screen = results()
    what = "step" if node.place is None else "item"
    screen.line(
        f"{what} ", (node.node_id, "bold"), f" ({node.kind}) of run {node.run_id}: ", (node.status.value, "bold")
    )
    _print_facts(screen, kept, node)
    if node.place is not None:
        _section(screen, "item", node.item)
    if node.counts is None:
        _print_request(screen, node.parts)
    if node.error is not None:
        screen.line()
        for line in error_lines("", node.error):
            screen.line(*line)
        if node.error.get("answer"):
            _section(screen, "last answer", node.error["answer"])
    elif node.output is not None and node.counts is None:
        _section(screen, "answer" if node.kind == "prompt" else "output", node.output)
    if node.counts is not None:
        _print_items(node, kept.items)
    elif kept.nodes:
        screen.line()
        _print_steps(kept)
    _print_attempts(screen, kept.attempts.get(node.node_id, []))


def _print_facts(screen: Screen, kept: Kept, node: NodeRecord) -> None:
    how = [
        word
        for word, holds in (("cached", node.cached), ("reused", node.reused), ("truncated", node.truncated))
        if holds
    ]
    if node.counts is not None:
        _field(screen, "items", _counted(node.counts))
    if node.model:
        _field(screen, "model", f"{node.model} at {node.provider}")
    _field(screen, "started", shown_time(node.started_at))
    if node.call_s or node.queue_s:
        _field(screen, "took", f"{duration(node.call_s)} in calls, {duration(node.queue_s)} in the queue")
    if node.attempts or node.usage.total != 0:
        _field(screen, "tokens", f"{_in_and_out(node.usage)}; {_cost(kept, node)}")
    if how:
        _field(screen, "note", ", ".join(how))
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
        rest = {name: value for name, value in parts.items() if name not in {"reason", "kind"}}
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


def _section(screen: Screen, name: str, value: Json) -> None:
    screen.line()
    heading(screen, name)
    screen.line(readable(value).rstrip("\n"))


def _print_attempts(screen: Screen, attempts: list[AttemptRecord]) -> None:
    if not attempts:
        return
    screen.line()
    heading(screen, plural(len(attempts), "attempt"))
    for attempt in attempts:
        took = None if attempt.finished_at is None else attempt.finished_at - attempt.started_at
        note = one_line(str(attempt.error.get("message", ""))) if attempt.error else ""
        screen.line(
            f"{attempt.number}  {attempt.status.value:<9}  {shown_time(attempt.started_at)}  {duration(took):>7}  "
            f"{visible(attempt.model)}  {_in_and_out(attempt.usage)}  {note}".rstrip()
        )
