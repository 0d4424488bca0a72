"""Which steps a run has, by the file that is kept with it."""

from __future__ import annotations

from flowllm.core.types import ROW, StepKind
from flowllm.language.kinds import kinds
from flowllm.language.nodes import Mapping as YamlMapping
from flowllm.language.problems import SourceError
from flowllm.language.source import parse_yaml
from flowllm.storage.base import RunRecord


def step_kinds(run: RunRecord) -> dict[str, StepKind]:
    """The steps of a run's workflow and their kinds, in the order of its file, without checking the workflow again: a run
    of another version, or with settings that are gone, can be shown all the same. Empty if the file cannot be read.

    A run over the rows of a data set has one step, which stands for the whole graph.
    """
    if run.options.get("over") is not None:
        return {ROW: StepKind.WORKFLOW}
    try:
        root = parse_yaml(run.snapshot.get(run.path, ""), run.path)
    except SourceError:
        return {}
    steps = root.get("steps") if isinstance(root, YamlMapping) else None
    found = {}
    for entry in steps.entries if isinstance(steps, YamlMapping) else ():
        keys = entry.value.keys() if isinstance(entry.value, YamlMapping) else {}
        found[entry.key] = next((spec.kind for key, spec in kinds().items() if key in keys), StepKind.PROMPT)
    return found
