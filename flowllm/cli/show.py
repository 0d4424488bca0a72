"""flowllm show: one run, or one step of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from flowllm.cli.history import step_kinds
from flowllm.cli.options import json_option, place_options
from flowllm.cli.output import heading, print_json, print_outputs, print_table, results
from flowllm.cli.runs import shown_time
from flowllm.cli.session import find_run, open_to_read, resume_command, wait_for
from flowllm.errors import UsageError
from flowllm.observers.summary import error_lines, figures
from flowllm.observers.text import dollars, duration, json_text, one_line, plural, readable, visible
from flowllm.result import RunResult, all_nodes, timestamp
from flowllm.spec.problems import nearest
from flowllm.types import RUN_RESUMABLE, AttemptStatus, NodeStatus, RunStatus

if TYPE_CHECKING:
    from flowllm.cli.options import Place
    from flowllm.observers.screen import Screen
    from flowllm.store.base import AttemptRecord, NodeRecord, RunRecord
    from flowllm.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Everything on record of one run."""

    run: RunRecord
    result: RunResult
    nodes: dict[str, NodeRecord]
    attempts: list[AttemptRecord]

    def attempts_of(self, step: str) -> list[AttemptRecord]:
        """The requests of one step."""
        return [attempt for attempt in self.attempts if attempt.node_id == step]

    def as_dict(self) -> dict[str, Json]:
        """What `run --json` prints, and more."""
        run = self.run
        return {
            **self.result.as_dict(),
            "path": run.path,
            "options": dict(run.options),
            "tenant": run.tenant,
            "started_at": timestamp(run.started_at),
            "finished_at": timestamp(run.finished_at),
            "steps": {step: self.step_dict(step) for step in self.result.steps},
        }

    def step_dict(self, step: str) -> dict[str, Json]:
        """One step, with what was sent for it."""
        node = self.nodes[step]
        return {
            **self.result.steps[step].as_dict(),
            "reused": node.reused,
            "key": node.key or None,
            "request": dict(node.parts),
            "attempt_log": [_attempt_dict(attempt) for attempt in self.attempts_of(step)],
        }


@click.command()
@click.argument("run")
@click.argument("step", required=False)
@json_option
@click.option("--full", is_flag=True, help="With --json: all items of long outputs.")
@place_options
def show(*, run: str, step: str | None, as_json: bool, full: bool, place: Place) -> None:  # noqa: ARG001 - see `run`
    """Show RUN, or one STEP of it with its prompt, answer and attempts.

    RUN is an id, its beginning, or `last`.
    """
    kept = wait_for(_read(run, place))
    if step is not None and step not in kept.nodes:
        raise UsageError(
            f"run {kept.run.run_id} has no record of a step `{step}`", hint=nearest(step, kept.nodes)
        )
    if as_json:
        print_json(kept.as_dict() if step is None else kept.step_dict(step))
    elif step is None:
        _print_run(kept, place)
    else:
        _print_step(kept, step)


async def _read(named: str, place: Place) -> Kept:
    async with open_to_read(place) as app:
        run = await find_run(app.store, named)
        kinds = step_kinds(run)
        attempts = [_seen(attempt, run) for attempt in await app.store.attempts(run.run_id)]
        counts = Counter(attempt.node_id for attempt in attempts)
        nodes = [
            replace(node, attempts=counts[node.node_id]) if node.status is NodeStatus.CANCELLED else node
            for node in all_nodes(run, await app.store.nodes(run.run_id), kinds)
        ]
        return Kept(
            run=run,
            result=RunResult.of(run, nodes, kinds),
            nodes={node.node_id: node for node in nodes},
            attempts=attempts,
        )


def _seen(attempt: AttemptRecord, run: RunRecord) -> AttemptRecord:
    """One that was on its way when its process ended may have been paid for: nobody knows."""
    if attempt.status is AttemptStatus.SENT and run.status is not RunStatus.RUNNING:
        return replace(attempt, status=AttemptStatus.UNKNOWN)
    return attempt


def _attempt_dict(attempt: AttemptRecord) -> dict[str, Json]:
    return {
        "number": attempt.number,
        "status": attempt.status.value,
        "provider": attempt.provider,
        "model": attempt.model,
        "key": attempt.key,
        "started_at": timestamp(attempt.started_at),
        "finished_at": timestamp(attempt.finished_at),
        "error": attempt.error,
        "usage": attempt.usage.as_dict(),
        "cost_usd": attempt.cost_usd,
    }


