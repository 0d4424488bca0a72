"""flowllm why: why something happened."""

from __future__ import annotations

from shlex import quote

import click

from flowllm.app.flowllm import FlowLLM
from flowllm.cli.database import find_run, reading
from flowllm.cli.options import Location, json_option, location_options
from flowllm.cli.output import located, print_json, results
from flowllm.explain.why import Why
from flowllm.reporting.text import one_line, plural, visible, waits_text


@click.command()
@click.argument("run")
@click.argument("step")
@json_option
@location_options
def why(*, run: str, step: str, as_json: bool, location: Location) -> None:
    """Say why STEP of RUN was carried out again: which part of its request changed, what changed it, and why it waited.

    RUN is an id, its beginning, or `last`.
    """

    async def work(app: FlowLLM) -> Why:
        return await app.why((await find_run(app.store, run)).run_id, step)

    found = reading(location, work)
    if as_json:
        print_json(found.as_dict())
        return
    screen = results()
    screen.line(located(visible(found.text)))
    for change in found.changes:
        screen.line(f"  {visible(change.path)}")
        screen.line(("    - ", "red"), one_line(change.before, 400))
        screen.line(("    + ", "green"), one_line(change.after, 400))
    for cause in found.causes:
        screen.line(f"  because {visible(cause)}")
    leader = found.equal_call or ("", "")
    equal_to = leader[1] if leader[0] in {"", found.run_id} else f"{leader[1]} of run {leader[0]}"
    if waited := waits_text(found.waits, equal_to=equal_to):
        screen.line(f"waited {visible(waited)}")
    if found.hedged:
        what = f"{plural(found.hedged, 'request')} took long, and {'was' if found.hedged == 1 else 'were'}"
        both = f"`flowllm show {found.run_id} {quote(visible(found.step))}` has both attempts"
        screen.line(f"{what} sent twice: {located(both)}")
