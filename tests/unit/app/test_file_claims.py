"""What a run reads and writes, found without working out who waits for whom of all steps."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest

from flowllm.app.prepare import claim_files
from flowllm.core.errors import UsageError
from flowllm.runtime.options import RunOptions
from tests.support.workflows import workflow


def test_a_long_chain_takes_memory_in_proportion() -> None:
    names = [f"s{number}" for number in range(1500)]
    steps = [f"{name}: {{needs: [{before}], value: 1}}" for before, name in pairwise(names)]
    checked = workflow(f"steps: {{s0: {{value: 1}}, {', '.join(steps)}}}")
    tracemalloc.start()
    try:
        claim_files(None, checked, RunOptions(), {}, database=None)
        assert tracemalloc.get_traced_memory()[1] < 1500 * 2000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("writer", "reader", "well"),
    [
        ("write: {value: x, save: FILE}", "read: {needs: [write], foreach: {file: FILE}, value: 1}", True),
        (
            "write: {workflow: {steps: {in_it: {value: x, save: FILE}}}}, middle: {needs: [write], value: 1}",
            "read: {needs: [middle], workflow: {steps: {inner: {foreach: {file: FILE}, value: 1}}}}",
            True,
        ),
        (
            "before: {value: 1}",
            "both: {workflow: {steps: {write: {value: x, save: FILE}, INNER}}}".replace(
                "INNER", "read: {needs: [write], foreach: {file: FILE}, value: 1}"
            ),
            True,
        ),
        ("write: {value: x, save: FILE}", "read: {foreach: {file: FILE}, value: 1}", False),
        ("write: {needs: [read], value: x, save: FILE}", "read: {foreach: {file: FILE}, value: 1}", False),
        (
            "write: {workflow: {steps: {in_it: {value: x, save: FILE}}}}",
            "read: {workflow: {steps: {in_it: {foreach: {file: FILE}, value: 1}}}}",
            False,
        ),
    ],
)
def test_a_step_may_read_what_one_that_it_waits_for_writes(
    writer: str, reader: str, well: bool, tmp_path: Path
) -> None:
    text = f"steps: {{{writer}, {reader}}}".replace("FILE", str(tmp_path / "rows.txt"))
    checked = workflow(text)
    if well:
        claim_files(None, checked, RunOptions(), {}, database=None)
    else:
        with pytest.raises(UsageError, match="would write over a file that step"):
            claim_files(None, checked, RunOptions(), {}, database=None)


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_what_is_no_name_of_a_file_is_told_by_the_step_that_uses_it(name: str) -> None:
    checked = workflow(
        "inputs: {name: }\n"
        "steps: {save: {value: x, save: '{{ inputs.name }}'}, "
        "rows: {foreach: {file: '{{ inputs.name }}'}, value: 1}, "
        "see: {prompt: x, model: m, images: '{{ inputs.name }}'}}"
    )
    claim_files(None, checked, RunOptions(), {"name": name}, database=None)
