"""A workflow's file to a checked Workflow, or to all its problems at once. Executes and imports nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING

from flowllm.errors import InvalidWorkflow
from flowllm.spec.compiling import Compiler
from flowllm.spec.cycles import cycles
from flowllm.spec.files import DiskFiles, Files, SnapshotFiles, Sources, absolute
from flowllm.spec.inputs import parse_inputs, resolve_inputs
from flowllm.spec.limits import budget_of, capped, limits_of, parse_budget, parse_limits
from flowllm.spec.llm import SIMULATED, check_provider
from flowllm.spec.model import WorkflowShape
from flowllm.spec.nodes import Mapping, Scalar, Sequence, kind_of
from flowllm.spec.overrides import Overrides, overridden
from flowllm.spec.problems import Problems
from flowllm.spec.project import (
    AUTO,
    BUILT_IN,
    Project,
    check_top,
    entries_of,
    find_project,
    guarded,
    load_project,
    merged,
    parse_defaults,
    parse_providers,
    read_root,
    section,
)
from flowllm.spec.readers import ENVIRONMENT_NAME, any_text, name_list, plain_text
from flowllm.spec.steps import Surroundings, parse_step
from flowllm.spec.template import Names
from flowllm.spec.workflow import Output, ProviderSettings, Workflow
from flowllm.types import Limits, StepId

if TYPE_CHECKING:
    from collections.abc import Mapping as AbstractMapping
    from pathlib import Path

    from flowllm.errors import Problem
    from flowllm.spec.nodes import Entry, Node
    from flowllm.spec.reference import Location
    from flowllm.types import Budget

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
) -> list[Problem]:
    """All problems of a workflow's file and of those it reads, in order of place; empty if it is right."""
    try:
        load_workflow(path, files=files, project=project, overrides=overrides)
    except InvalidWorkflow as invalid:
        return list(invalid.problems)
    return []


