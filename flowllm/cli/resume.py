"""flowllm resume."""

from __future__ import annotations

from collections.abc import Sequence

import click

from flowllm.app.flowllm import FlowLLM
from flowllm.app.result import RunResult
from flowllm.cli.inputs import file_inputs, mended_lines, text_inputs
from flowllm.cli.options import Place, budget_option, input_options, json_option, place_options
from flowllm.cli.session import LAST, find_run, wait_for
from flowllm.cli.sitting import Shown, carry_out
from flowllm.core.cancel import StopSignal
from flowllm.reporting.base import Observer


@click.command()
@click.argument("run", required=False)
@click.option("--file", metavar="FILE", help="Take the workflow as it is in this file now.")
@input_options
@click.option(
    "--mended",
    metavar="FILE",
    help="Lines of `flowllm failed`, mended: go on with their items in place of those that failed; - is standard input.",
)
@click.option("--retry-failed", is_flag=True, help="Also what failed under `on_error: continue`, and its dependents.")
@click.option("--until", metavar="STEP", help="Only this step and what it needs.")
@budget_option
@click.option("--events", metavar="FILE", help="Append each event to this file, as a line of JSON.")
@json_option
@click.option("--full", is_flag=True, help="With --json: all items of long outputs.")
@click.option("--quiet", "-q", is_flag=True, help="No progress; only results, notices and errors.")
@place_options
def resume(
    *,
    run: str | None,
    file: str | None,
    input_pairs: Sequence[str],
    inputs_file: str | None,
    mended: str | None,
    retry_failed: bool,
    until: str | None,
    budget: dict[str, float],
    events: str | None,
    as_json: bool,
    full: bool,
    quiet: bool,
    place: Place,
) -> int:
    """Go on with RUN, or with the newest run that has not succeeded.

    What succeeded is kept; everything else is carried out. RUN is an id, its beginning, or `last`. With --file, -i or
    --inputs the inputs it was given hold still, under those that are given now; others have the defaults of the file.

    \b
      flowllm failed last > letters.jsonl      # then mend the lines
      flowllm resume last --mended letters.jsonl
    """  # noqa: D301 - \b is click's mark for lines that are kept as they are
    inputs, texts = file_inputs(inputs_file), text_inputs(input_pairs)
    letters = [] if mended is None else mended_lines(mended)

    async def start(app: FlowLLM, observers: Sequence[Observer], stop: StopSignal) -> RunResult:
        named = (await find_run(app.store, run)).run_id if run == LAST else run
        return await app.resume(
            named,
            file=file,
            inputs=inputs,
            input_text=texts,
            mended=letters,
            retry_failed=retry_failed,
            until=until,
            budget=budget,
            observers=observers,
            stop=stop,
            claims=claims,
        )

    shown = Shown(as_json=as_json, full=full, quiet=quiet, events=events)
    claims = shown.claims(inputs_file, input_pairs, mended)
    return wait_for(carry_out(place, shown, start))
