"""One step of a run, or one item, with all that is on record of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from flowllm.cli.output import heading, page_width, print_table, results
from flowllm.cli.record import Record
from flowllm.cli.show_parts import (
    cost,
    counted,
    note,
    print_error,
    print_field,
    print_section,
    print_steps,
    print_times,
    running_s,
)
from flowllm.core.types import Json, NodeStatus, StepKind, Usage, item_index
from flowllm.language.template import Template
from flowllm.language.workflow import Accept
from flowllm.reporting.screen import Screen, status_part
from flowllm.reporting.tables import cut_to, table, wrapped
from flowllm.reporting.text import (
    at_least,
    clock_time,
    dollars,
    duration,
    error_text,
    json_text,
    one_line,
    plural,
    readable,
    suspended_text,
    visible,
    waits_text,
)
from flowllm.storage.base import AttemptRecord, NodeRecord
from flowllm.storage.monitoring import SUSPENDED
from flowllm.views.node import Sent

_LONGEST = 1000
"""Characters of an item's output on its line, where there is no terminal to keep within."""
_OF = 24
"""Columns of what an item is made of."""
_FIRST = 4
"""Numbers of a vector that are shown."""
_BESIDE = " " * len("ATTEMPT  ")


def print_step(record: Record, node: NodeRecord, accept: Accept | None) -> None:
    """All of one node."""
    screen = results()
    screen.line(
        "step " if node.place is None else "item ",
        (visible(node.node_id), "bold"),
        f" ({node.kind}) of run {node.run_id}: ",
        status_part(node.status),
    )
    _print_facts(screen, record, node, accept)
    if node.item is not None:  # that of one that never ended is not on record
        print_section(screen, "item", node.item)
    if node.counts is None:
        _print_request(screen, node)
    if node.error is not None:
        print_error(screen, node.error)
        if node.error.get("answer"):
            print_section(screen, "last answer", node.error["answer"])
    elif node.output is not None and node.counts is None:
        _print_output(screen, node)
    if node.counts is not None:
        _print_items(node, record.items)
    elif record.nodes:
        screen.line()
        print_steps(record)
    _print_attempts(screen, record.attempts.get(node.node_id, []), node)


def _print_facts(screen: Screen, record: Record, node: NodeRecord, accept: Accept | None) -> None:
    how = [word for word in ("cached", "reused", "truncated") if getattr(node, word)]
    together = "" if node.counts is None else ", of all items together"
    took = f"{duration(node.call_s)} in calls, {duration(node.queue_s)} in the queue{together}"
    took_anything = node.attempts or node.usage.total != 0
    before = {
        "items": "" if node.counts is None else counted(node),
        "accepted": "" if accept is None else _policy(node, accept),
        "model": node.model and f"{node.model} at {node.provider}",
    }
    after = {
        "took": took if node.call_s or node.queue_s else "",
        "waited": waits_text(node.waits),
        "tokens": f"{_tokens(record, node)}; {cost(record, node)}" if took_anything else "",
        "note": ", ".join(how),
        "waits for": suspended_text(**node.parts[SUSPENDED]) if SUSPENDED in node.parts else "",
        "because": str(node.parts.get("reason") or ""),
        "key": node.key,
    }
    _print_fields(screen, before)
    running = running_s(node)
    print_times(screen, node.started_at, node.finished_at if running is None else None, running)
    _print_fields(screen, after)


def _print_fields(screen: Screen, fields: Mapping[str, str]) -> None:
    for name, value in fields.items():
        if value:
            print_field(screen, name, value)


def _policy(node: NodeRecord, accept: Accept) -> str:
    """`10 of 10 wanted, where {{ output.ok }}; 28 were looked at`."""
    counts, tree = node.counts, accept.count.tree
    wanted = tree.raw if isinstance(tree, Template) else tree
    if counts is None:
        return ""
    ended = counts.succeeded + counts.failed + counts.skipped
    return f"{counts.accepted:,} of {wanted} wanted, where {accept.when.raw}; {ended:,} were looked at"


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


def _print_request(screen: Screen, node: NodeRecord) -> None:
    """Messages one by one, the rest of the request as JSON. Texts to embed stand beside their vectors."""
    messages, settings, rest = Sent.of(node.parts)
    for role, content in messages:
        if node.kind is not StepKind.EMBED or node.output is None:
            print_section(screen, role, content)
    if settings:
        print_section(screen, "request settings", settings)
    if rest:
        print_section(screen, "computed from", rest)


