"""A graph as text, Mermaid, DOT or data. Pure: the same graph and statuses give the same drawing.

Only ids, kinds and statuses are drawn, which cannot hold anything but letters, digits and `_`; the name of the
workflow is the author's and is quoted as each format asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from flowllm.core.types import STATUS_MARKS, Json, NodeStatus, StepId, StepKind
from flowllm.explain.graph import Edge, Graph

COLOURS: dict[str, tuple[str, str]] = {
    NodeStatus.PENDING: ("#f3f4f6", "#9ca3af"),
    NodeStatus.RUNNING: ("#dbeafe", "#2563eb"),
    NodeStatus.WAITING: ("#ede9fe", "#7c3aed"),
    NodeStatus.SUCCEEDED: ("#dcfce7", "#16a34a"),
    NodeStatus.FAILED: ("#fee2e2", "#dc2626"),
    NodeStatus.SKIPPED: ("#fef9c3", "#ca8a04"),
    NodeStatus.BLOCKED: ("#ffedd5", "#ea580c"),
    NodeStatus.CANCELLED: ("#e5e7eb", "#6b7280"),
}
"""Fill and line of a step by its status."""
PLAIN_COLOURS = ("#f8fafc", "#64748b")
_TO_ASCII = str.maketrans(
    {
        **dict(zip("─│┬├└╌◀×…", "-||||.<x~", strict=True)),  # noqa: RUF001 - a times sign
        **dict(STATUS_MARKS.values()),
    }
)
_MERMAID_SHAPES = {
    StepKind.PYTHON: '[["{}"]]',
    StepKind.SHELL: '[["{}"]]',
    StepKind.VALUE: '("{}")',
    StepKind.HTTP: '(["{}"])',
}
_DOT_SHAPES = {
    StepKind.PYTHON: "component",
    StepKind.SHELL: "component",
    StepKind.VALUE: "ellipse",
    StepKind.HTTP: "cds",
    StepKind.WORKFLOW: "folder",
}


def draw_text(graph: Graph, statuses: Mapping[str, str] | None = None, *, ascii_only: bool = False) -> str:
    """One line a step, in generations; behind each the steps that it waits for, dotted where optional.

    A `workflow` step has the lines of its own steps below it.
    """
    text = "\n".join([*_lines(graph, statuses), ""])
    return text.translate(_TO_ASCII) if ascii_only else text


def _lines(graph: Graph, statuses: Mapping[str, str] | None) -> Iterator[str]:
    generations, incoming = graph.generations(), graph.incoming()
    widest = max((len(step) for step in graph.steps), default=0)
    kind_width = max((len(kind_of(graph, step)) for step in graph.steps), default=0)
    width = len(str(len(generations)))
    for number, generation in enumerate(generations, 1):
        for index, step in enumerate(generation):
            lead = _lead(number, index, len(generation), width)
            status = (statuses or {}).get(step, NodeStatus.PENDING if statuses is not None else "")
            mark = f"{STATUS_MARKS[NodeStatus(status)][0]} " if status else ""
            tail = f"  {status:<9}" if status else ""
            kind = f"{kind_of(graph, step):<{kind_width}}"
            yield f"{lead} {mark}{step:<{widest}}  {kind}{tail}  {_arrows(incoming[step])}".rstrip()
            if step in graph.inner:
                bar = "│" if index < len(generation) - 1 else " "
                for line in _lines(graph.inner[step], None):
                    yield f"{'':>{width}} {bar}    {line}"


def kind_of(graph: Graph, step: StepId) -> str:
    """What a step does: `prompt`, with a sign if once an item, or a `workflow` whose steps are not shown."""
    hidden = " …" if graph.kinds[step] == StepKind.WORKFLOW and step not in graph.inner else ""
    asks = ", asks" if step in graph.asks else ""
    return f"{graph.kinds[step]}{asks}{_times(graph, step)}{hidden}"


def _times(graph: Graph, step: StepId) -> str:
    return " ×N" if step in graph.foreach else ""  # noqa: RUF001 - the sign for times


def _lead(number: int, index: int, count: int, width: int) -> str:
    """The bracket that binds the steps of one generation."""
    if index == 0:
        return f"{number:>{width}} {'──' if count == 1 else '┬─'}"
    return f"{'':>{width}} {'└─' if index == count - 1 else '├─'}"


def _arrows(edges: Iterable[Edge]) -> str:
    """`◀── a, b  ◀╌╌ c`: needed steps, then optional ones."""
    ordered = sorted(edges, key=lambda edge: edge.optional)
    return "  ".join(
        f"{'◀╌╌' if optional else '◀──'} {', '.join(edge.before for edge in group)}"
        for optional, group in groupby(ordered, key=lambda edge: edge.optional)
    )


def draw_mermaid(graph: Graph, statuses: Mapping[str, str] | None = None) -> str:
    """A Mermaid flowchart; optional edges are dotted, steps coloured by status, `workflow` steps are subgraphs."""
    title = graph.name.replace("\\", "\\\\").replace('"', '\\"')
    lines = ["---", f'title: "{title}"', "---", "flowchart TD", *_mermaid(graph, "s_", "    ")]
    for status, (fill, stroke) in COLOURS.items():
        marked = [f"s_{step}" for step in graph.steps if (statuses or {}).get(step) == status]
        if marked:
            lines.append(f"    classDef {status} fill:{fill},stroke:{stroke},color:#111827")
            lines.append(f"    class {','.join(marked)} {status}")
    return "\n".join([*lines, ""])


def _mermaid(graph: Graph, prefix: str, indent: str) -> Iterator[str]:
    """Ids join with `_IN_`, which no step's id can hold: they are in lower case."""
    for step, kind in graph.kinds.items():
        label = f"{step}{_times(graph, step)}"
        if step in graph.inner:
            yield f'{indent}subgraph {prefix}{step}["{label}"]'
            yield from _mermaid(graph.inner[step], f"{prefix}{step}_IN_", f"{indent}    ")
            yield f"{indent}end"
        else:
            shape = _MERMAID_SHAPES.get(kind, '["{}"]')
            yield f"{indent}{prefix}{step}{shape.format(label)}"
    for edge in graph.edges:
        yield f"{indent}{prefix}{edge.before} {'-.->' if edge.optional else '-->'} {prefix}{edge.after}"


