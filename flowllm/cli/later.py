"""Commands that a later version has."""

from __future__ import annotations

import click

from flowllm.core.errors import UsageError

_ANYTHING = {"ignore_unknown_options": True, "allow_extra_args": True}


@click.command(hidden=True, context_settings=_ANYTHING)
def ui() -> None:
    """The local web page."""
    raise UsageError("`flowllm ui` is not yet supported", hint="the web page comes in a later version")
