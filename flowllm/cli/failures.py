"""From an exception to words on standard error and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress

import click

from flowllm.cli.options import Globals
from flowllm.cli.output import OutputLost, silence_output
from flowllm.core.errors import FlowLLMError, InvalidWorkflow, StepError, describe_error
from flowllm.core.redact import SECRET_NAME, Redactor, passwords_of
from flowllm.reporting.text import one_line, plural, visible

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
    show_error(error)
    if state.debug:
        _traceback(error)
    return error.exit_code


def say(line: str) -> None:
    """One line on standard error."""
    with suppress(OSError, ValueError):
        click.echo(line, err=True)


def show_error(error: FlowLLMError) -> None:
    """What happened, and what to do about it."""
    if isinstance(error, InvalidWorkflow):
        for problem in error.problems:
            say(visible(str(problem)))
        say(plural(len(error.problems), "problem"))
        return
    say(f"error: {visible(_masked(error.message))}")
    for line in _masked(error.hint).splitlines():
        say(f"  {visible(line)}")
    if isinstance(error, StepError) and error.answer:
        say(f"  the last answer was: {one_line(_masked(error.answer))}")


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
