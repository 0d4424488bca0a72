"""What a run is given on the command line: inputs and options."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from flowllm.cli.options import COUNT_OR_AUTO, DURATION, collected
from flowllm.cluster.base import cluster_address
from flowllm.core import strict_json
from flowllm.core.errors import InvalidWorkflow, Problem, UsageError
from flowllm.core.records import dataclass
from flowllm.core.types import Json
from flowllm.language.nodes import plain_data
from flowllm.language.problems import SourceError
from flowllm.language.source import parse_yaml
from flowllm.runtime.options import RunOptions

LARGEST = 16 * 1024 * 1024
"""Bytes of a file that is read as one input."""

LONGEST_TAG = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenInputs:
    """The options -i and --inputs."""

    input_pairs: Sequence[str] = ()
    inputs_file: str | None = None

    def texts(self) -> dict[str, str]:
        """Those of -i by name: `@file` is the file's text, `@@x` is `@x`. Raises UsageError."""
        return {name: _value(name, text) for name, text in pairs(self.input_pairs, "-i", "NAME=VALUE").items()}

    def values(self) -> dict[str, Json]:
        """The mapping in the file of --inputs, JSON or YAML. Raises UsageError, InvalidWorkflow with line and column."""
        path = self.inputs_file
        if path is None:
            return {}
        text = _read(path, "--inputs ")
        data = _json(text, path) if path.endswith(".json") else _yaml(text, path)
        if not isinstance(data, dict):
            raise UsageError(f"--inputs {path}: the file must hold a mapping of inputs by name")
        return data

    def files(self) -> list[str]:
        """The files that are read for them; `-` is standard input."""
        values = (text.partition("=")[2] for text in self.input_pairs)
        found = [value[1:] for value in values if value.startswith("@") and not value.startswith("@@")]
        return found if self.inputs_file is None else [*found, self.inputs_file]


input_options = collected(
    "given",
    GivenInputs,
    click.option(
        "-i",
        "--input",
        "input_pairs",
        metavar="NAME=VALUE",
        multiple=True,
        help="One input; NAME=@FILE takes the text of a file, NAME=@@x is @x.",
    ),
    click.option("--inputs", "inputs_file", metavar="FILE", help="Inputs as a JSON or YAML mapping."),
)


def _value(name: str, text: str) -> str:
    if text.startswith("@@"):
        return text[1:]
    return _read(text[1:], f"-i {name}=@") if text.startswith("@") else text


def mended_lines(path: str) -> list[Json]:
    """The values of the lines of a `--mended` file; `-` is standard input. Raises UsageError."""
    if path == "-" and sys.stdin is None:
        raise UsageError("--mended -: standard input is closed", hint="lead the lines to it, or name a file")
    text = sys.stdin.read() if path == "-" else _read(path, "--mended ")
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(strict_json.loads(line))
        except ValueError as error:
            raise UsageError(
                f"--mended {path}:{number}: {strict_json.reason(error)}", hint="a line is a mapping, in JSON"
            ) from None
    return found


def _yaml(text: str, path: str) -> Json:
    try:
        return plain_data(parse_yaml(text, path))
    except SourceError as error:
        where = error.where
        problem = Problem(file=path, line=where.line, column=where.column, message=error.message, hint=error.hint)
        raise InvalidWorkflow([problem]) from error


def _json(text: str, path: str) -> Json:
    try:
        return strict_json.loads(text)
    except json.JSONDecodeError as error:
        problem = Problem(file=path, line=error.lineno, column=error.colno, message=f"not JSON: {error.msg}")
        raise InvalidWorkflow([problem]) from error
    except ValueError as error:
        raise UsageError(f"--inputs {path}: not JSON that can be used: {error}") from error


def _read(path: str, option: str) -> str:
    try:
        if Path(path).stat().st_size > LARGEST:
            raise UsageError(f"{option}{path}: the file is larger than {LARGEST // 1024**2} MiB")
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{option}{path}: the file is not UTF-8 text") from error
    except OSError as error:
        raise UsageError(f"{option}{path}: {error.strerror or error}") from error


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


def _tags(_context: click.Context, _option: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    """Raises UsageError for one that is empty or of several lines."""
    for tag in given:
        if not tag.strip() or not tag.isprintable() or len(tag) > LONGEST_TAG:
            raise UsageError(f"--tag {tag!r}: a tag is one line of 1 to {LONGEST_TAG} characters")
    return tuple(tag.strip() for tag in given)


def _cluster(_context: click.Context, _option: click.Parameter, given: str | None) -> str | None:
    """Raises UsageError for what is no address."""
    if given is not None:
        cluster_address(given)
    return given


def _delimiter(_context: click.Context, _option: click.Parameter, given: str | None) -> str | None:
    return "\t" if given == "\\t" else given


full_option = click.option("--full", is_flag=True, help="With --json: all items of long outputs.")
until_option = click.option("--until", metavar="STEP", help="Only this step and what it needs.")
budget_option = click.option(
    "--budget",
    metavar="usd=N",
    multiple=True,
    callback=_budget,
    help="What the run may spend in all, resumes included: `usd=5` or `tokens=2_000_000`.",
)
cluster_option = click.option(
    "--cluster",
    metavar="ray[://HOST:PORT]",
    callback=_cluster,
    help="Where workers are, and steps with `resources` run: `ray` on this machine, or a Ray cluster.",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=0),
    metavar="N",
    help="Start so many workers here, which execute the rows of --over and the items of a foreach at the top of the graph; "
    "others may join with `flowllm work`. 0: those alone.",
)
_WHAT = (
    click.option("--provider", metavar="NAME", help="The default provider; `simulated` replaces all."),
    click.option("--model", metavar="NAME", help="The default model."),
    click.option(
        "--set", "settings", metavar="STEP.KEY=VALUE", multiple=True, callback=_settings, help="An option of one step."
    ),
    click.option(
        "--max-concurrent",
        type=COUNT_OR_AUTO,
        metavar="N",
        help="Most requests in flight; auto finds as many as suit, whatever is written.",
    ),
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
_DATA = (
    click.option("--over", metavar="DATASET", help="Run the graph once for each row of a file; - is standard input."),
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
)
_ROWS = (
    *_DATA[:1],
    click.option(
        "--output",
        metavar="FILE",
        help="With --over: what each row that succeeded gives, as the ending says: .csv, .tsv, .json, else JSON Lines.",
    ),
    *_DATA[1:],
    click.option("--ordered", is_flag=True, help="With --over: lines in the order of the rows."),
    click.option("--overwrite", is_flag=True, help="The output file may exist already."),
)
_TAG = click.option(
    "--tag",
    "tags",
    metavar="TAG",
    multiple=True,
    callback=_tags,
    help="Find the run by this in `flowllm runs --tag TAG`.",
)
plan_options = collected("options", RunOptions, *_WHAT, *_DATA)
run_options = collected("options", RunOptions, *_WHAT, *_ROWS, cluster_option, _TAG)
