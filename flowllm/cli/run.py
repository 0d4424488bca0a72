"""flowllm run."""

from __future__ import annotations

from collections.abc import Sequence

import click

from flowllm.app.flowllm import FlowLLM
from flowllm.app.result import RunResult
from flowllm.cli.inputs import file_inputs, text_inputs
from flowllm.cli.options import Place, json_option, place_options, row_options, what_options
from flowllm.cli.session import wait_for
from flowllm.cli.sitting import Shown, carry_out
from flowllm.core.cancel import StopSignal
from flowllm.core.errors import UsageError
from flowllm.reporting.base import Observer
from flowllm.runtime.options import RunOptions


@click.command()
@click.argument("file")
@what_options
@row_options
@click.option("--events", metavar="FILE", help="Append each event to this file, as a line of JSON.")
@json_option
@click.option("--full", is_flag=True, help="With --json: all items of long outputs.")
@click.option("--quiet", "-q", is_flag=True, help="No progress; only results, notices and errors.")
@place_options
def run(
    *,
    file: str,
    options: RunOptions,
    input_pairs: Sequence[str],
    inputs_file: str | None,
    events: str | None,
    as_json: bool,
    full: bool,
    quiet: bool,
    place: Place,
) -> int:
    """Run the workflow in FILE.

    Its outputs go to standard output, progress and the summary to standard error.

    \b
      flowllm run blog.yaml -i topic="Green tea"
      flowllm run blog.yaml -i topic=@topic.txt --json > result.json
      flowllm run blog.yaml --provider simulated
      flowllm run translate.yaml --over texts.csv --output translated.jsonl
    """  # noqa: D301 - \b is click's mark for lines that are kept as they are
    if as_json and options.output == "-":
        raise UsageError("--json and --output - both write to standard output", hint="name a file with --output")
    inputs, texts = file_inputs(inputs_file), text_inputs(input_pairs)

    async def start(app: FlowLLM, observers: Sequence[Observer], stop: StopSignal) -> RunResult:
        return await app.run(
            file, inputs=inputs, input_text=texts, options=options, observers=observers, stop=stop, claims=claims
        )

    shown = Shown(as_json=as_json, full=full, quiet=quiet, events=events, grace=options.grace)
    claims = shown.claims(inputs_file, input_pairs)
    return wait_for(carry_out(place, shown, start))
