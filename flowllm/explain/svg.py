"""A graph as a self-contained SVG: generations from top to bottom, few crossings, no scripts.

A layered drawing after Sugiyama, Tagawa and Toda (1981): long edges are cut into pieces by invisible points,
one a generation, and each generation is sorted by the average place of its neighbours, down and up in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape

from flowllm.core.records import dataclass
from flowllm.core.types import NodeStatus, StepId
from flowllm.explain.draw import COLOURS, PLAIN_COLOURS, kind_of
from flowllm.explain.graph import Edge, Graph

SWEEPS = 8
_BOX_HEIGHT = 44
_ROW_GAP = 52
_LINE = 17
"""Height of the line of a step within a `workflow` step."""
_LINES_ABOVE = 8
_GAP = 28
_POINT_WIDTH = 12
_MARGIN = 24
_CHAR = 8.0
_INNER_CHAR = 7.0
_SMALL_CHAR = 6.2
"""Widths of a character in the sizes of names, of the steps within, and of notes."""
"""Width of one character of a monospaced 13 px label, rounded up."""


@dataclass(frozen=True, slots=True)
class _Spot:
    """A place in a row: a step, or the point at which a long edge passes."""

    name: str
    row: int
    width: float
    step: StepId | None = None
    inner: tuple[str, ...] = ()
    """Lines for the steps within it."""

    @property
    def height(self) -> float:
        """Of its box."""
        return _BOX_HEIGHT + (_LINES_ABOVE + _LINE * len(self.inner) if self.inner else 0)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a spot is drawn. An edge that passes goes straight from the top of its row to the bottom."""

    x: float
    top: float
    bottom: float


@dataclass(frozen=True, slots=True)
class _Route:
    """An edge as the spots that it runs through."""

    edge: Edge
    spots: tuple[_Spot, ...]


def draw_svg(graph: Graph, statuses: Mapping[str, str] | None = None) -> str:
    """The drawing; optional edges are dashed, steps coloured by status. Its classes let a page choose other colours."""
    rows, routes = _layers(graph)
    rows = _uncrossed(rows, routes)
    places = _places(rows)
    width = round(max((place.x + spot.width / 2 for spot, place in places.items()), default=0) + _MARGIN)
    height = round(max((place.bottom for place in places.values()), default=_MARGIN + _BOX_HEIGHT) + _MARGIN)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="ui-monospace, Menlo, Consolas, monospace">'
        ),
        f"  <title>{escape(graph.name)}</title>",
        (
            '  <defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
            'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#64748b"/></marker></defs>'
        ),
    ]
    parts += [_path(route, places) for route in routes]
    for spot, place in places.items():
        if spot.step is not None:
            parts.append(_box(spot, spot.step, place, graph, statuses or {}))
    return "\n".join([*parts, "</svg>", ""])


def _layers(graph: Graph) -> tuple[list[list[_Spot]], list[_Route]]:
    """Rows of spots, and every edge as a chain of spots in neighbouring rows."""
    rows = [[_spot(graph, step, row) for step in generation] for row, generation in enumerate(graph.generations())]
    at = {spot.step: spot for row in rows for spot in row}
    routes = []
    for edge in graph.edges:
        first, last = at[edge.before], at[edge.after]
        points = tuple(
            _Spot(f"{edge.before}>{edge.after}", row, _POINT_WIDTH) for row in range(first.row + 1, last.row)
        )
        for point in points:
            rows[point.row].append(point)
        routes.append(_Route(edge, (first, *points, last)))
    return rows, routes


def _spot(graph: Graph, step: StepId, row: int) -> _Spot:
    inner = tuple(_inner_lines(graph.inner[step], "")) if step in graph.inner else ()
    note = " · ".join((kind_of(graph, step), max(NodeStatus, key=len)))  # wide enough for any status
    widest = max(len(step) * _CHAR, len(note) * _SMALL_CHAR, *(len(text) * _INNER_CHAR for text in inner), 0)
    return _Spot(step, row, widest + 32, step, inner)


def _inner_lines(graph: Graph, indent: str) -> Iterator[str]:
    """The steps of a graph within a step, those within them indented."""
    for step in graph.steps:
        yield f"{indent}{step} · {kind_of(graph, step)}"
        if step in graph.inner:
            yield from _inner_lines(graph.inner[step], f"{indent}   ")


