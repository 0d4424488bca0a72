"""flowllm init and flowllm schema: a starter project, and the JSON Schemas that editors use for it."""

from __future__ import annotations

from pathlib import Path

import click

from flowllm.cli.failures import say
from flowllm.cli.options import debug_option
from flowllm.cli.output import print_json, results
from flowllm.core.errors import UsageError
from flowllm.reporting.text import json_text, visible
from flowllm.steps.loading import config_schema, workflow_schema

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
    say("try: flowllm run " + visible(str(root / "workflows" / "blog.yaml")))


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
