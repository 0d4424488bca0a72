"""Routes of the graph, the timeline and the gauges."""

from __future__ import annotations

from starlette.routing import Route

ROUTES: list[Route] = []
