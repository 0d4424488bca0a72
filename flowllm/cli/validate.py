"""flowllm validate. Imports neither the application nor any client, and runs nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from flowllm.cli.failures import say
from flowllm.cli.options import debug_option, json_option
from flowllm.cli.output import print_json, results
from flowllm.config import load_settings
from flowllm.errors import InvalidWorkflow
from flowllm.observers.text import plural, visible
from flowllm.spec.parse import load_workflow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowllm.errors import Problem
    from flowllm.types import Json


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--config", metavar="FILE", help="A flowllm.yaml  [default: the nearest one upwards]")
@json_option
@debug_option
def validate(*, files: Sequence[str], config: str | None, as_json: bool) -> int:
    """Check workflow FILEs: every problem of every file, with line and column. Runs nothing."""
    project = load_settings(environ=os.environ, config=config).project
    problems: dict[str, tuple[Problem, ...]] = {}
    for file in files:
        try:
            load_workflow(file, project=project)
            problems[file] = ()
        except InvalidWorkflow as error:
            problems[file] = error.problems
    if as_json:
        print_json(
            [{"file": file, "problems": [_data(one) for one in found]} for file, found in problems.items()]
        )
    else:
        _tell(problems)
    return 2 if any(problems.values()) else 0


def _tell(problems: dict[str, tuple[Problem, ...]]) -> None:
    for file, found in problems.items():
        for problem in found:
            say(visible(str(problem)))
        if not found:
            results().line(f"{visible(file)}: ok")
    if total := sum(len(found) for found in problems.values()):
        say(plural(total, "problem"))


def _data(problem: Problem) -> dict[str, Json]:
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "message": problem.message,
        "hint": problem.hint,
        "step": problem.step or None,
    }
