"""Routes of a node, of items and of what is downloaded."""

from __future__ import annotations

from starlette.routing import Route

ROUTES: list[Route] = []
