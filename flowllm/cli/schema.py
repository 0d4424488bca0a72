"""flowllm schema."""

from __future__ import annotations

import click

from flowllm.cli.options import debug_option
from flowllm.cli.output import print_json
from flowllm.language.schema import config_schema, workflow_schema


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
