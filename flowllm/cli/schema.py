"""flowllm schema."""

from __future__ import annotations

import click

from flowllm.cli.options import debug_option
from flowllm.cli.output import print_json
from flowllm.spec.schema import workflow_schema


@click.command()
@debug_option
def schema() -> None:
    """Print the JSON Schema of workflow files, for editors."""
    print_json(workflow_schema())
