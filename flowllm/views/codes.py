"""Statuses in one letter, as the grid of items and its changes have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from flowllm.core.types import NodeStatus

NOT_BEGUN: Final = "."
CODES: Final[Mapping[NodeStatus, str]] = {
    NodeStatus.PENDING: NOT_BEGUN,
    NodeStatus.SUCCEEDED: "s",
    NodeStatus.FAILED: "f",
    NodeStatus.RUNNING: "r",
    NodeStatus.WAITING: "w",
    NodeStatus.CANCELLED: "c",
    NodeStatus.SKIPPED: "k",
    NodeStatus.BLOCKED: "b",
}
