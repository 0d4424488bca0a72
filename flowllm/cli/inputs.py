"""Inputs as they are given on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from flowllm.cli.options import pairs
from flowllm.core import strict_json
from flowllm.core.errors import InvalidWorkflow, Problem, UsageError
from flowllm.core.types import Json
from flowllm.language.nodes import plain_data
from flowllm.language.problems import Wrong
from flowllm.language.source import parse_yaml

LARGEST = 16 * 1024 * 1024
"""Bytes of a file that is read as one input."""


def text_inputs(given: Sequence[str]) -> dict[str, str]:
    """`-i` options by name: `@file` is the file's text, `@@x` is `@x`. Raises UsageError."""
    found = pairs(given, "-i", "NAME=VALUE")
    return {name: _value(name, text) for name, text in found.items()}


def _value(name: str, text: str) -> str:
    if text.startswith("@@"):
        return text[1:]
    return _read(text[1:], f"-i {name}=@") if text.startswith("@") else text


def file_inputs(path: str | None) -> dict[str, Json]:
    """The mapping in an `--inputs` file, JSON or YAML. Raises UsageError, InvalidWorkflow with its places."""
    if path is None:
        return {}
    text = _read(path, "--inputs ")
    data = _json(text, path) if path.endswith(".json") else _yaml(text, path)
    if not isinstance(data, dict):
        raise UsageError(f"--inputs {path}: the file must hold a mapping of inputs by name")
    return data


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
    except Wrong as wrong:
        where = wrong.where
        problem = Problem(file=path, line=where.line, column=where.column, message=wrong.message, hint=wrong.hint)
        raise InvalidWorkflow([problem]) from wrong


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
