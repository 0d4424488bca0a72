"""What the query of a request asks for, checked."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request

from flowllm.core.errors import UsageError
from flowllm.core.types import NodeId, RunId
from flowllm.storage.base import RunRecord

_DIGITS: Final = 15
"""Below 2⁵³."""


async def run_of(request: Request) -> RunRecord:
    """The run that the path names. Raises RunNotFound."""
    found: RunRecord = await request.app.state.store.run(RunId(request.path_params["run_id"]))
    return found


def node_of(request: Request, name: str) -> NodeId:
    """The node that the query names. Raises UsageError."""
    found = request.query_params.get(name)
    if not found:
        raise UsageError(f"the query names no node: `{name}` is missing")
    return NodeId(found)


def number_of(request: Request, name: str, default: int, *, least: int = 0, most: int | None = None) -> int:
    """A whole number in the query, `most` in place of a larger one. Raises UsageError."""
    text = request.query_params.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS and int(text) >= least):
        raise UsageError(f"`{name}` must be a whole number from {least}, not {text[:40]!r}")
    return int(text) if most is None else min(int(text), most)