def _print_run(kept: Kept, place: Place) -> None:
    run, screen = kept.run, results()
    screen.line("run ", (run.run_id, "bold"), f": {visible(run.workflow)}, ", (run.status.value, "bold"))
    _field(screen, "file", run.path)
    _field(screen, "started", shown_time(run.started_at))
    _field(screen, "finished", shown_time(run.finished_at))
    if run.owner is not None:
        _field(screen, "owner", f"process {run.owner.pid} on {run.owner.host}")
    _field(screen, "provider", run.provider)
    if run.options:
        _field(screen, "options", json_text(dict(run.options), indent=None))
    for name, value in run.inputs.items():
        _field(
            screen,
            f"input {name}",
            one_line(value if isinstance(value, str) else json_text(value, indent=None)),
        )
    for line in figures(run.stats, set()) if run.stats else []:
        screen.line("  ", *line)
    if kept.nodes:
        screen.line()
        _print_steps(kept)
    if run.error is not None:
        screen.line()
        for line in error_lines("", run.error):
            screen.line(*line)
    if kept.result.outputs:
        screen.line()
        print_outputs(kept.result.outputs)
    if run.status in RUN_RESUMABLE:
        screen.line()
        screen.line("resume it with: ", (resume_command(run.run_id, place), "bold"))


def _print_steps(kept: Kept) -> None:
    rows = []
    for name, step in kept.result.steps.items():
        tokens = step.usage.input_tokens + step.usage.output_tokens
        how = "cached" if step.cached else ""
        note = one_line(str(step.error.get("message", "")), 60) if step.error else how
        rows.append(
            [
                name,
                step.kind,
                step.status,
                str(step.attempts),
                duration(step.call_s) if step.call_s else "-",
                f"{tokens:,}" if tokens else "-",
                dollars(step.cost_usd) if step.attempts or tokens else "-",
                note,
            ]
        )
    headers = ["STEP", "KIND", "STATUS", "ATTEMPTS", "CALL", "TOKENS", "COST", "NOTE"]
    print_table(headers, rows, right=("ATTEMPTS", "CALL", "TOKENS", "COST"))


def _field(screen: Screen, name: str, value: str) -> None:
    screen.line("  ", (f"{visible(name):<12} ", "dim"), visible(value))


def _print_step(kept: Kept, name: str) -> None:
    node, screen = kept.nodes[name], results()
    screen.line(
        "step ", (name, "bold"), f" ({node.kind}) of run {node.run_id}: ", (node.status.value, "bold")
    )
    _print_facts(screen, node)
    _print_request(screen, node.parts)
    if node.error is not None:
        screen.line()
        for line in error_lines("", node.error):
            screen.line(*line)
        if node.error.get("answer"):
            _section(screen, "last answer", node.error["answer"])
    elif node.output is not None:
        _section(screen, "answer" if node.kind == "prompt" else "output", node.output)
    _print_attempts(screen, kept.attempts_of(name))


def _print_facts(screen: Screen, node: NodeRecord) -> None:
    how = [
        word
        for word, holds in (("cached", node.cached), ("reused", node.reused), ("truncated", node.truncated))
        if holds
    ]
    if node.model:
        _field(screen, "model", f"{node.model} at {node.provider}")
    _field(screen, "started", shown_time(node.started_at))
    if node.call_s or node.queue_s:
        _field(screen, "took", f"{duration(node.call_s)} in calls, {duration(node.queue_s)} in the queue")
    if node.attempts or any(node.usage.as_dict().values()):
        usage = node.usage
        _field(
            screen,
            "tokens",
            f"{usage.input_tokens:,} in, {usage.output_tokens:,} out; {dollars(node.cost_usd)}",
        )
    if how:
        _field(screen, "note", ", ".join(how))
    if reason := node.parts.get("reason"):
        _field(screen, "because", str(reason))
    if node.key:
        _field(screen, "key", node.key)


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
            f"{visible(attempt.model)}  {attempt.usage.input_tokens} in, {attempt.usage.output_tokens} out  {note}".rstrip()
        )
