"""Options that several commands share."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

import click

from flowllm.core.records import dataclass, field
from flowllm.language.nodes import parse_duration
from flowllm.storage.address import name_of

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """The database and the settings' file, as given on the command line."""

    db: str | None = None
    config: str | None = None

    @property
    def words(self) -> list[str]:
        """As they are written behind a command."""
        return [*(["--db", name_of(self.db)] if self.db else []), *(["--config", self.config] if self.config else [])]


@dataclass(slots=True)
class Globals:
    """What holds for the whole command line."""

    debug: bool = field(default_factory=lambda: bool(os.environ.get("FLOWLLM_DEBUG")))
    location: Location = field(default_factory=Location)
    """Where the command was told to look."""


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


class Moment(click.ParamType[float]):
    """A time that is over: so long ago, or a date, with the time of day or without; wall clock seconds."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds since 1970; fails with how a moment is written. A date without an offset is one of here."""
        if isinstance(value, int | float):
            return float(value)
        text = str(value).strip()
        with suppress(ValueError, OverflowError, OSError):
            return datetime.fromisoformat(text).astimezone().timestamp()
        try:
            return time.time() - parse_duration(text)
        except ValueError:
            self.fail(f"`{text}` is neither a time like 2d, 12h or 30m ago nor a date like 2026-11-30", param, ctx)


class CountOrAuto(click.ParamType[int | str]):
    """A whole number from 1, or auto."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """The number, or `auto`; fails for anything else."""
        text = str(value).strip()
        if text != "auto" and not (text.isdecimal() and int(text) >= 1):
            self.fail(f"expected a whole number from 1, or auto, not {text!r}", param, ctx)
        return text if text == "auto" else int(text)


DURATION = Duration()
MOMENT = Moment()
COUNT_OR_AUTO = CountOrAuto()


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


def _debug(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    state = ctx.find_object(Globals)
    if wanted and state is not None:
        state.debug = True


def _globals() -> Globals | None:
    context = click.get_current_context(silent=True)
    return None if context is None else context.find_object(Globals)


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    state = _globals()
    return state is not None and state.debug


def location_of() -> Location:
    """Where the command under way was told to look."""
    state = _globals()
    return Location() if state is None else state.location


def _told(**given: str | None) -> Location:
    location, state = Location(**given), _globals()
    if state is not None and location.words:  # a group's holds for its commands
        state.location = location
    return location


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_debug, help="Show tracebacks of errors."
)
config_option = click.option("--config", metavar="FILE", help="A flowllm.yaml  [default: the nearest one upwards]")
location_options = collected(
    "location",
    _told,
    click.option("--db", metavar="URL", help="The database  [default: FLOWLLM_DATABASE_URL or .flowllm/flowllm.db]"),
    config_option,
    debug_option,
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
