"""Workflows from texts, without the disk."""

from __future__ import annotations

import textwrap

from flowllm.core.errors import Problem
from flowllm.language.parse import Overrides, SnapshotFiles, check, load_workflow
from flowllm.language.project import Project
from flowllm.language.workflow import Workflow

PATH = "/flows/f.yaml"
_NONE = Overrides()


def workflow(
    text: str, *, files: dict[str, str] | None = None, project: Project | None = None, overrides: Overrides = _NONE
) -> Workflow:
    """The workflow of a text; `files` are those beside it, by path relative to it."""
    return load_workflow(PATH, files=_files(text, files), project=project, overrides=overrides)


def problems(
    text: str, *, files: dict[str, str] | None = None, project: Project | None = None, strict: bool = False
) -> list[Problem]:
    """The problems of such a workflow."""
    return check(PATH, files=_files(text, files), project=project, strict=strict)


def _files(text: str, files: dict[str, str] | None) -> SnapshotFiles:
    beside = {f"/flows/{name}": content for name, content in (files or {}).items()}
    return SnapshotFiles({PATH: textwrap.dedent(text), **beside})
