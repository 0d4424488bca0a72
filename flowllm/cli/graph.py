"""flowllm graph."""

from __future__ import annotations

import os
from collections.abc import Mapping

import click

from flowllm.app.settings import load_settings
from flowllm.cli.options import Place, place_options
from flowllm.cli.output import print_json, results, unicode_output
from flowllm.explain.draw import draw_data, draw_dot, draw_mermaid, draw_text
from flowllm.explain.graph import Graph
from flowllm.explain.svg import draw_svg
from flowllm.language.parse import load_workflow

FORMATS = ("text", "mermaid", "dot", "svg", "json")


@click.command()
@click.argument("file")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--run", metavar="RUN", help="Mark the statuses that the steps have in this run.")
@place_options
def graph(*, file: str, form: str, run: str | None, place: Place) -> None:
    """Draw the graph of the workflow in FILE; optional dependencies are dotted."""
    settings = load_settings(environ=os.environ, config=place.config)
    drawn = Graph.of(load_workflow(file, project=settings.project))
    statuses = None if run is None else _statuses(run, place)
    match form:
        case "json":
            print_json(draw_data(drawn, statuses))
        case "mermaid":
            _print(draw_mermaid(drawn, statuses))
        case "dot":
            _print(draw_dot(drawn, statuses))
        case "svg":
            _print(draw_svg(drawn, statuses))
        case _:
            _print(draw_text(drawn, statuses, ascii_only=not unicode_output()))


def _print(text: str) -> None:
    results().line(text.rstrip("\n"))


def _statuses(named: str, place: Place) -> Mapping[str, str]:
    # the application brings the database along, which a plain drawing does without
    from flowllm.cli.session import find_run, open_to_read, wait_for  # noqa: PLC0415

    async def work() -> Mapping[str, str]:
        async with open_to_read(place) as app:
            run = await find_run(app.store, named)
            return {node.node_id: node.status.value for node in await app.store.nodes(run.run_id)}

    return wait_for(work())
