"""Where settings come from: flowllm.yaml, then the environment, then options; the later wins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import NoneType

from flowllm.core.errors import UsageError
from flowllm.core.records import dataclass, replace
from flowllm.core.types import Json
from flowllm.language.files import SnapshotFiles
from flowllm.language.parse import Overrides
from flowllm.language.project import Project, find_project, load_project
from flowllm.language.workflow import Workflow
from flowllm.runtime.options import MaxConcurrent, RunOptions
from flowllm.steps import loading

DEFAULT_DATABASE = ".flowllm/flowllm.db"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What holds for all runs of a process."""

    database: str
    """A path or URL."""
    project: Project
    """What flowllm.yaml gives; empty without one."""
    path: Path | None
    """The flowllm.yaml that was read."""
    environ: Mapping[str, str]

    def complete(self, options: RunOptions) -> RunOptions:
        """The options with what the environment says where they are silent, so that a resume repeats it."""
        given = options.max_concurrent
        if given is not None and given != "auto" and (not isinstance(given, int) or given < 1):
            raise UsageError(f"max_concurrent must be a whole number from 1, or auto, not {given!r}")
        return replace(
            options,
            provider=options.provider or self.environ.get("FLOWLLM_PROVIDER") or None,
            model=options.model or self.environ.get("FLOWLLM_MODEL") or None,
            max_concurrent=given or _whole_or_auto(self.environ, "FLOWLLM_MAX_CONCURRENT"),
            cluster=options.cluster or self.environ.get("FLOWLLM_CLUSTER") or None,
            config=self.project.path or None,
        )


def check_arguments(workflow: object, inputs: object, options: object) -> None:
    """Raises UsageError for what a program gives instead of a workflow, of inputs or of options."""
    if not isinstance(workflow, (str, Path, Mapping, Workflow)):
        raise UsageError(
            f"a workflow is the path of its file, its text, a mapping or a Workflow, not {type(workflow).__name__}",
            hint="write it into a file, such as blog.yaml",
        )
    if not isinstance(inputs, (Mapping, NoneType)):
        raise UsageError(f"inputs are a mapping of names to values, not {type(inputs).__name__}")
    if not isinstance(options, (RunOptions, NoneType)):
        raise UsageError(f"options are RunOptions, not {type(options).__name__}")


def overrides(options: RunOptions) -> Overrides:
    """What of a run's options replaces what the workflow's file says."""
    return Overrides(provider=options.provider, model=options.model, settings=options.settings)


def stored_project(options: RunOptions, snapshot: Mapping[str, str]) -> Project:
    """The flowllm.yaml that a run began with, from its snapshot."""
    if options.config is None or options.config not in snapshot:
        return Project()
    return load_project(options.config, files=SnapshotFiles(snapshot))


def load_settings(
    *, environ: Mapping[str, str], config: str | Path | None = None, database: str | Path | None = None
) -> Settings:
    """Find and read the settings.

    `config` names a flowllm.yaml; otherwise FLOWLLM_CONFIG does, otherwise the nearest one from the working
    directory upwards. Raises InvalidWorkflow for one with problems, UsageError for one that is not there.
    """
    named = config or environ.get("FLOWLLM_CONFIG")
    path = Path(os.path.expanduser(named)) if named else find_project(Path.cwd())  # noqa: PTH111 - never raises
    if named and path is not None and not path.is_file():
        raise UsageError(f"there is no file {path}", hint="--config and FLOWLLM_CONFIG name a flowllm.yaml")
    project = Project() if path is None else load_project(str(path))
    location = database or environ.get("FLOWLLM_DATABASE_URL") or _beside(path, project) or DEFAULT_DATABASE
    return Settings(database=str(location), project=project, path=path, environ=environ)


def load_workflow(source: str | Path | Mapping[str, Json], *, config: str | Path | None = None) -> Workflow:
    """Read and check a workflow, with the flowllm.yaml that a `FlowLLM(config=…)` would find: the path of its file, its text (a
    `str` with a line break), or what that would be as a mapping. Raises what `load_settings` and
    `flowllm.steps.loading.load_workflow` raise."""
    settings = load_settings(environ=os.environ, config=config)
    return loading.load_workflow(source, project=settings.project)


def _beside(path: Path | None, project: Project) -> str | None:
    """A relative path in flowllm.yaml is relative to that file."""
    if path is None or project.database is None:
        return None
    if "://" in project.database:
        return project.database
    return str(path.parent / os.path.expanduser(project.database))  # noqa: PTH111 - never raises


def _whole_or_auto(environ: Mapping[str, str], name: str) -> MaxConcurrent | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{name} must be a whole number from 1, or auto, not {text!r}")
    return int(text)
