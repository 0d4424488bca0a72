"""Results on standard output, errors in plain words on standard error, and exit codes.

The streams may be closed, full, or their reader gone. What goes to standard error is for people and changes nothing, so it
is dropped where it cannot be written. What goes to standard output is what the command is for, so there it is an error."""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TextIO

import click

from flowllm.cli.options import Globals, Location, location_of
from flowllm.core.errors import FlowLLMError, InvalidWorkflow, StepError, describe_error
from flowllm.core.redact import SECRET_NAME, Redactor, passwords_of
from flowllm.core.types import Json, RunStatus
from flowllm.reporting.screen import Part, Screen, wants_colour
from flowllm.reporting.tables import table, wrapped
from flowllm.reporting.text import json_text, one_line, plural, readable, visible


def results(*, wraps: bool = False) -> Screen:
    """Standard output; see `Screen` for `wraps`."""
    return Screen(sys.stdout, colour=wants_colour(sys.stdout, os.environ), wraps=wraps)


def messages() -> Screen:
    """Standard error, where commands that are advised look where this one was told to look."""
    return _Advising(sys.stderr, colour=wants_colour(sys.stderr, os.environ), wraps=True)


class _Advising(Screen):
    """A screen that completes the commands in its lines."""

    def line(self, *parts: Part) -> None:
        """See `Screen`."""
        super().line(*(located(part) if isinstance(part, str) else (located(part[0]), part[1]) for part in parts))


def unicode_output() -> bool:
    """Whether standard output can show more than ASCII."""
    return results().unicode


def print_json(value: Json) -> None:
    """One JSON value."""
    results().line(json_text(value, ascii_only=not unicode_output()))


def known_outputs(status: RunStatus, outputs: Mapping[str, Json]) -> Mapping[str, Json]:
    """The outputs of a run; of one that has not succeeded only those that are known."""
    if status is RunStatus.SUCCEEDED:
        return outputs
    return {name: value for name, value in outputs.items() if value is not None}


def print_outputs(outputs: Mapping[str, Json]) -> None:
    """Each output under its name, within the terminal."""
    screen, width = results(), page_width()
    for number, (name, value) in enumerate(outputs.items()):
        if number:
            screen.line()
        heading(screen, name)
        for line in wrapped(readable(value).rstrip("\n"), width):
            screen.line(line)


def heading(screen: Screen, text: str) -> None:
    """A name, underlined."""
    shown = visible(text)
    screen.line((shown, "bold"))
    screen.line(("-" * len(shown), "dim"))


def page_width() -> int | None:
    """Columns that lines are kept within: those of the terminal; None where they go elsewhere."""
    screen = results()
    return screen.width() if screen.stream.isatty() else None


def print_table(rows: Sequence[Mapping[str, str]], **layout: Any) -> None:
    """Aligned columns under their headers, within the terminal; `layout` as `tables.table` takes it."""
    screen = results()
    for line in table(rows, width=page_width(), **layout):
        screen.line(*line)


_OUT, _ERROR = 1, 2


class OutputLost(FlowLLMError):
    """Standard output cannot be written."""


class _Output(io.FileIO):
    def write(self, block: Any, /) -> int:
        try:
            while (written := super().write(block)) is None:  # somebody has set it not to block
                select.select((), (self,), ())
        except BrokenPipeError:  # whoever read it has seen enough
            raise
        except OSError as error:
            raise OutputLost(f"standard output cannot be written: {error.strerror}") from error
        return written


class _Messages(io.FileIO):
    def write(self, block: Any, /) -> int:
        with suppress(OSError):
            return super().write(block) or memoryview(block).nbytes
        return memoryview(block).nbytes


