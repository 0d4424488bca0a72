"""What differs between two runs, as a page that stands alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flowllm import __version__
from flowllm.core.money import dollars
from flowllm.core.types import Json, N
from flowllm.reporting.text import at_least, duration, error_text, json_text, one_line, plural
from flowllm.ui.report.html import Child, Markup, document, el
from flowllm.ui.report.parts import clock, status, table
from flowllm.views.compare import Comparison
from flowllm.views.differences import FieldChange, Figures, NodeChange, StepComparison, Verdict, differs, signed, why
from flowllm.views.runs import RunSummary
from flowllm.views.shown import preview
from flowllm.views.text_diff import DiffLine

MOST_LINES = 400
"""Lines of one text."""
_TONES = {
    Verdict.SAME: "skipped",
    Verdict.OPEN: "running",
    Verdict.CHANGED: "waiting",
    Verdict.ADDED: "succeeded",
    Verdict.REMOVED: "failed",
}


def compare_page(found: Comparison, *, now: float) -> str:
    """The whole page."""
    left = found.total - len(found.changes)
    more = f"and {plural(left, 'more change')}, which --limit shows" if left else None
    return document(
        f"{found.run.workflow}: what differs in run {found.run.run_id}",
        _head(found),
        el("section", el("h2", "Steps"), _steps(found.steps), _means(found.steps), class_="card"),
        el(
            "section",
            el("h2", "Changes" if found.changes else "No output and no status differs"),
            [_change(one) for one in found.changes],
            more and el("p", more, class_="muted"),
        ),
        el("footer", "made by flowllm ", __version__, ", ", clock(now), class_="muted"),
    )


def _head(found: Comparison) -> Markup:
    headers = ["", "Run", "Status", "Started", "Took", "Tokens", "Cost"]
    rows = [_run(name, run) for name, run in (("Base", found.base), ("Run", found.run))]
    given = [
        el("li", one.path, ": ", el("del", _short(one.before)), " → ", el("ins", _short(one.after)))
        for one in found.given
    ]
    edited = [el("li", "edited: ", ", ".join(path.rpartition("/")[2] for path in found.edited))] if found.edited else []
    return el(
        "header",
        el("h1", "What differs in ", found.run.workflow),
        table(headers, rows, right=headers[4:]),
        el("ul", given, edited, class_="given") if given or edited else None,
        class_="card",
    )


def _run(name: str, run: RunSummary) -> list[Child]:
    tokens = (run.usage.input_tokens or 0) + (run.usage.output_tokens or 0)
    figures = [duration(run.elapsed_s), f"{tokens:,}", at_least(run.cost_usd, run.cost_at_least, dollars)]
    return [el("strong", name), el("code", run.run_id), status(run.status.value), clock(run.started_at), *figures]


def _steps(steps: Sequence[StepComparison]) -> Markup:
    headers = ["Step", "Difference", "Tokens", "Call", "Cost", "Asked otherwise"]
    rows: list[list[Child]] = []
    for step in steps:
        figures = [
            _both(step, lambda one: one.tokens, "{:,}".format),
            _both(step, lambda one: one.call_s, duration),
            _both(step, lambda one: one.cost_usd, dollars),
        ]
        tone = f"chip tone-{_TONES[step.verdict]}"
        rows.append([el("code", step.step), el("span", differs(step), class_=tone), *figures, why(step)])
    return table(headers, rows, right=headers[2:5])


def _both(step: StepComparison, figure: Callable[[Figures], N | None], shown: Callable[[N], str]) -> Child:
    """What it took, and before it what it had taken."""
    texts = []
    for one in (step.before, step.after):
        found = None if one is None else figure(one)
        texts.append("–" if one is None else "unknown" if found is None else shown(found))  # noqa: RUF001 - a dash
    if texts[0] == texts[1]:
        return texts[1]
    return el("span", el("span", texts[0], " → ", class_="muted"), texts[1], class_="number")


def _means(steps: Sequence[StepComparison]) -> Child:
    return [
        el(
            "p",
            f"mean of {step.step}{mean.path and '.'}{mean.path} in {plural(mean.items, 'item')} that differ: ",
            _number(mean.before, mean.after),
        )
        for step in steps
        for mean in step.means
    ]


def _number(before: float, after: float) -> Markup:
    return el("span", f"{before:,.6g} → {after:,.6g} ({signed(after - before)})", class_="number")


def _change(change: NodeChange) -> Markup:
    before, after = change.before, change.after
    moved = None if change.base_node in {None, change.node} else el("span", f"was {change.base_node}", class_="muted")
    if before is None or after is None:
        head: Child = el("span", change.verdict.value, class_=f"chip tone-{_TONES[change.verdict]}")
    elif before.status is not after.status:
        head = [status(before.status.value), "→", status(after.status.value)]
    else:
        head = None
    errors = [
        _line(DiffLine(sign=sign, parts=((error_text(one.error), True),)))
        for sign, one in (("-", before), ("+", after))
        if one is not None and one.error is not None and head is not None
    ]
    item = preview(change.item, 120)
    title = el("h3", el("code", change.node), head, moved, item and el("span", item, class_="line"))
    name = "answer" if any(isinstance(one.after or one.before, str) for one in change.fields[:1]) else "output"
    fields = [_field(one, name) for one in change.fields]
    more = plural(change.more_fields, "more place") if change.more_fields else None
    asked = f"asked otherwise: {', '.join(change.why)}" if change.why else None
    took = _took(before, after) if before is not None and after is not None else None
    notes = " · ".join(filter(None, (more, asked, took)))
    told = [
        el("div", errors, class_="diff") if errors else None,
        fields,
        el("p", notes, class_="muted") if notes else None,
    ]
    return el("article", title, told, class_="card difference")


def _took(before: Figures, after: Figures) -> str:
    """`1.2s → 0.8s, $0.01 → $0.02`."""
    pairs = [(duration(before.call_s), duration(after.call_s))]
    if before.cost_usd is not None and after.cost_usd is not None:
        pairs.append((dollars(before.cost_usd), dollars(after.cost_usd)))
    return ", ".join(old if old == new else f"{old} → {new}" for old, new in pairs)


def _field(change: FieldChange, name: str) -> Markup:
    caption = el("figcaption", change.path or name)
    if change.delta is not None:
        return el("figure", caption, _number(change.before, change.after), class_="short")
    if change.short:
        values = el("del", _short(change.before)), " → ", el("ins", _short(change.after))
        return el("figure", caption, values, class_="short")
    lines = change.lines()
    more = plural(len(lines) - MOST_LINES, "more line")
    cut = el("p", f"and {more}", class_="muted") if len(lines) > MOST_LINES else None
    return el("figure", caption, el("div", [_line(line) for line in lines[:MOST_LINES]], class_="diff"), cut)


def _line(line: DiffLine) -> Markup:
    tag = {"-": "del", "+": "ins"}.get(line.sign, "span")
    kind = {"-": "old", "+": "new"}.get(line.sign)
    sign = el("span", line.sign, class_="sign")
    return el(
        "div",
        sign,
        el("span", [el(tag, text) if differs_ and text else text for text, differs_ in line.parts]),
        class_=kind,
    )


def _short(value: Json) -> str:
    return "none" if value is None else one_line(value if isinstance(value, str) else json_text(value, indent=None), 60)
