"""flowllm validate, graph, schema and init: what needs a workflow's file alone. Imports neither the application nor any
client."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote

import click

from flowllm.app.settings import load_settings
from flowllm.cli.options import Location, config_option, debug_option, json_option, location_options
from flowllm.cli.output import print_json, results, say, unicode_output
from flowllm.core.errors import InvalidWorkflow, Problem, UsageError, sorted_problems
from flowllm.core.records import dataclass, replace
from flowllm.core.types import Json
from flowllm.explain.draw import draw_data, draw_dot, draw_mermaid, draw_text
from flowllm.explain.graph import Graph
from flowllm.explain.svg import draw_svg
from flowllm.language.files import DiskFiles, Unreadable, absolute
from flowllm.language.project import Project
from flowllm.language.workflow import Subgraph, Workflow, WorkflowBody
from flowllm.reporting.text import json_text, plural, visible
from flowllm.steps.loading import config_schema, load_workflow, workflow_schema

_FOLDERS = 3
"""The folder of a file, and those above it, that are searched for workflows of which it is a step."""
_MOST_NEIGHBOURS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """What was found in one file."""

    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    workflow: Workflow | None = None
    parent: str = ""
    """The workflow of which it is a step, where only that gives it what it needs."""


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@config_option
@json_option
@debug_option
def validate(*, files: Sequence[str], config: str | None, as_json: bool) -> int:
    """Check workflow FILEs: every problem of every file, with line and column. Runs nothing.

    A warning changes nothing else: the exit code is that of a file without problems.
    """
    project = load_settings(environ=os.environ, config=config).project
    found = {file: _check(file, project) for file in files}
    found = {file: _completed(file, checked, found, project) for file, checked in found.items()}
    if as_json:
        print_json([_data(file, checked) for file, checked in found.items()])
    else:
        _print_problems(found)
    return 2 if any(checked.problems for checked in found.values()) else 0


def _check(file: str, project: Project) -> _Checked:
    try:
        workflow = load_workflow(file, project=project, files=DiskFiles(data=True), strict=True)
    except InvalidWorkflow as error:
        return _Checked(problems=error.problems, warnings=error.warnings)
    return _Checked(workflow=workflow, warnings=workflow.warnings)


def _completed(file: str, checked: _Checked, found: dict[str, _Checked], project: Project) -> _Checked:
    """A file that lacks nothing as a step of a valid workflow, such as the model that it inherits, is right."""
    if not checked.problems or not Path(file).is_file():
        return checked
    for name, other in found.items():
        if other.workflow is not None and _has_step(other.workflow, file):
            return replace(checked, problems=(), parent=name)
    for name in _neighbours(file):
        workflow = _check(name, project).workflow
        if workflow is not None and _has_step(workflow, file):
            return replace(checked, problems=(), parent=name)
    return checked


def _neighbours(file: str) -> Iterator[str]:
    """Files around that name this one."""
    folder = Path(absolute(file)).parent
    above = [folder, *folder.parents][:_FOLDERS]
    paths = [path for one in above for path in sorted(one.glob("*.y*ml"))]
    for path in paths[:_MOST_NEIGHBOURS]:
        try:
            if str(path) != absolute(file) and Path(file).name in DiskFiles().read(str(path)):
                yield os.path.relpath(path)
        except Unreadable:
            continue


def _has_step(workflow: Workflow, file: str) -> bool:
    return absolute(file) in set(_paths(workflow)) - {workflow.path}


def _paths(graph: Subgraph) -> Iterator[str]:
    """The files of a graph and of all within it."""
    yield graph.path
    for step in graph.steps.values():
        if isinstance(step.body, WorkflowBody):
            yield from _paths(step.body.graph)


def _print_problems(found: dict[str, _Checked]) -> None:
    shown: dict[Problem, None] = {}
    """In order; those of flowllm.yaml come with each file."""
    for file, checked in found.items():
        for problem in sorted_problems((*checked.problems, *checked.warnings)):
            if problem not in shown:
                say(visible(str(problem)))
            shown[problem] = None
        if not checked.problems:
            within = f" (as a step of {visible(checked.parent)})" if checked.parent else ""
            results().line(f"{visible(file)}: ok{within}")
    counts = (
        ("problem", sum(not problem.warning for problem in shown)),
        ("warning", sum(problem.warning for problem in shown)),
    )
    if any(count for _, count in counts):
        say(", ".join(plural(count, what) for what, count in counts if count))


def _data(file: str, checked: _Checked) -> dict[str, Json]:
    found = sorted_problems((*checked.problems, *checked.warnings))
    return {"file": file, "problems": [_problem(problem) for problem in found]}


def _problem(problem: Problem) -> dict[str, Json]:
    return {
        "severity": "warning" if problem.warning else "error",
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "message": problem.message,
        "hint": problem.hint,
        "step": problem.step or None,
    }


FORMATS = ("text", "mermaid", "dot", "svg", "json")


@click.command()
@click.argument("file")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--run", metavar="RUN", help="Mark the statuses that the steps have in this run.")
@location_options
def graph(*, file: str, form: str, run: str | None, location: Location) -> None:
    """Draw the graph of the workflow in FILE; optional dependencies are dotted."""
    settings = load_settings(environ=os.environ, config=location.config)
    drawn = Graph.of(load_workflow(file, project=settings.project))
    statuses = None if run is None else _statuses(run, location)
    if form == "json":
        print_json(draw_data(drawn, statuses))
        return
    draw = {"mermaid": draw_mermaid, "dot": draw_dot, "svg": draw_svg}.get(form)
    text = draw_text(drawn, statuses, ascii_only=not unicode_output()) if draw is None else draw(drawn, statuses)
    results().line(text.rstrip("\n"))


def _statuses(named: str, location: Location) -> Mapping[str, str]:
    # the application brings the database along, which a plain drawing does not need
    from flowllm.app.flowllm import FlowLLM  # noqa: PLC0415
    from flowllm.cli.database import find_run, reading  # noqa: PLC0415

    async def work(app: FlowLLM) -> Mapping[str, str]:
        run = await find_run(app.store, named)
        return {node.node_id: node.status.value for node in await app.store.nodes(run.run_id)}

    return reading(location, work)


SCHEMA_NAME = "flowllm.schema.json"
STARTER = Path(__file__).with_name("starter")


def starter_files() -> dict[str, str]:
    """Relative path to text of every file of the starter project."""
    return {
        "workflows/blog.yaml": (STARTER / "blog.yaml").read_text(encoding="utf-8"),
        f"workflows/{SCHEMA_NAME}": json_text(workflow_schema(), ascii_only=True) + "\n",
        "flowllm.yaml": (STARTER / "flowllm.yaml").read_text(encoding="utf-8"),
        ".gitignore": ".flowllm/\n",
    }


@click.command()
@click.argument("folder", default=".")
@debug_option
def init(*, folder: str) -> None:
    """Write a starter project into FOLDER (here, by default). A file that exists is left as it is."""
    root = Path(folder)
    try:
        for name, text in starter_files().items():
            _write(root / name, text)
    except OSError as error:
        raise UsageError(f"cannot write to {root}: {error.strerror or error}") from error
    say("try: flowllm run " + quote(visible(str(root / "workflows" / "blog.yaml"))))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        say(f"kept {visible(str(path))}: it exists")
    else:
        results().line(f"wrote {visible(str(path))}")


@click.command()
@click.option(
    "--for",
    "of",
    type=click.Choice(["workflow", "config"]),
    default="workflow",
    show_default=True,
    help="What the schema is of: a workflow's file, or flowllm.yaml.",
)
@debug_option
def schema(*, of: str) -> None:
    """Print the JSON Schema of workflow files or of flowllm.yaml, for editors."""
    print_json(config_schema() if of == "config" else workflow_schema())
