"""The entry point: which commands there are, and how errors are told. Imports nothing heavy."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import click

from flowllm import __version__
from flowllm.cli.failures import guarded
from flowllm.cli.lazy import Entry, LazyGroup
from flowllm.cli.options import Globals, debug_option
from flowllm.cli.start import settle
from flowllm.cli.streams import open_streams


def _entry(module: str, attribute: str, text: str) -> Entry:
    return Entry(module=f"flowllm.cli.{module}", attribute=attribute, help=text)


def _later(attribute: str) -> Entry:
    return Entry(module="flowllm.cli.later", attribute=attribute, hidden=True)


ENTRIES = {
    "run": _entry("run", "run", "Run a workflow."),
    "resume": _entry("resume", "resume", "Go on with a run that has not succeeded."),
    "plan": _entry("plan", "plan", "Show what a run would do and cost; sends nothing."),
    "validate": _entry("validate", "validate", "Check workflow files; runs nothing."),
    "graph": _entry("graph", "graph", "Draw the graph of a workflow."),
    "runs": _entry("runs", "runs", "List, prune or delete runs."),
    "show": _entry("show", "show", "Show one run, or one step of it."),
    "why": _entry("why", "why", "Say why a step ran again."),
    "failed": _entry("failed", "failed", "Print the failed items of a run, to be run again."),
    "cache": _entry("cache", "cache", "Look at the stored answers, or remove them."),
    "db": _entry("db", "db", "Look at the database, or upgrade it."),
    "schema": _entry("schema", "schema", "Print the JSON Schema of workflow files."),
    "init": _entry("init", "init", "Write a starter project."),
    "doctor": _entry("doctor", "doctor", "Say what is wrong with this set-up."),
    "ui": _later("ui"),
}


class Root(LazyGroup):
    """Tells errors in plain words, and leaves with the right exit code."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command line; never returns."""
        state = Globals()
        kwargs |= {"standalone_mode": False, "obj": state}
        code = guarded(lambda: super(Root, self).main(*args, **kwargs), state)
        settle(code)
        sys.exit(code)


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"flowllm {__version__}")
        ctx.exit()


@click.group(cls=Root, entries=ENTRIES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@debug_option
def cli() -> None:
    """Run graphs of LLM calls written in YAML.

    \b
    Exit codes: 0 succeeded; 1 the run failed; 2 wrong usage or an invalid workflow;
    3 paused; 130, 143 and 129 interrupted.
    """  # noqa: D301 - \b is click's mark for lines that are kept as they are


def main() -> NoReturn:
    """Run the command line with streams of its own; `start.py` calls it."""
    open_streams()
    cli.main(prog_name="flowllm")
    raise AssertionError("click's main returned")
