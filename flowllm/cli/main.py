"""The entry point: the list of commands, and errors on standard error. Imports nothing heavy, and commands when used."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, NoReturn

import click

from flowllm import __version__
from flowllm.cli.options import Globals, debug_option
from flowllm.cli.output import guarded, open_streams
from flowllm.cli.process import end_imports, finish_process

COMMANDS = {
    "run": ("run", "Run a workflow."),
    "work": ("work", "Be a worker: execute items of runs of other processes."),
    "watch": ("watch", "Watch a run that goes on in another process."),
    "resume": ("run", "Go on with a run that has not succeeded."),
    "plan": ("plan", "Show what a run would do and cost; sends nothing."),
    "validate": ("files", "Check workflow files; runs nothing."),
    "graph": ("files", "Draw the graph of a workflow."),
    "runs": ("runs", "List, prune or delete runs."),
    "show": ("show", "Show one run, or one step of it."),
    "report": ("report", "Write a run as a page that can be sent to somebody."),
    "export": ("export", "Write the results of a run as CSV, JSON Lines, JSON or Parquet."),
    "diff": ("diff", "Show what differs between two runs."),
    "why": ("explain", "Say why a step ran again, and what it waited for."),
    "ui": ("ui", "Show runs on a local web page."),
    "failed": ("runs", "Print the failed items of a run, to be run again."),
    "cache": ("cache", "Look at the stored answers, or remove them."),
    "db": ("doctor", "Look at the database, or upgrade it."),
    "schema": ("files", "Print the JSON Schema of workflow files."),
    "init": ("files", "Write a starter project."),
    "doctor": ("doctor", "Say what is wrong with this set-up."),
}
"""The module of each command in flowllm.cli, and its line in the help."""


class Root(click.Group):
    """Imports a command only when it is used, prints errors in plain words, and exits with the right code."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command line; never returns."""
        state = Globals()
        kwargs |= {"standalone_mode": False, "obj": state}
        code = guarded(lambda: super(Root, self).main(*args, **kwargs), state)
        finish_process(code)
        sys.exit(code)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names of all commands, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import that command."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(f"flowllm.cli.{COMMANDS[cmd_name][0]}"), cmd_name)
        end_imports()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, but suggests the nearest name of the table."""
        name = args[0]
        if name not in {*COMMANDS, *self.commands} and not name.startswith("-"):
            import difflib  # noqa: PLC0415 - a tenth of the time that help takes

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            ctx.fail(f"No such command '{name}'." + (f" Did you mean '{near[0]}'?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """The list of commands, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"flowllm {__version__}")
        ctx.exit()


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
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
