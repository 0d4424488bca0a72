"""A workflow's file to a checked Workflow, or to all its problems at once. Executes and imports nothing."""

from __future__ import annotations

from pathlib import Path

from flowllm.core.errors import InvalidWorkflow, Problem
from flowllm.language.advice import check_hedges
from flowllm.language.file_keys import WorkflowKeys
from flowllm.language.files import DiskFiles, Files, SnapshotFiles, Sources
from flowllm.language.graphs import GraphReader, WorkflowScope
from flowllm.language.inputs import resolve_inputs
from flowllm.language.kinds import BUILT_IN, Inherited
from flowllm.language.literals import checked, spellings_of, warn_of_literals
from flowllm.language.overrides import Overrides
from flowllm.language.problems import Problems
from flowllm.language.project import Project, budget_of, find_project, limits_of, load_project, parse_budget, read_root
from flowllm.language.workflow import ProviderSettings, Workflow

__all__ = [
    "DiskFiles",
    "Files",
    "Overrides",
    "Project",
    "SnapshotFiles",
    "check",
    "find_project",
    "load_project",
    "load_workflow",
    "resolve_inputs",
]

_DISK = DiskFiles()
_NO_OVERRIDES = Overrides()


def check(
    path: str | Path,
    *,
    files: Files = _DISK,
    project: Project | None = None,
    overrides: Overrides = _NO_OVERRIDES,
    strict: bool = False,
) -> list[Problem]:
    """All problems of a workflow's file and of those it reads, in order of place; empty if it is right."""
    try:
        load_workflow(path, files=files, project=project, overrides=overrides, strict=strict)
    except InvalidWorkflow as invalid:
        return list(invalid.problems)
    return []


def load_workflow(
    path: str | Path,
    *,
    files: Files = _DISK,
    project: Project | None = None,
    overrides: Overrides = _NO_OVERRIDES,
    strict: bool = False,
) -> Workflow:
    """Read and check a workflow.

    `path` is also how places name the file. `strict`: what is certain to fail when it is rendered is a problem, not only
    a warning. Raises InvalidWorkflow with all problems at once, and
    UsageError if an override names a step or an option that does not exist.
    """
    name, problems, project = str(path), Problems(), project or Project()
    sources = Sources(files, problems)
    root = read_root(name, "a workflow", sources, problems)
    checked(problems)
    assert root is not None  # noqa: S101 - no root without a problem
    if project.defaults is not None:
        problems.learn(project.defaults.where.file, project.text)
    if project.path:
        problems.learn(project.path, project.text)
    built_in = {name: ProviderSettings(name=name, type=name) for name in BUILT_IN}
    scope = WorkflowScope(sources=sources, overrides=overrides, strict=strict)
    around = Inherited(defaults=project.defaults, providers=built_in | dict(project.providers), chain=(name,))
    reader = GraphReader.open(root, "a workflow", scope, around)
    graph = reader.graph()
    limits = limits_of(reader.top.get("limits", WorkflowKeys.limits.value), project.limits)
    budget = reader.top.get("budget", lambda node: parse_budget(node, under=project.budget))
    scope.add_modelless()
    own = {name: settings.limits for name, settings in scope.providers.items()}
    check_hedges(scope.hedged, (own, {reader.default_provider: limits}), problems)
    files_read = dict(sources.texts)
    if project.path:
        files_read[project.path] = project.text
    texts = {sources.names.get(path, path): text for path, text in files_read.items()}
    warn_of_literals(texts, problems)
    warnings = checked(problems)
    return Workflow(
        name=graph.name,
        path=graph.path,
        steps=graph.steps,
        description=reader.description,
        inputs=graph.inputs,
        secrets=tuple(scope.secrets),
        providers=scope.providers,
        default_provider=reader.default_provider,
        limits=limits,
        budget=budget_of(budget, project.budget),
        outputs=graph.outputs,
        keep=graph.keep,
        files=files_read,
        digest=graph.digest,
        literals=spellings_of(texts),
        warnings=warnings,
    )
