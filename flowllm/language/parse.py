"""A workflow's file to a checked Workflow, or to all its problems at once. Executes and imports nothing."""

from __future__ import annotations

from collections.abc import Mapping as AbstractMapping
from pathlib import Path, PurePath

from flowllm.core.errors import InvalidWorkflow, Problem
from flowllm.core.types import Budget, Limits
from flowllm.language.children import GraphReader, Inherited, WorkflowScope
from flowllm.language.file_keys import WorkflowKeys
from flowllm.language.files import DiskFiles, Files, SnapshotFiles, Sources, absolute
from flowllm.language.inputs import resolve_inputs
from flowllm.language.limits import budget_of, limits_of, parse_budget, parse_limits
from flowllm.language.literals import checked, spellings_of, warn_of_literals
from flowllm.language.nodes import Mapping, Scalar
from flowllm.language.overrides import Overrides, overridden
from flowllm.language.problems import Problems
from flowllm.language.project import (
    Project,
    check_top,
    find_project,
    guarded,
    load_project,
    merged,
    parse_defaults,
    parse_providers,
    read_root,
    section,
)
from flowllm.language.providers import BUILT_IN, check_default
from flowllm.language.values import any_text, plain_text
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
_NO_PROJECT = Project()
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
    problems = Problems()
    sources = Sources(files, problems)
    root = read_root(str(path), "a workflow", sources, problems)
    checked(problems)
    assert root is not None  # noqa: S101 - no root without a problem
    root = overridden(root, overrides, problems)
    parser = _Parser(
        name=str(path),
        root=root,
        sources=sources,
        problems=problems,
        project=project or _NO_PROJECT,
        overrides=overrides,
        strict=strict,
    )
    return parser.workflow()


class _Parser:
    """Reads one workflow; every part adds its problems to the same list."""

    def __init__(
        self,
        *,
        name: str,
        root: Mapping,
        sources: Sources,
        problems: Problems,
        project: Project,
        overrides: Overrides,
        strict: bool,
    ) -> None:
        self._strict = strict
        self._name = name
        self._root = root
        self._sources = sources
        self._problems = problems
        self._project = project
        self._overrides = overrides
        if project.defaults is not None:
            problems.learn(project.defaults.where.file, project.text)
        if project.path:
            problems.learn(project.path, project.text)

    def workflow(self) -> Workflow:
        """The whole."""
        problems, root = self._problems, self._root
        check_top(root, WorkflowKeys, "a workflow", problems)
        providers = self._providers()
        name = section(root, "name", lambda node: guarded(plain_text, node, problems))
        description = section(root, "description", lambda node: guarded(any_text, node, problems))
        scope = WorkflowScope(
            sources=self._sources,
            problems=problems,
            overrides=self._overrides,
            providers=dict(providers),
            strict=self._strict,
        )
        inherited = self._inherited(providers)
        shown = name or PurePath(self._name).stem
        graph = GraphReader(scope, root, inherited).graph(shown, absolute(self._name))
        limits, budget = self._limits(), self._budget()
        scope.tell_modelless()
        files = dict(self._sources.texts)
        if self._project.path:
            files[self._project.path] = self._project.text
        texts = {self._sources.names.get(path, path): text for path, text in files.items()}
        warn_of_literals(texts, problems)
        warnings = checked(problems)
        return Workflow(
            name=shown,
            path=graph.path,
            steps=graph.steps,
            description=description or "",
            inputs=graph.inputs,
            secrets=tuple(scope.secrets),
            providers=scope.providers,
            default_provider=inherited.default_provider,
            limits=limits,
            budget=budget,
            outputs=graph.outputs,
            keep=graph.keep,
            files=files,
            digest=graph.digest,
            literals=spellings_of(texts),
            warnings=warnings,
        )

    def _providers(self) -> dict[str, ProviderSettings]:
        own = section(self._root, "providers", lambda node: parse_providers(node, self._problems)) or {}
        built_in = {name: ProviderSettings(name=name, type=name) for name in BUILT_IN}
        return {**built_in, **self._project.providers, **own}

    def _limits(self) -> Limits | None:
        own = section(self._root, "limits", lambda node: parse_limits(node, self._problems))
        return limits_of(own, self._project.limits)

    def _budget(self) -> Budget | None:
        under = self._project.budget
        own = section(self._root, "budget", lambda node: parse_budget(node, self._problems, under=under))
        return budget_of(own, under)

    def _inherited(self, providers: AbstractMapping[str, ProviderSettings]) -> Inherited:
        """What the outermost graph has from flowllm.yaml and from the workflow's own account."""
        own = section(self._root, "defaults", lambda node: parse_defaults(node, self._problems))
        defaults = self._project.defaults if own is None else merged(self._project.defaults, own)
        named = None if defaults is None else defaults.get("provider")
        guarded(lambda _: check_default(defaults, providers), self._root, self._problems)
        return Inherited(
            defaults=defaults,
            providers=providers,
            default_provider=named.text if isinstance(named, Scalar) else "openai",
            chain=(self._name,),
        )
