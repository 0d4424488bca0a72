"""Inputs as they are given on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from flowllm.cli.options import collected, pairs
from flowllm.core import strict_json
from flowllm.core.errors import InvalidWorkflow, Problem, UsageError
from flowllm.core.types import Json
from flowllm.language.nodes import plain_data
from flowllm.language.problems import SourceError
from flowllm.language.source import parse_yaml

LARGEST = 16 * 1024 * 1024
"""Bytes of a file that is read as one input."""


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
