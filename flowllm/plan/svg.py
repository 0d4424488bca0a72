"""A graph as a self-contained SVG: generations from top to bottom, few crossings, no scripts.

A layered drawing after Sugiyama, Tagawa and Toda (1981): long edges are cut into pieces by invisible points,
one a generation, and each generation is sorted by the average place of its neighbours, down and up in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from flowllm.plan.draw import COLOURS, PLAIN_COLOURS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flowllm.plan.graph import Edge, Graph
    from flowllm.types import StepId

SWEEPS = 8
_BOX_HEIGHT = 44
_ROW = 96
_GAP = 28
_POINT_WIDTH = 12
_MARGIN = 24
_CHAR = 8.0
"""Width of one character of a monospaced 13 px label, rounded up."""


@dataclass(frozen=True, slots=True)
class _Spot:
    """A place in a row: a step, or the point at which a long edge passes."""

    name: str
    row: int
    width: float
    step: StepId | None = None


@dataclass(frozen=True, slots=True)
class _Route:
    """An edge as the spots that it runs through."""

    edge: Edge
    spots: tuple[_Spot, ...]


def draw_svg(graph: Graph, statuses: Mapping[str, str] | None = None) -> str:
    """The drawing; optional edges are dashed, steps coloured by status."""
    rows, routes = _layers(graph)
    rows = _uncrossed(rows, routes)
    centres = _centres(rows)
    width = round(max((x + spot.width / 2 for spot, (x, _) in centres.items()), default=0) + _MARGIN)
    height = _MARGIN * 2 + _BOX_HEIGHT + _ROW * max(0, len(rows) - 1)
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
    parts += [_path(route, centres) for route in routes]
    for spot, centre in centres.items():
        if spot.step is not None:
            parts.append(_box(spot, spot.step, centre, graph, statuses or {}))
    return "\n".join([*parts, "</svg>", ""])


def _layers(graph: Graph) -> tuple[list[list[_Spot]], list[_Route]]:
    """Rows of spots, and every edge as a chain of spots in neighbouring rows."""
    rows = [
        [_Spot(step, row, max(len(step), len(graph.kinds[step])) * _CHAR + 32, step) for step in generation]
        for row, generation in enumerate(graph.generations())
    ]
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


def _centres(rows: list[list[_Spot]]) -> dict[_Spot, tuple[float, float]]:
    """Where each spot's middle is; every row is centred below the widest."""
    widths = [sum(spot.width for spot in row) + _GAP * (len(row) - 1) for row in rows]
    widest = max(widths, default=0)
    centres = {}
    for row, width in zip(rows, widths, strict=True):
        x = _MARGIN + (widest - width) / 2
        for spot in row:
            centres[spot] = (x + spot.width / 2, _MARGIN + _BOX_HEIGHT / 2 + _ROW * spot.row)
            x += spot.width + _GAP
    return centres


def _path(route: _Route, centres: Mapping[_Spot, tuple[float, float]]) -> str:
    points = [centres[spot] for spot in route.spots]
    x, y = points[0]
    y += _BOX_HEIGHT / 2
    drawn = [f"M{x:g},{y:g}"]
    for index, (next_x, centre_y) in enumerate(points[1:], 1):
        next_y = centre_y - (_BOX_HEIGHT / 2 + 1 if index == len(points) - 1 else 0)
        middle = (y + next_y) / 2
        drawn.append(f"C{x:g},{middle:g} {next_x:g},{middle:g} {next_x:g},{next_y:g}")
        x, y = next_x, next_y
    dashes = ' stroke-dasharray="5 4"' if route.edge.optional else ""
    return (
        f'  <path d="{" ".join(drawn)}" fill="none" stroke="#64748b" stroke-width="1.4"{dashes} '
        'marker-end="url(#arrow)"/>'
    )


def _box(
    spot: _Spot, step: StepId, centre: tuple[float, float], graph: Graph, statuses: Mapping[str, str]
) -> str:
    x, y = centre
    fill, stroke = COLOURS.get(statuses.get(step, ""), PLAIN_COLOURS)
    note = " · ".join(_shown(graph.kinds[step].value, statuses.get(step)))
    return "\n".join(
        [
            (
                f'  <g><rect x="{x - spot.width / 2:g}" y="{y - _BOX_HEIGHT / 2:g}" width="{spot.width:g}" '
                f'height="{_BOX_HEIGHT}" rx="8" fill="{fill}" stroke="{stroke}" stroke-width="1.4"/>'
            ),
            (
                f'    <text x="{x:g}" y="{y - 2:g}" text-anchor="middle" font-size="13" fill="#111827">'
                f"{escape(step)}</text>"
            ),
            (
                f'    <text x="{x:g}" y="{y + 14:g}" text-anchor="middle" font-size="10" fill="#64748b">'
                f"{escape(note)}</text></g>"
            ),
        ]
    )


def _shown(*words: str | None) -> Iterable[str]:
    return [word for word in words if word]
