"""Options that several commands share."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import click

from flowllm.core.errors import UsageError
from flowllm.language.scalars import parse_duration
from flowllm.runtime.options import RunOptions

R = TypeVar("R")


@dataclass(slots=True)
class Globals:
    """What holds for the whole command line."""

    debug: bool = field(default_factory=lambda: bool(os.environ.get("FLOWLLM_DEBUG")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """The database and the settings' file, as given on the command line."""

    db: str | None = None
    config: str | None = None


class Duration(click.ParamType[float]):
    """500ms, 30s, 5m, 1h or 7d; seconds as a float."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds; fails with how a duration is written."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()


def collected(
    name: str, make: Callable[..., object], *options: Callable[[Callable[..., R]], Callable[..., R]]
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """A decorator that adds options to a command, which gets their values as one argument of that name, made by `make`."""

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        @functools.wraps(command)
        def wrapped(*args: Any, **kwargs: Any) -> R:
            values = {option: kwargs.pop(option) for option in names}
            return command(*args, **{name: make(**values)}, **kwargs)

        params: list[click.Parameter] = wrapped.__dict__.setdefault("__click_params__", [])
        before = len(params)
        for option in reversed(options):
            option(wrapped)
        names = [str(param.name) for param in params[before:] if param.expose_value]
        return wrapped

    return decorate


def pairs(texts: Sequence[str], option: str, shape: str) -> dict[str, str]:
    """NAME=VALUE texts as a mapping. Raises UsageError for one without `=`, and for a name given twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{option} {text}: this is not {shape}")
        if name.strip() in found:
            raise UsageError(f"{option} names `{name.strip()}` twice")
        found[name.strip()] = value
    return found


def _settings(_context: click.Context, _option: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    return pairs(given, "--set", "STEP.KEY=VALUE")


def _budget(_context: click.Context, _option: click.Parameter, given: Sequence[str]) -> dict[str, float] | None:
    """Amounts by name; those of `1_000_000` may be grouped. Raises UsageError."""
    found: dict[str, float] = {}
    for name, text in pairs(given, "--budget", "usd=5 or tokens=2_000_000").items():
        try:
            number = float(text)
        except ValueError:
            raise UsageError(f"--budget {name}={text}: `{text}` is not a number") from None
        found[name] = int(number) if number.is_integer() else number
    return found or None


def _delimiter(_context: click.Context, _option: click.Parameter, given: str | None) -> str | None:
    return "\t" if given == "\\t" else given


def _debug(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    state = ctx.find_object(Globals)
    if wanted and state is not None:
        state.debug = True


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    context = click.get_current_context(silent=True)
    state = None if context is None else context.find_object(Globals)
    return state is not None and state.debug


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_debug, help="Show tracebacks of errors."
)
config_option = click.option("--config", metavar="FILE", help="A flowllm.yaml  [default: the nearest one upwards]")
location_options = collected(
    "location",
    Location,
    click.option("--db", metavar="URL", help="The database  [default: FLOWLLM_DATABASE_URL or .flowllm/flowllm.db]"),
    config_option,
    debug_option,
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
full_option = click.option("--full", is_flag=True, help="With --json: all items of long outputs.")
until_option = click.option("--until", metavar="STEP", help="Only this step and what it needs.")
budget_option = click.option(
    "--budget",
    metavar="usd=N",
    multiple=True,
    callback=_budget,
    help="What the run may spend in all, resumes included: `usd=5` or `tokens=2_000_000`.",
)
_WHAT = (
    click.option("--provider", metavar="NAME", help="The default provider; `simulated` replaces all."),
    click.option("--model", metavar="NAME", help="The default model."),
    click.option(
        "--set", "settings", metavar="STEP.KEY=VALUE", multiple=True, callback=_settings, help="An option of one step."
    ),
    click.option("--max-concurrent", type=click.IntRange(min=1), metavar="N", help="Most requests in flight."),
    click.option("--no-cache", is_flag=True, help="Neither read nor write stored answers."),
    click.option("--refresh", metavar="STEP", multiple=True, help="Ask this step anew."),
    until_option,
    click.option(
        "--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N items of every foreach, and rows."
    ),
    budget_option,
    click.option("--fail-fast", is_flag=True, help="Stop at the first failure."),
    click.option(
        "--grace",
        type=DURATION,
        default=60.0,
        metavar="DURATION",
        help="How long calls in flight may finish when the run is told to stop  [default: 60s]",
    ),
    click.option("--priority", type=click.Choice(["high", "normal", "low"]), help="For steps that name none."),
)
_ROWS = (
    click.option("--over", metavar="DATASET", help="Run the graph once for each row of a file; - is standard input."),
    click.option(
        "--output",
        metavar="FILE",
        help="With --over: what each row that succeeded gives, as the ending says: .csv, .tsv, .json, else JSON Lines.",
    ),
    click.option(
        "--format",
        type=click.Choice(["jsonl", "json", "csv", "lines"]),
        help="With --over: how the data set is read  [default: by its ending, or as it begins]",
    ),
    click.option(
        "--delimiter",
        metavar="CHARACTER",
        callback=_delimiter,
        help="With --over: of CSV  [default: as the header shows]",
    ),
    click.option("--ordered", is_flag=True, help="With --over: lines in the order of the rows."),
    click.option("--overwrite", is_flag=True, help="The output file may exist already."),
)
plan_options = collected("options", RunOptions, *_WHAT)
run_options = collected("options", RunOptions, *_WHAT, *_ROWS)
