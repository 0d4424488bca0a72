"""Options that several commands share."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ParamSpec, TypeVar

import click

from flowllm.core.errors import UsageError
from flowllm.language.scalars import parse_duration
from flowllm.runtime.options import RunOptions

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(slots=True)
class Globals:
    """What holds for the whole command line."""

    debug: bool = field(default_factory=lambda: bool(os.environ.get("FLOWLLM_DEBUG")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where runs are kept, and where settings come from; as given on the command line."""

    db: str | None = None
    config: str | None = None


class Duration(click.ParamType[float]):
    """500ms, 30s, 5m, 1h or 7d; seconds as a float."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it, or say how it is written."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()


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


def place_options(command: Callable[..., R]) -> Callable[..., R]:
    """Adds --db, --config and --debug; the command gets a `place`."""

    @click.option("--db", metavar="URL", help="The database  [default: FLOWLLM_DATABASE_URL or .flowllm/flowllm.db]")
    @click.option("--config", metavar="FILE", help="A flowllm.yaml  [default: the nearest one upwards]")
    @debug_option
    @functools.wraps(command)
    def wrapped(*args: Any, db: str | None, config: str | None, **kwargs: Any) -> R:
        return command(*args, place=Place(db=db, config=config), **kwargs)

    return wrapped


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _budget(_context: click.Context, _option: click.Parameter, given: Sequence[str]) -> dict[str, float]:
    """Amounts by name; those of `1_000_000` may be grouped. Raises UsageError."""
    found: dict[str, float] = {}
    for name, text in pairs(given, "--budget", "usd=5 or tokens=2_000_000").items():
        try:
            number = float(text)
        except ValueError:
            raise UsageError(f"--budget {name}={text}: `{text}` is not a number") from None
        found[name.strip()] = int(number) if number.is_integer() else number
    return found


budget_option = click.option(
    "--budget",
    metavar="usd=N",
    multiple=True,
    callback=_budget,
    help="What the run may spend in all, resumes included: `usd=5` or `tokens=2_000_000`.",
)


def input_options(command: Callable[..., R]) -> Callable[..., R]:
    """Adds -i and --inputs; the command gets `input_pairs` and `inputs_file`."""
    more = click.option("--inputs", "inputs_file", metavar="FILE", help="Inputs as a JSON or YAML mapping.")
    one = click.option(
        "-i",
        "--input",
        "input_pairs",
        metavar="NAME=VALUE",
        multiple=True,
        help="One input; NAME=@FILE takes the text of a file, NAME=@@x is @x.",
    )
    return one(more(command))


def what_options(command: Callable[..., R]) -> Callable[..., R]:
    """Adds the options that say what is run: inputs, models, which steps. The command gets `options`."""

    @input_options
    @click.option("--provider", metavar="NAME", help="The default provider; `simulated` replaces all.")
    @click.option("--model", metavar="NAME", help="The default model.")
    @click.option("--set", "settings", metavar="STEP.KEY=VALUE", multiple=True, help="An option of one step.")
    @click.option("--max-concurrent", type=click.IntRange(min=1), metavar="N", help="Most requests in flight.")
    @click.option("--no-cache", is_flag=True, help="Neither read nor write stored answers.")
    @click.option("--refresh", metavar="STEP", multiple=True, help="Ask this step anew.")
    @click.option("--until", metavar="STEP", help="Only this step and what it needs.")
    @click.option(
        "--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N items of every foreach, and rows."
    )
    @budget_option
    @click.option("--fail-fast", is_flag=True, help="Stop at the first failure.")
    @click.option(
        "--grace",
        type=DURATION,
        default=60.0,
        metavar="DURATION",
        help="How long calls in flight may finish when the run is told to stop  [default: 60s]",
    )
    @click.option("--priority", type=click.Choice(["high", "normal", "low"]), help="For steps that name none.")
    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> R:
        names = ("provider", "model", "max_concurrent", "no_cache", "until", "fail_fast", "grace", "priority", "limit")
        options = RunOptions(
            **{name: kwargs.pop(name) for name in names},
            budget=kwargs.pop("budget") or None,
            settings=pairs(kwargs.pop("settings"), "--set", "STEP.KEY=VALUE"),
            refresh=tuple(kwargs.pop("refresh")),
        )
        return command(*args, options=options, **kwargs)

    return wrapped


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


def row_options(command: Callable[..., R]) -> Callable[..., R]:
    """Adds the options of data sets to those that say what is run."""

    @click.option("--over", metavar="DATASET", help="Run the graph once for each row of a file; - is standard input.")
    @click.option(
        "--output",
        metavar="FILE",
        help="With --over: what each row that succeeded gives, as the ending says: .csv, .tsv, .json, else JSON Lines.",
    )
    @click.option(
        "--format",
        type=click.Choice(["jsonl", "json", "csv", "lines"]),
        help="With --over: how the data set is read  [default: by its ending, or as it begins]",
    )
    @click.option("--delimiter", metavar="CHARACTER", help="With --over: of CSV  [default: as the header shows]")
    @click.option("--ordered", is_flag=True, help="With --over: lines in the order of the rows.")
    @click.option("--overwrite", is_flag=True, help="The output file may exist already.")
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        options: RunOptions,
        over: str | None,
        output: str | None,
        format: str | None,  # noqa: A002 - the option's name
        delimiter: str | None,
        ordered: bool,
        overwrite: bool,
        **kwargs: Any,
    ) -> R:
        more = replace(
            options,
            over=over,
            output=output,
            format=format,
            delimiter="\t" if delimiter == "\\t" else delimiter,
            ordered=ordered,
            overwrite=overwrite,
        )
        return command(*args, options=more, **kwargs)

    return wrapped