def load_workflow(
    path: str | Path,
    *,
    files: Files = _DISK,
    project: Project | None = None,
    overrides: Overrides = _NO_OVERRIDES,
) -> Workflow:
    """Read and check a workflow.

    `path` is also how places name the file. Raises InvalidWorkflow with all problems at once, and
    UsageError if an override names a step or an option that does not exist.
    """
    problems = Problems()
    sources = Sources(files, problems)
    root = read_root(str(path), "a workflow", sources, problems)
    problems.check()
    assert root is not None  # noqa: S101 - no root without a problem
    root = overridden(root, overrides, problems)
    parser = _Parser(
        name=str(path),
        root=root,
        sources=sources,
        problems=problems,
        project=project or _NO_PROJECT,
        overrides=overrides,
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
    ) -> None:
        self._name = name
        self._root = root
        self._sources = sources
        self._problems = problems
        self._project = project
        self._overrides = overrides
        if project.defaults is not None:
            problems.learn(project.defaults.where.file, project.text)

    def workflow(self) -> Workflow:
        """The whole."""
        problems, root = self._problems, self._root
        check_top(root, WorkflowShape, "a workflow", problems)
        providers = self._providers()
        name = section(root, "name", lambda node: guarded(plain_text, node, problems))
        description = section(root, "description", lambda node: guarded(any_text, node, problems))
        inputs = parse_inputs(root.get("inputs"), problems)
        secrets = tuple(secret.text for secret in self._secrets())
        entries = self._step_entries()
        names = Names(
            inputs=frozenset(inputs),
            steps=frozenset(entry.key for entry in entries),
            secrets=frozenset(secrets),
        )
        around = self._surroundings(names, providers)
        steps = {StepId(entry.key): parse_step(entry, around) for entry in entries}
        outputs = self._outputs(names)
        limits, budget = self._limits(), self._budget()
        known = {step_id: step for step_id, step in steps.items() if step is not None}
        self._check_cycles(around.waits)
        problems.check()
        return Workflow(
            name=name or PurePath(self._name).stem,
            path=absolute(self._name),
            steps=known,
            description=description or "",
            inputs=inputs,
            secrets=secrets,
            providers=self._capped(providers, around.default_provider),
            default_provider=around.default_provider,
            limits=limits,
            budget=budget,
            outputs=outputs,
            files={
                **self._sources.texts,
                **({self._project.path: self._project.text} if self._project.path else {}),
            },
        )

    def _secrets(self) -> tuple[Scalar, ...]:
        read = name_list(ENVIRONMENT_NAME, "the name of an environment variable")
        return section(self._root, "secrets", lambda node: guarded(read, node, self._problems)) or ()

    def _providers(self) -> dict[str, ProviderSettings]:
        own = section(self._root, "providers", lambda node: parse_providers(node, self._problems)) or {}
        built_in = {name: ProviderSettings(name=name, type=name) for name in BUILT_IN}
        return {**built_in, **self._project.providers, **own}

    def _capped(
        self, providers: dict[str, ProviderSettings], default_provider: str
    ) -> dict[str, ProviderSettings]:
        """The providers under `max_concurrent`; those that the workflow's own limits are for have theirs there."""
        most = self._overrides.max_concurrent
        if most is None:
            return providers
        default = BUILT_IN if default_provider == AUTO else (default_provider,)
        return {
            name: settings
            if settings.limits is None and name in default
            else replace(settings, limits=capped(settings.limits or Limits(), most))
            for name, settings in providers.items()
        }

    def _limits(self) -> Limits | None:
        own = section(self._root, "limits", lambda node: parse_limits(node, self._problems))
        limits = limits_of(own, self._project.limits)
        most = self._overrides.max_concurrent
        return limits if most is None else capped(limits or Limits(), most)

    def _budget(self) -> Budget | None:
        under = self._project.budget
        own = section(self._root, "budget", lambda node: parse_budget(node, self._problems, under=under))
        return budget_of(own, under)

    def _surroundings(self, names: Names, providers: AbstractMapping[str, ProviderSettings]) -> Surroundings:
        own = section(self._root, "defaults", lambda node: parse_defaults(node, self._problems))
        defaults = self._project.defaults if own is None else merged(self._project.defaults, own)
        named = None if defaults is None else defaults.get("provider")
        around = Surroundings(
            names=names,
            sources=self._sources,
            problems=self._problems,
            defaults=defaults,
            providers=providers,
            default_provider=named.text if isinstance(named, Scalar) else "openai",
            simulate=self._overrides.provider == SIMULATED,
        )
        if isinstance(named, Scalar):
            guarded(lambda _: check_provider(named, around), named, self._problems)
        return around

    def _step_entries(self) -> tuple[Entry, ...]:
        node: Node | None = self._root.get("steps")
        if node is None:
            self._problems.add(self._root.where, "a workflow has `steps`, this one has none", "add `steps:`")
        elif not isinstance(node, Mapping):
            hint = (
                "write `id:` before each step, without a dash"
                if isinstance(node, Sequence)
                else "write `id: {prompt: …}`"
            )
            self._problems.add(
                node.where, f"`steps` is a mapping of ids to steps, this is {kind_of(node)}", hint
            )
        elif not node.entries:
            self._problems.add(node.where, "`steps` is empty", "add a step: `id: {prompt: …}`")
        else:
            return node.entries
        return ()

    def _outputs(self, names: Names) -> dict[str, Output]:
        node = self._root.get("outputs")
        outputs = {}
        for entry in () if node is None else entries_of(node, "outputs", self._problems):
            compiler = Compiler(names=names, sources=self._sources, problems=self._problems)
            value = compiler.value(entry.value)
            outputs[entry.key] = Output(name=entry.key, value=value, edges=compiler.edges())
        return outputs

    def _check_cycles(self, waits: AbstractMapping[str, tuple[Location, list[str]]]) -> None:
        for cycle in cycles({step: after for step, (_, after) in waits.items()}):
            path = " → ".join(f"{step} (line {waits[step][0].line})" for step in cycle)
            self._problems.add(
                waits[cycle[0]][0],
                f"these steps wait for each other: {path} → {cycle[0]}",
                "an arrow points at the step that is waited for; take one of them away",
                step=cycle[0],
            )