def draw_dot(graph: Graph, statuses: Mapping[str, str] | None = None) -> str:
    """A Graphviz digraph; optional edges are dashed, steps coloured by status.

    A `workflow` step is a cluster with a folder for the step itself, to which its edges go.
    """
    title = graph.name.replace("\\", "\\\\").replace('"', '\\"')
    lines = [f'digraph "{title}" {{', "    rankdir=TB;", '    node [fontname="Helvetica", style="filled"];']
    return "\n".join([*lines, *_dot(graph, statuses, "", "    "), "}", ""])


def _dot(graph: Graph, statuses: Mapping[str, str] | None, prefix: str, indent: str) -> Iterator[str]:
    for step, kind in graph.kinds.items():
        fill, stroke = _colours(step, statuses)
        name, within = f"{prefix}{step}", graph.inner.get(step)
        box = (
            f'"{name}" [label="{step}\\n{kind_of(graph, step)}", shape={_DOT_SHAPES.get(kind, "box")}, '
            f'fillcolor="{fill}", color="{stroke}"];'
        )
        if within is None:
            yield f"{indent}{box}"
            continue
        yield f'{indent}subgraph "cluster_{name}" {{'
        yield f'{indent}    style="rounded";'
        yield f"{indent}    {box}"
        yield from _dot(within, None, f"{name}.", f"{indent}    ")
        later = {edge.after for edge in within.edges}
        for first in within.steps:
            if first not in later:
                yield f'{indent}    "{name}" -> "{name}.{first}" [style=dotted, arrowhead=none];'
        yield f"{indent}}}"
    for edge in graph.edges:
        style = " [style=dashed]" if edge.optional else ""
        yield f'{indent}"{prefix}{edge.before}" -> "{prefix}{edge.after}"{style};'


def draw_data(graph: Graph, statuses: Mapping[str, str] | None = None) -> dict[str, Json]:
    """The graph as a JSON object; a `workflow` step has its own `steps` and `edges`, with dotted ids."""
    return {"workflow": graph.name, **_data(graph, statuses, "")}


def _data(graph: Graph, statuses: Mapping[str, str] | None, prefix: str) -> dict[str, Json]:
    incoming = graph.incoming()
    index = {step: number for number, generation in enumerate(graph.generations(), 1) for step in generation}
    return {
        "steps": [
            {
                "id": f"{prefix}{step}",
                "kind": kind.value,
                "foreach": step in graph.foreach,
                **({"asks": True} if step in graph.asks else {}),
                "generation": index[step],
                "needs": [f"{prefix}{edge.before}" for edge in incoming[step]],
                **({} if statuses is None else {"status": str(statuses.get(step, NodeStatus.PENDING))}),
                **(_data(graph.inner[step], None, f"{prefix}{step}.") if step in graph.inner else {}),
            }
            for step, kind in graph.kinds.items()
        ],
        "edges": [
            {"from": f"{prefix}{edge.before}", "to": f"{prefix}{edge.after}", "tolerance": edge.tolerance.name.lower()}
            for edge in graph.edges
        ],
    }


def _colours(step: StepId, statuses: Mapping[str, str] | None) -> tuple[str, str]:
    return COLOURS.get((statuses or {}).get(step, ""), PLAIN_COLOURS)
