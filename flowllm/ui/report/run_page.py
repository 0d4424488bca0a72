"""The report of a run, as a page that stands alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from flowllm import __version__
from flowllm.core.money import dollars
from flowllm.core.types import Json, StepKind
from flowllm.explain.svg import draw_svg
from flowllm.reporting.models import model_table
from flowllm.reporting.text import at_least, duration, plural, waits_text
from flowllm.ui.report.html import Child, Markup, document, el
from flowllm.ui.report.parts import clock, facts, mark, over_time, status, table, value
from flowllm.views.report import Report, Section
from flowllm.views.shown import preview

_MOST_FAILURES = 50
"""Errors that are told at the top."""
_MOST_ALIKE = 8
"""Nodes with the same error that are named there."""
_WIDEST = 1800
"""Units of a drawing that is made to fit the page; a wider one is scrolled."""


def run_page(report: Report, *, now: float) -> str:
    """The whole page."""
    summary = report.summary
    anchors = {section.node["id"]: f"n{number}" for number, section in enumerate(report.all())}
    return document(
        f"{summary.workflow}: {summary.status} · run {summary.run_id}",
        _head(report),
        _failed(report, anchors),
        _drawings(report, now, anchors),
        _models(report.models),
        _values("Outputs", {name: one.as_dict() for name, one in report.outputs.items()}, is_open=True),
        _values("Inputs", {name: one.as_dict() for name, one in report.inputs.items()}, is_open=False),
        el("section", el("h2", "Steps"), [_section(one, anchors, summary.run_id) for one in report.sections]),
        el("footer", "made by flowllm ", __version__, ", ", clock(now), class_="muted"),
    )


def _head(report: Report) -> Markup:
    one, budget = report.summary, report.budget
    limits = [] if budget is None else [dollars(budget.usd) if budget.usd is not None else ""]
    limits += [] if budget is None or budget.tokens is None else [f"{budget.tokens:,} tokens"]
    pairs: list[tuple[str, Child]] = [
        ("Started", clock(one.started_at)),
        ("Took", duration(one.elapsed_s)),
        ("Cost", at_least(one.cost_usd, one.cost_at_least, dollars)),
        ("Budget", ", ".join(filter(None, limits))),
        ("Tokens", f"{one.usage.input_tokens or 0:,} in, {one.usage.output_tokens or 0:,} out"),
        ("From the prompt cache", "" if not one.cached_share else f"{one.cached_share:.0%} of tokens in"),
        ("Requests", f"{one.requests:,}"),
        ("Provider", one.provider),
        ("Tags", ", ".join(one.tags)),
        ("File", Path(one.path).name),
        ("Run", el("code", one.run_id)),
    ]
    nodes = [status(word.value, f"{count:,} {word}") for word, count in one.nodes.items() if count]
    return el(
        "header",
        el("h1", one.workflow, " ", status(one.status.value)),
        facts(pairs),
        el("p", nodes, class_="chips"),
        class_="card",
    )


def _failed(report: Report, anchors: Mapping[str, str]) -> Markup | None:
    failures = report.failures()
    unseen = [one for one in report.all() if one.failed_omitted]
    if not failures and not unseen and report.error is None:
        return None
    error = report.error
    whole = None if error is None else el("p", el("strong", str(error.get("type"))), ": ", str(error.get("message")))
    more = len(failures) - _MOST_FAILURES
    return el(
        "section",
        el("h2", "What failed"),
        whole,
        el("ul", [_failure(alike, anchors) for alike in failures[:_MOST_FAILURES]], class_="failures"),
        el("p", plural(more, "more error"), ": they stand with their steps", class_="muted") if more > 0 else None,
        [_left_out(one, report.summary.run_id) for one in unseen],
        class_="card trouble",
    )


def _failure(alike: Sequence[Section], anchors: Mapping[str, str]) -> Markup:
    """An error, and the nodes that have it."""
    found = alike[0].node["error"]
    nodes = [el("a", one.node["id"], href=f"#{anchors[one.node['id']]}") for one in alike[:_MOST_ALIKE]]
    more = len(alike) - len(nodes)
    where = el("p", [[", " if at else None, node] for at, node in enumerate(nodes)], f" and {more:,} more" * (more > 0))
    hint = el("p", found["hint"], class_="muted") if found["hint"] else None
    return el("li", mark("failed"), el("div", where, el("p", f"{found['type']}: {found['message']}"), hint))


def _left_out(section: Section, run_id: str) -> Markup:
    words = ["flowllm", "export", run_id, section.node["id"], "--status", "failed", "--output", "failed.csv"]
    what = plural(section.failed_omitted, "more failed item")
    return el("p", what, " of ", el("code", section.node["id"]), ": ", el("code", shlex.join(words)), class_="muted")


def _drawings(report: Report, now: float, anchors: Mapping[str, str]) -> Markup | None:
    if report.graph is None or report.timeline is None:
        return el("p", "The workflow on record is one that this version cannot read: it is not drawn.", class_="muted")
    bars, summary = report.timeline.bars, report.summary
    drawing = Markup(draw_svg(report.graph, {bar.id: bar.status for bar in bars}))
    wide = int(drawing.split('width="', 1)[1].split('"', 1)[0])
    begin = min((bar.started_at for bar in bars if bar.started_at is not None), default=summary.started_at)
    end = now if summary.finished_at is None else summary.finished_at
    over = el("section", el("h2", "Steps over time"), over_time(report.timeline, begin, end, anchors), class_="card")
    kind = f"scroll drawing{' fits' if wide <= _WIDEST else ''}"
    graph = el("section", el("h2", "Graph"), el("div", drawing, class_=kind, tabindex="0", role="group"), class_="card")
    return el("div", over, graph if report.graph.size > 1 else None, class_="drawings")


def _models(models: Sequence[Mapping[str, Json]]) -> Markup | None:
    rows = model_table(models)
    if not rows:
        return None
    headers = [name.capitalize() for name in rows[0]]
    cells = [[*row.values()] for row in rows]
    return el("section", el("h2", "Models"), table(headers, cells, right=headers[1:]), class_="card")


def _values(title: str, values: Mapping[str, Mapping[str, Json]], *, is_open: bool) -> Markup | None:
    if not values:
        return None
    shown = [value(name, one) for name, one in values.items()]
    return el("section", el("details", el("summary", el("h2", title)), shown, open=is_open), class_="card")


def _section(section: Section, anchors: Mapping[str, str], run_id: str) -> Markup:
    """A node that can be opened; what failed is open, and what holds it."""
    node = section.node
    figures = [
        None if node["took_s"] is None else duration(node["took_s"]),
        None
        if not node["usage"]["input_tokens"]
        else f"{(node['usage']['input_tokens'] or 0) + (node['usage']['output_tokens'] or 0):,} tokens",
        None if not node["cost_usd"] else dollars(node["cost_usd"]),
        "cached" if node["cached"] else None,
        None if not node["counts"] else f"{node['counts']['succeeded']:,} of {plural(node['counts']['total'], 'item')}",
    ]
    title = [mark(node["status"]), el("code", node["id"]), el("span", _line(node), class_="line")]
    summary = el("summary", title, el("span", " · ".join(filter(None, figures)), class_="muted number"))
    return el(
        "details", summary, _body(section, anchors, run_id), id=anchors[node["id"]], open=section.failed, class_="node"
    )


def _line(node: Mapping[str, Json]) -> str:
    """What an item is, or why there is nothing to see, on the line of its name."""
    if node["item"] is not None:
        return preview(node["item"]["value"] if node["item"]["text"] is None else node["item"]["text"], 120) or ""
    return str(node["reason"] or node["kind"])


def _body(section: Section, anchors: Mapping[str, str], run_id: str) -> Markup:
    node = section.node
    error = node["error"]
    parts: list[Child] = [
        facts(
            [
                ("Status", status(node["status"])),
                ("Model", node["model"] and f"{node['model']} at {node['provider']}"),
                ("Waited", waits_text(node["waits"])),
                ("Attempts", _attempts(node["attempt_log"])),
            ]
        )
    ]
    if error is not None:
        hint = el("p", error["hint"], class_="muted") if error["hint"] else None
        trace = el("pre", error["traceback"], tabindex="0") if error["traceback"] else None
        parts.append(el("div", el("p", f"{error['type']}: {error['message']}"), hint, trace, class_="error"))
        parts.append(value("last answer", error["answer"]))
    parts.append(value("item", node["item"]))
    parts += [value(one["role"], one["content"]) for one in node["messages"]]
    if node["counts"] is None and node["kind"] != StepKind.WORKFLOW:  # it is made of the steps below
        parts.append(value("made from", node["computed_from"]))
    parts.append(value("answer" if node["kind"] == "prompt" else "output", node["output"]))
    parts += [_section(one, anchors, run_id) for one in section.within]
    if section.omitted:
        is_foreach = node["counts"] is not None
        words = ["export", run_id, node["id"], "--output", "items.csv"] if is_foreach else ["show", run_id, node["id"]]
        more = plural(section.omitted, "more item" if is_foreach else "more step")
        parts.append(el("p", f"{more}: ", el("code", shlex.join(["flowllm", *words])), " has all", class_="muted"))
    return el("div", parts, class_="body")


def _attempts(log: Sequence[Mapping[str, Json]]) -> Child:
    if len(log) < 2:  # noqa: PLR2004 - of one all is told already
        return None
    return el(
        "ol",
        [
            el("li", mark("failed" if one["error"] else "succeeded"), duration(one["took_s"]), _why(one["error"]))
            for one in log
        ],
        class_="attempts",
    )


def _why(error: Mapping[str, Json] | None) -> str:
    return "" if error is None else f" {error['type']}: {error['message']}"
