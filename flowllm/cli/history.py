"""What the record of a run tells without checking its workflow again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowllm.spec.nodes import Mapping
from flowllm.spec.problems import Wrong
from flowllm.spec.source import parse_yaml

if TYPE_CHECKING:
    from flowllm.store.base import RunRecord


def step_order(run: RunRecord) -> list[str]:
    """The steps of a run's workflow in the order of its file; empty if the snapshot cannot be read.

    A run of another version, or with settings that are gone, can be shown all the same.
    """
    try:
        root = parse_yaml(run.snapshot.get(run.path, ""), run.path)
    except Wrong:
        return []
    steps = root.get("steps") if isinstance(root, Mapping) else None
    return list(steps.keys()) if isinstance(steps, Mapping) else []