def _uncrossed(rows: list[list[_Spot]], routes: list[_Route]) -> list[list[_Spot]]:
    above: dict[_Spot, list[_Spot]] = {}
    below: dict[_Spot, list[_Spot]] = {}
    for route in routes:
        for upper, lower in zip(route.spots, route.spots[1:], strict=False):
            below.setdefault(upper, []).append(lower)
            above.setdefault(lower, []).append(upper)
    rows = [list(row) for row in rows]
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for index in range(1, len(rows)) if down else range(len(rows) - 2, -1, -1):
            fixed = rows[index - 1] if down else rows[index + 1]
            rows[index] = _sorted(rows[index], fixed, above if down else below)
    return rows


def _sorted(row: list[_Spot], fixed: list[_Spot], neighbours: Mapping[_Spot, list[_Spot]]) -> list[_Spot]:
    """The row by the average relative place of each spot's neighbours in the fixed row."""
    place = {spot: (index + 0.5) / len(fixed) for index, spot in enumerate(fixed)}
    own = {spot: (index + 0.5) / len(row) for index, spot in enumerate(row)}

    def weight(spot: _Spot) -> float:
        near = neighbours.get(spot, [])
        return sum(place[other] for other in near) / len(near) if near else own[spot]

    return sorted(row, key=weight)


def _places(rows: list[list[_Spot]]) -> dict[_Spot, _Place]:
    """Where each spot is; every row is centred below the widest, and as high as its highest box."""
    widths = [sum(spot.width for spot in row) + _GAP * (len(row) - 1) for row in rows]
    widest = max(widths, default=0)
    places, top = {}, float(_MARGIN)
    for row, width in zip(rows, widths, strict=True):
        x = _MARGIN + (widest - width) / 2
        high = max(spot.height for spot in row)
        for spot in row:
            spare = 0 if spot.step is None else (high - spot.height) / 2
            places[spot] = _Place(x + spot.width / 2, top + spare, top + high - spare)
            x += spot.width + _GAP
        top += high + _ROW_GAP
    return places


def _path(route: _Route, places: Mapping[_Spot, _Place]) -> str:
    first, *others = (places[spot] for spot in route.spots)
    x, y = first.x, first.bottom
    drawn = [f"M{x:g},{y:g}"]
    for index, place in enumerate(others, 1):
        last = index == len(others)
        next_y = place.top - (1 if last else 0)
        middle = (y + next_y) / 2
        drawn.append(f"C{x:g},{middle:g} {place.x:g},{middle:g} {place.x:g},{next_y:g}")
        if not last:
            drawn.append(f"V{place.bottom:g}")
        x, y = place.x, place.bottom
    dashes = ' stroke-dasharray="5 4"' if route.edge.optional else ""
    return (
        f'  <path class="edge" d="{" ".join(drawn)}" fill="none" stroke="#64748b" stroke-width="1.4"{dashes} '
        'marker-end="url(#arrow)"/>'
    )


def _box(spot: _Spot, step: StepId, place: _Place, graph: Graph, statuses: Mapping[str, str]) -> str:
    fill, stroke = COLOURS.get(statuses.get(step, ""), PLAIN_COLOURS)
    note = " · ".join(_shown(kind_of(graph, step), statuses.get(step)))
    tone = " ".join(_shown("step", f"tone-{statuses[step]}" if step in statuses else None))
    left, middle = place.x - spot.width / 2, place.top + _BOX_HEIGHT / 2
    below = place.top + _BOX_HEIGHT
    parts = [
        (
            f'  <g class="{tone}"><rect x="{left:g}" y="{place.top:g}" width="{spot.width:g}" '
            f'height="{spot.height:g}" rx="8" fill="{fill}" stroke="{stroke}" stroke-width="1.4"/>'
        ),
        _text(step, place.x, middle - 2, 'text-anchor="middle" font-size="13" fill="#111827"'),
        _text(note, place.x, middle + 14, 'class="note" text-anchor="middle" font-size="10" fill="#64748b"'),
    ]
    if spot.inner:
        parts.append(f'    <path d="M{left:g},{below:g} h{spot.width:g}" stroke="{stroke}" stroke-width="0.7"/>')
    for index, line in enumerate(spot.inner, 1):
        look = 'xml:space="preserve" font-size="11" fill="#334155"'
        parts.append(_text(line, left + 16, below + _LINE * index, look))
    return "\n".join([*parts, "  </g>"])


def _text(text: str, x: float, y: float, look: str) -> str:
    return f'    <text x="{x:g}" y="{y:g}" {look}>{escape(text)}</text>'


def _shown(*words: str | None) -> Iterable[str]:
    return [word for word in words if word]
