"""flowllm graph."""

from __future__ import annotations

import os
from collections.abc import Mapping

import click

from flowllm.app.settings import load_settings
from flowllm.cli.options import Location, location_options
from flowllm.cli.output import print_json, results, unicode_output
from flowllm.explain.draw import draw_data, draw_dot, draw_mermaid, draw_text
from flowllm.explain.graph import Graph
from flowllm.explain.svg import draw_svg
from flowllm.steps.loading import load_workflow

FORMATS = ("text", "mermaid", "dot", "svg", "json")


@click.command()
@click.argument("file")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--run", metavar="RUN", help="Mark the statuses that the steps have in this run.")
@location_options
def graph(*, file: str, form: str, run: str | None, location: Location) -> None:
    """Draw the graph of the workflow in FILE; optional dependencies are dotted."""
    settings = load_settings(environ=os.environ, config=location.config)
    drawn = Graph.of(load_workflow(file, project=settings.project))
    statuses = None if run is None else _statuses(run, location)
    if form == "json":
        print_json(draw_data(drawn, statuses))
        return
    draw = {"mermaid": draw_mermaid, "dot": draw_dot, "svg": draw_svg}.get(form)
    text = draw_text(drawn, statuses, ascii_only=not unicode_output()) if draw is None else draw(drawn, statuses)
    results().line(text.rstrip("\n"))


def _statuses(named: str, location: Location) -> Mapping[str, str]:
    # the application brings the database along, which a plain drawing does not need
    from flowllm.app.flowllm import FlowLLM  # noqa: PLC0415
    from flowllm.cli.database import find_run, reading  # noqa: PLC0415

    async def work(app: FlowLLM) -> Mapping[str, str]:
        run = await find_run(app.store, named)
        return {node.node_id: node.status.value for node in await app.store.nodes(run.run_id)}

    return reading(location, work)
