"""A graph as text, Mermaid, DOT or data. Pure: the same graph and statuses give the same drawing.

Only ids, kinds and statuses are drawn, which cannot hold anything but letters, digits and `_`; the name of the
workflow is the author's and is quoted as each format asks.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from flowllm.types import NodeStatus, StepKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flowllm.plan.graph import Edge, Graph
    from flowllm.types import Json, StepId

COLOURS: dict[str, tuple[str, str]] = {
    NodeStatus.PENDING: ("#f3f4f6", "#9ca3af"),
    NodeStatus.RUNNING: ("#dbeafe", "#2563eb"),
    NodeStatus.SUCCEEDED: ("#dcfce7", "#16a34a"),
    NodeStatus.FAILED: ("#fee2e2", "#dc2626"),
    NodeStatus.SKIPPED: ("#fef9c3", "#ca8a04"),
    NodeStatus.BLOCKED: ("#ffedd5", "#ea580c"),
    NodeStatus.CANCELLED: ("#e5e7eb", "#6b7280"),
}
"""Fill and line of a step by its status."""
PLAIN_COLOURS = ("#f8fafc", "#64748b")
_MARKS = {
    NodeStatus.PENDING: "·",
    NodeStatus.RUNNING: "▶",
    NodeStatus.SUCCEEDED: "✓",
    NodeStatus.FAILED: "✗",
    NodeStatus.SKIPPED: "○",
    NodeStatus.BLOCKED: "■",
    NodeStatus.CANCELLED: "−",  # noqa: RUF001 - a minus sign, as wide as the other marks
}
_TO_ASCII = str.maketrans("─│┬├└╌◀·▶✓✗○■−", "-||||.<.>+xo#-")  # noqa: RUF001 - as above
_MERMAID_SHAPES = {StepKind.PROMPT: '["{}"]', StepKind.PYTHON: '[["{}"]]', StepKind.VALUE: '("{}")'}
_DOT_SHAPES = {StepKind.PROMPT: "box", StepKind.PYTHON: "component", StepKind.VALUE: "ellipse"}


def draw_text(graph: Graph, statuses: Mapping[str, str] | None = None, *, ascii_only: bool = False) -> str:
    """One line a step, in generations; behind each the steps that it waits for, dotted where optional."""
    generations, incoming = graph.generations(), graph.incoming()
    widest = max((len(step) for step in graph.steps), default=0)
    kind_width = max((len(kind) for kind in graph.kinds.values()), default=0)
    lines = []
    for number, generation in enumerate(generations, 1):
        for place, step in enumerate(generation):
            lead = _lead(number, place, len(generation), len(str(len(generations))))
            status = (statuses or {}).get(step, NodeStatus.PENDING if statuses is not None else "")
            mark = f"{_MARKS[NodeStatus(status)]} " if status else ""
            tail = f"  {status:<9}" if status else ""
            line = f"{lead} {mark}{step:<{widest}}  {graph.kinds[step]:<{kind_width}}{tail}  {_arrows(incoming[step])}"
            lines.append(line.rstrip())
    text = "\n".join([*lines, ""])
    return text.translate(_TO_ASCII) if ascii_only else text


def _lead(number: int, place: int, count: int, width: int) -> str:
    """The bracket that binds the steps of one generation."""
    if place == 0:
        return f"{number:>{width}} {'──' if count == 1 else '┬─'}"
    return f"{'':>{width}} {'└─' if place == count - 1 else '├─'}"


def _arrows(edges: Iterable[Edge]) -> str:
    """`◀── a, b  ◀╌╌ c`: needed steps, then optional ones."""
    ordered = sorted(edges, key=lambda edge: edge.optional)
    return "  ".join(
        f"{'◀╌╌' if optional else '◀──'} {', '.join(edge.before for edge in group)}"
        for optional, group in groupby(ordered, key=lambda edge: edge.optional)
    )


def draw_mermaid(graph: Graph, statuses: Mapping[str, str] | None = None) -> str:
    """A Mermaid flowchart; optional edges are dotted, steps coloured by status."""
    title = graph.name.replace("\\", "\\\\").replace('"', '\\"')
    lines = ["---", f'title: "{title}"', "---", "flowchart TD"]
    lines += [f"    s_{step}{_MERMAID_SHAPES[kind].format(step)}" for step, kind in graph.kinds.items()]
    lines += [
        f"    s_{edge.before} {'-.->' if edge.optional else '-->'} s_{edge.after}" for edge in graph.edges
    ]
    for status, (fill, stroke) in COLOURS.items():
        marked = [f"s_{step}" for step in graph.steps if (statuses or {}).get(step) == status]
        if marked:
            lines.append(f"    classDef {status} fill:{fill},stroke:{stroke},color:#111827")
            lines.append(f"    class {','.join(marked)} {status}")
    return "\n".join([*lines, ""])


def draw_dot(graph: Graph, statuses: Mapping[str, str] | None = None) -> str:
    """A Graphviz digraph; optional edges are dashed, steps coloured by status."""
    title = graph.name.replace("\\", "\\\\").replace('"', '\\"')
    lines = [f'digraph "{title}" {{', "    rankdir=TB;", '    node [fontname="Helvetica", style="filled"];']
    for step, kind in graph.kinds.items():
        fill, stroke = _colours(step, statuses)
        lines.append(
            f'    "{step}" [label="{step}\\n{kind}", shape={_DOT_SHAPES[kind]}, '
            f'fillcolor="{fill}", color="{stroke}"];'
        )
    for edge in graph.edges:
        style = " [style=dashed]" if edge.optional else ""
        lines.append(f'    "{edge.before}" -> "{edge.after}"{style};')
    return "\n".join([*lines, "}", ""])


def draw_data(graph: Graph, statuses: Mapping[str, str] | None = None) -> dict[str, Json]:
    """The graph as a JSON object."""
    incoming = graph.incoming()
    place = {step: number for number, generation in enumerate(graph.generations(), 1) for step in generation}
    return {
        "workflow": graph.name,
        "steps": [
            {
                "id": step,
                "kind": kind.value,
                "generation": place[step],
                "needs": [edge.before for edge in incoming[step]],
                **({} if statuses is None else {"status": str(statuses.get(step, NodeStatus.PENDING))}),
            }
            for step, kind in graph.kinds.items()
        ],
        "edges": [
            {"from": edge.before, "to": edge.after, "tolerance": edge.tolerance.name.lower()}
            for edge in graph.edges
        ],
    }


def _colours(step: StepId, statuses: Mapping[str, str] | None) -> tuple[str, str]:
    return COLOURS.get((statuses or {}).get(step, ""), PLAIN_COLOURS)
