"""A picture of a rate over time, as SVG written by hand."""

from __future__ import annotations

from tests.support.serving import Traffic

WIDTH, HEIGHT = 720, 330
LEFT, RIGHT, TOP, BOTTOM = 44, 28, 40, 74
SPAN = 2.0
"""Seconds over which a rate is counted."""
STYLE = """
text{font:12px system-ui,sans-serif;fill:#444}
.title{font-size:14px;fill:#111}
.grid{stroke:#ddd}
.limit{stroke:#c0392b;stroke-width:1.5;stroke-dasharray:6 4;fill:none}
.rate{stroke:#1f6feb;stroke-width:1.5;fill:none;stroke-linejoin:round}
.refused{stroke:#c0392b;stroke-width:2}
.mark{stroke:#888;stroke-dasharray:2 3}
@media (prefers-color-scheme:dark){svg{background:#0d1117}text{fill:#bbb}.title{fill:#eee}.grid{stroke:#333}}
"""


def draw(traffic: Traffic, began: float, seconds: float, *, rate: float, change: float) -> str:
    """Accepted requests a second, what the server allows, and a tick for every 429; the limit changes halfway."""
    top = rate * 1.5

    def x(at: float) -> float:
        return round(LEFT + at / seconds * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - min(value, top) / top * (HEIGHT - TOP - BOTTOM), 1)

    half = seconds / 2
    points = []
    for step in range(int(seconds - SPAN) + 1):
        value = traffic.rate(began + step, began + step + SPAN)
        points.append(f"{x(step + SPAN / 2)},{y(value)}")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>Requests a second that a server accepted, while its limit is halved</title>",
        f"<style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="20">An unknown limit, found by its 429s alone, then halved</text>',
    ]
    for value in range(0, int(top) + 1, 5):
        parts.append(f'<path class="grid" d="M{LEFT} {y(value)}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4}" text-anchor="end">{value}</text>')
    ticks = 30 if seconds >= 120 else 5
    parts += [
        f'<text x="{x(at)}" y="{HEIGHT - BOTTOM + 30}" text-anchor="middle">{at} s</text>'
        for at in range(0, int(seconds) + 1, ticks)
    ]
    limit = f"M{x(0)} {y(rate)}H{x(half)}V{y(rate * change)}H{x(seconds)}"
    parts += [
        f'<path class="mark" d="M{x(half)} {TOP}V{HEIGHT - BOTTOM}"/>',
        f'<text x="{x(half) + 6}" y="{TOP + 10}">the limit is halved</text>',
        f'<path class="limit" d="{limit}"/>',
        f'<polyline class="rate" points="{" ".join(points)}"/>',
    ]
    refused = sorted({x(at - began) for at in traffic.times("refused") if 0 <= at - began <= seconds})
    ticks_of = "".join(f"M{at} {HEIGHT - BOTTOM + 4}v8" for at in refused)
    parts.append(f'<path class="refused" d="{ticks_of}"/>')
    parts += _legend()
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend() -> list[str]:
    entries = [("rate", "accepted a second"), ("limit", "what the server allows"), ("refused", "a 429")]
    parts, at, row = [], LEFT, HEIGHT - 12
    for name, text in entries:
        line = f"M{at + 10} {row - 8}v8" if name == "refused" else f"M{at} {row - 4}h20"
        parts.append(f'<path class="{name}" d="{line}"/><text x="{at + 26}" y="{row}">{text}</text>')
        at += 56 + len(text) * 7
    return parts