def open_streams() -> None:
    """Replace the standard streams of this process. Characters that they cannot show are escaped."""
    for number in (0, _OUT, _ERROR):
        _occupy(number)
    sys.stdout = _text(_Output(_OUT, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Messages(_ERROR, "w", closefd=False), sys.stderr)


@contextlib.contextmanager
def results_apart() -> Iterator[None]:
    """What is printed meanwhile by functions of the user's, by libraries and by their child processes goes to standard
    error; `sys.__stdout__` alone is standard output."""
    kept, results = os.dup(_OUT), sys.__stdout__
    sys.stdout.flush()
    os.dup2(_ERROR, _OUT)
    sys.__stdout__ = io.TextIOWrapper(io.BufferedWriter(io.FileIO(kept, "w")))  # type: ignore[misc]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, _OUT)
        ours, sys.__stdout__ = sys.__stdout__, results  # type: ignore[misc]
        with suppress(OSError, ValueError):  # it has been reported
            ours.close()


def silence_output() -> None:
    """Point standard output at nothing, so that Python does not complain when it flushes it at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _occupy(number: int) -> None:
    """Let no other file get the number of a stream that is closed; what is written to it, or read from it, fails."""
    try:
        os.fstat(number)
    except OSError:
        found = os.open(os.devnull, os.O_RDONLY if number else os.O_WRONLY)
        if found != number:
            os.dup2(found, number)
            os.close(found)


def _text(raw: io.FileIO, before: TextIO | None) -> Any:
    encoding = "utf-8" if before is None else before.encoding
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=True)


INTERRUPTED = 130
"""128 and SIGINT's number, as shells give it."""


def guarded(command: Callable[[], object], state: Globals) -> int:
    """Run a command and give its exit code; no exception gets past."""
    try:
        outcome = command()
        sys.stdout.flush()
    except BrokenPipeError:
        silence_output()
        return 1
    except SystemExit as leaving:  # click's: completion has printed, or a reader has left
        if leaving.code:
            silence_output()
        return int(bool(leaving.code))
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("stopped")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last line of defence
        return _failed(error, state)
    return outcome if isinstance(outcome, int) else 0


def _failed(error: Exception, state: Globals) -> int:
    if isinstance(error, OutputLost):
        silence_output()
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if not isinstance(error, FlowLLMError):
        return _bug(error, state)
    error.hint = located(error.hint, state.location)
    show_error(error)
    if state.debug:
        _traceback(error)
    return error.exit_code


def say(*line: Part) -> None:
    """One line on standard error."""
    with suppress(OSError, ValueError):
        messages().line(*line)


def show_error(error: FlowLLMError) -> None:
    """What happened, and what to do about it."""
    if isinstance(error, InvalidWorkflow):
        for problem in error.problems:
            say(visible(str(problem)))
        say(plural(len(error.problems), "problem"))
        return
    say(("error:", "bold red"), f" {visible(_masked(error.message))}")
    for line in _masked(error.hint).splitlines():
        say(f"  {visible(line)}")
    if isinstance(error, StepError) and error.answer:
        say(f"  the last answer was: {one_line(_masked(error.answer))}")


_COMMAND = re.compile(
    r"(?:(?<=`)|(?<=: )|^)flowllm (?:run|resume|plan|runs|show|why|failed|cache|db|doctor|export|diff|report|watch|ui)\b[^`\n]*",
    re.MULTILINE,
)


def located(text: str, location: Location | None = None) -> str:
    """A text whose command lines look where this command was told to look: there, or where the context says."""
    if location is None:
        location = location_of()
    words = shlex.join(location.words)
    return _COMMAND.sub(lambda found: found[0] if words in found[0] else f"{found[0]} {words}", text) if words else text


def secrets_of(environ: Mapping[str, str]) -> list[str]:
    """Values of the environment that are secret by their names, and the passwords of the URLs in it."""
    named = [value for name, value in environ.items() if SECRET_NAME.search(name)]
    return [*named, *(one for text in environ.values() if "://" in text for one in passwords_of(text))]


def _masked(text: str) -> str:
    return Redactor(secrets_of(os.environ)).text(text)


def _bug(error: Exception, state: Globals) -> int:
    what = one_line(_masked(describe_error(error)))
    say(f"error: this is a bug of flowllm, please report it: {what}")
    if state.debug:
        _traceback(error)
    else:
        say("  --debug shows the traceback")
    return 1


def _traceback(error: BaseException) -> None:
    say(visible(_masked("".join(traceback.format_exception(error)))))
