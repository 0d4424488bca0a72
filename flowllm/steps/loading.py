"""What needs all kinds of steps: to import a module of this package registers them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from flowllm.core.errors import UsageError
from flowllm.core.types import IN_MEMORY, Json
from flowllm.language import parse
from flowllm.language.files import DiskFiles, Files, TextFiles, absolute
from flowllm.language.overrides import Overrides
from flowllm.language.project import Project
from flowllm.language.schema import config_schema, workflow_schema
from flowllm.language.workflow import Workflow

__all__ = ["config_schema", "load_workflow", "workflow_schema"]

_DISK = DiskFiles()
_NO_OVERRIDES = Overrides()


def load_workflow(
    source: str | Path | Mapping[str, Json],
    *,
    files: Files = _DISK,
    project: Project | None = None,
    overrides: Overrides = _NO_OVERRIDES,
    strict: bool = False,
) -> Workflow:
    """Read and check a workflow: the path of its file, its text (a `str` with a line break), or what that would be as a
    mapping.

    Places in a text are those of `<workflow>`, a mapping is written out as JSON before; paths in both are relative to the
    working directory. Otherwise as `flowllm.language.parse.load_workflow`. Raises InvalidWorkflow with all problems at
    once, and UsageError for a mapping that JSON cannot hold, or an override of what does not exist.
    """
    text = _text_of(source)
    if text is not None:
        source, files = IN_MEMORY, TextFiles({absolute(IN_MEMORY): text}, files)
    return parse.load_workflow(str(source), files=files, project=project, overrides=overrides, strict=strict)


def _text_of(source: str | Path | Mapping[str, Json]) -> str | None:
    if isinstance(source, str):
        return source if "\n" in source else None
    if isinstance(source, Path):
        return None
    try:
        return json.dumps(dict(source), ensure_ascii=False, allow_nan=False, indent=2)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"this mapping is no workflow: {error}",
            hint="texts, numbers, booleans, null, lists and mappings can be in it",
        ) from None
