"""Commands that a later version has."""

from __future__ import annotations

import click

from flowllm.cli.options import not_yet

_ANYTHING = {"ignore_unknown_options": True, "allow_extra_args": True}


@click.command(hidden=True, context_settings=_ANYTHING)
def failed() -> None:
    """Dead letters of data sets."""
    not_yet("`flowllm failed`")


@click.command(hidden=True, context_settings=_ANYTHING)
def ui() -> None:
    """The local web page."""
    not_yet("`flowllm ui`")