def _print_output(screen: Screen, node: NodeRecord) -> None:
    if node.kind is not StepKind.EMBED:
        print_section(screen, "answer" if node.kind is StepKind.PROMPT else "output", node.output)
        return
    body = node.parts.get("body")
    texts, vectors = (body or {}).get("input", []), node.output
    if not isinstance(texts, list):
        texts, vectors = [texts], [vectors]
    screen.line()
    heading(screen, plural(len(texts), "text"))
    for number, (text, vector) in enumerate(zip(texts, vectors, strict=False)):
        for line in wrapped(f"{number}  {readable(text)}".replace("\n", "\n   "), page_width(), indent="   "):
            screen.line(line)
        screen.line((f"   {_vector(vector)}", "dim"))


def _vector(vector: Json) -> str:
    """`[0.0123, -0.4, 0.12, 0.9, … 1,532 more]`."""
    if not isinstance(vector, list) or len(vector) <= _FIRST or not all(type(one) in {int, float} for one in vector):
        return one_line(json_text(vector, indent=None))
    return f"[{', '.join(f'{one:.4g}' for one in vector[:_FIRST])}, … {len(vector) - _FIRST:,} more]"


def _print_items(node: NodeRecord, items: Sequence[NodeRecord]) -> None:
    """A line each."""
    screen = results()
    screen.line()
    if not items:
        screen.line("no items yet" if node.status is NodeStatus.RUNNING else "no items")
        return
    chosen = node.parts.get("chosen")
    numbers = set(chosen) if isinstance(chosen, list) else set()
    fields = any(isinstance(item.item, dict) for item in items)
    rows = []
    for item in items:
        accepted = item.place is not None and item_index(item.node_id) in numbers
        status = "accepted" if accepted else item.status.value
        of = _fields(item.item) if fields else ""
        rows.append({"ITEM": item.node_id, "STATUS": status, "OF": of, "OUTPUT": _output_line(item)})
    print_table(rows, spare=("OF",), cut="OUTPUT", least=_OF)
    total = 0 if node.counts is None else node.counts.total
    if total > len(items):
        screen.line(f"and {total - len(items):,} more")


def _fields(item: Json) -> str:
    """The values of a row or of a combination: `German, formal`."""
    values = item.values() if isinstance(item, dict) else [item]
    texts = (value if isinstance(value, str) else json_text(value, indent=None) for value in values)
    return cut_to(one_line(", ".join(texts)), _OF)


def _output_line(item: NodeRecord) -> str:
    if item.error is not None:
        return error_text(item.error, _LONGEST)
    if item.output is None:
        return str(item.parts.get("reason") or note(item))
    if item.kind is StepKind.EMBED:
        return _vector(item.output)
    return one_line(item.output if isinstance(item.output, str) else json_text(item.output, indent=None), _LONGEST)


def _print_attempts(screen: Screen, attempts: Sequence[AttemptRecord], node: NodeRecord) -> None:
    """A table; under each that failed, why. The last error of a node is shown already."""
    if not attempts:
        return
    screen.line()
    heading(screen, plural(len(attempts), "attempt"))
    begun = clock_time(node.started_at or attempts[0].started_at)
    sent = any(attempt.model for attempt in attempts)
    rows = [_attempt(attempt, begun, sent=sent) for attempt in attempts]
    numbers, spare = ("ATTEMPT", "TOOK", "TOKENS IN", "OUT", "COST"), ("STARTED", "MODEL", "TOKENS IN", "OUT")
    head, *lines = table(rows, right=numbers, width=page_width(), spare=spare, cut="MODEL")
    screen.line(*head)
    for attempt, line in zip(attempts, lines, strict=True):
        screen.line(*line)
        if attempt.error is not None and attempt.error.get("message") != (node.error or {}).get("message"):
            for part in wrapped(f"{_BESIDE}{error_text(attempt.error, _LONGEST)}", page_width(), indent=_BESIDE):
                screen.line((part, "dim"))


def _attempt(attempt: AttemptRecord, begun: str, *, sent: bool) -> dict[str, str]:
    at = clock_time(attempt.started_at)
    took = None if attempt.finished_at is None else attempt.finished_at - attempt.started_at
    row = {
        "ATTEMPT": str(attempt.number),
        "STATUS": attempt.status.value,
        "STARTED": at[11:] if at[:10] == begun[:10] else at,
        "TOOK": duration(took),
    }
    if not sent:
        return row
    usage, seen = attempt.usage, attempt.finished_at is not None
    tokens_in, tokens_out = (
        at_least(count, 0, "{:,}".format) if seen else "unknown" for count in (usage.input_tokens, usage.output_tokens)
    )
    cost = dollars(attempt.cost_usd)
    return {**row, "MODEL": attempt.model or "-", "TOKENS IN": tokens_in, "OUT": tokens_out, "COST": cost}
