"""What the record of a run tells without checking its workflow again."""

from __future__ import annotations

from flowllm.core.types import ROW, StepKind
from flowllm.language.nodes import Mapping, Node
from flowllm.language.problems import Wrong
from flowllm.language.source import parse_yaml
from flowllm.storage.base import RunRecord


def step_kinds(run: RunRecord) -> dict[str, StepKind]:
    """The steps of a run's workflow, in the order of its file, and their kinds; empty if it cannot be read.

    A run of another version, or with settings that are gone, can be shown all the same. A run over the rows of a
    data set has one step, which stands for the whole graph.
    """
    if run.options.get("over") is not None:
        return {ROW: StepKind.WORKFLOW}
    try:
        root = parse_yaml(run.snapshot.get(run.path, ""), run.path)
    except Wrong:
        return {}
    steps = root.get("steps") if isinstance(root, Mapping) else None
    entries = steps.entries if isinstance(steps, Mapping) else ()
    return {entry.key: _kind(entry.value) for entry in entries}


def _kind(step: Node) -> StepKind:
    keys = step.keys() if isinstance(step, Mapping) else {}
    return next((kind for kind in StepKind if kind.value in keys), StepKind.PROMPT)
