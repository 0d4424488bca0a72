"""flowllm doctor and flowllm db: the state of this set-up, and of its database."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

import click

from flowllm.app.settings import Settings, load_settings
from flowllm.app.wiring import AUTO, resolve_auto
from flowllm.cli.failures import say
from flowllm.cli.options import Location, json_option, location_options
from flowllm.cli.output import print_json, results
from flowllm.core.errors import FlowLLMError
from flowllm.core.types import Json
from flowllm.language.literals import INSTEAD, WRITTEN_OUT, literals_of
from flowllm.reporting.text import one_line, visible
from flowllm.storage.location import is_memory
from flowllm.storage.sqlite import migrate
from flowllm.storage.sqlite.schema import SchemaState, SchemaStatus

OLDEST_PYTHON = (3, 11)
CONNECT_TIMEOUT = 3.0
"""Seconds."""
_PACKAGES = ("flowllm", "openai", "sqlalchemy", "alembic", "jinja2", "networkx", "click")
_PORTS = {"http": 80, "https": 443}
_MEANINGS = {
    SchemaState.MISSING: "not there yet; it is made when first used",
    SchemaState.CURRENT: "up to date",
    SchemaState.OLDER: "older than this flowllm; it is upgraded, with a backup beside it, when next used",
    SchemaState.NEWER: "newer than this flowllm, which does not touch it: install a newer flowllm",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    good: bool
    text: str
    hint: str = ""
    warning: bool = False
    """Nothing fails for it, and it should be mended all the same."""

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        return {"name": self.name, "ok": self.good, "warning": self.warning, "text": self.text, "hint": self.hint}


@click.command()
@json_option
@location_options
def doctor(*, as_json: bool, location: Location) -> int:
    """Look at Python, packages, settings, database, keys and servers; say what is wrong and what to do.

    Sends nothing to a model: of a server, only whether it takes connections is tried.
    """
    findings = list(examine(location))
    if as_json:
        print_json([finding.as_dict() for finding in findings])
    else:
        _tell(findings)
    return 0 if all(finding.good for finding in findings) else 1


def examine(location: Location) -> Iterator[Finding]:
    """All findings, one after another."""
    yield _python()
    yield from _packages()
    try:
        settings = load_settings(environ=os.environ, config=location.config, database=location.db)
    except FlowLLMError as error:
        yield Finding(name="settings", good=False, text=error.message, hint=error.hint)
        return
    where = str(settings.path) if settings.path else "no flowllm.yaml here or above: the defaults hold"
    yield Finding(name="settings", good=True, text=where)
    yield from _literals(settings)
    yield _database(settings.database)
    yield from _keys(settings)
    yield from _servers(settings)
    auto = resolve_auto(AUTO, settings.environ)
    yield Finding(name="provider auto", good=True, text=f"means {auto} here")


def _tell(findings: list[Finding]) -> None:
    screen = results()
    for finding in findings:
        mark = ("ok   ", "green") if finding.good else ("WRONG", "bold red")
        mark = ("warn ", "yellow") if finding.warning else mark
        screen.line(mark, f"  {finding.name:<16} {visible(finding.text)}")
        for line in finding.hint.splitlines():
            screen.line(f"{'':<24} {visible(line)}")


def _python() -> Finding:
    return Finding(
        name="python",
        good=sys.version_info >= OLDEST_PYTHON,
        text=f"{platform.python_version()} ({sys.executable})",
        hint="" if sys.version_info >= OLDEST_PYTHON else "flowllm needs Python 3.11 or newer",
    )


def _packages() -> Iterator[Finding]:
    for name in _PACKAGES:
        try:
            yield Finding(name=name, good=True, text=version(name))
        except PackageNotFoundError:
            yield Finding(name=name, good=False, text="not installed", hint="install flowllm with pip")


def _database(url: str) -> Finding:
    if is_memory(url):
        return Finding(name="database", good=False, text=url, hint="runs are forgotten when flowllm ends")
    try:
        found = migrate.status(url)
    except FlowLLMError as error:
        return Finding(name="database", good=False, text=error.message, hint=error.hint)
    path = found.path.absolute()
    blocked = _not_writable(path)
    if blocked is not None:
        return Finding(
            name="database",
            good=False,
            text=f"{path}: {blocked} cannot be written",
            hint="give this user write access to it, or name another database with --db",
        )
    good = found.state is not SchemaState.NEWER
    return Finding(name="database", good=good, text=f"{path}: {_described(found)}")


def _not_writable(path: Path) -> Path | None:
    """The file, or the folder in which it would be made, if it cannot be written."""
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        return folder
    return path if path.exists() and not os.access(path, os.W_OK) else None


def _literals(settings: Settings) -> Iterator[Finding]:
    project = settings.project
    for one in literals_of(project.text, project.path):
        text = f"{one.where}: {WRITTEN_OUT}: {one.name}"
        yield Finding(name="secrets", good=True, warning=True, text=text, hint=INSTEAD)


def _keys(settings: Settings) -> Iterator[Finding]:
    environ = settings.environ
    state = "set" if environ.get("OPENAI_API_KEY") else "not set"
    yield Finding(name="OPENAI_API_KEY", good=True, text=state)
    for provider in settings.project.providers.values():
        if variable := provider.api_key_env:
            there = bool(environ.get(variable))
            yield Finding(
                name=variable,
                good=there,
                text=f"{'set' if there else 'not set'} (provider {provider.name})",
                hint="" if there else f"set {variable} to that provider's key",
            )


def _servers(settings: Settings) -> Iterator[Finding]:
    urls = {"OPENAI_BASE_URL": settings.environ.get("OPENAI_BASE_URL")}
    urls |= {f"server {one.name}": one.base_url for one in settings.project.providers.values()}
    for name, url in urls.items():
        if url:
            yield _reachable(name, url)


def _reachable(name: str, url: str) -> Finding:
    """Whether the server takes a connection; what is shown of the URL has no credentials."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        host = port = None
    if not host or not port:
        return Finding(name=name, good=False, text="not a URL", hint="write it like https://host/v1")
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT).close()
    except OSError as error:
        why = one_line(error.strerror or str(error))
        return Finding(
            name=name,
            good=False,
            text=f"{host}:{port} takes no connection: {why}",
            hint="start that server, or correct the URL",
        )
    return Finding(name=name, good=True, text=f"{host}:{port} takes connections")


@click.group()
def db() -> None:
    """Look at the database, or upgrade it."""


@db.command()
@json_option
@location_options
def status(*, as_json: bool, location: Location) -> int:
    """Say where the database is and which schema it has. Exits 1 for one that this flowllm cannot use."""
    url = _database_url(location)
    if is_memory(url):
        results().line("memory: up to date")
        return 0
    found = migrate.status(url)
    if as_json:
        print_json(
            {"path": str(found.path), "state": found.state.value, "revision": found.current, "newest": found.head}
        )
    else:
        results().line(f"{visible(str(found.path))}: {_described(found)}")
    return 1 if found.state is SchemaState.NEWER else 0


@db.command()
@location_options
def upgrade(*, location: Location) -> None:
    """Make the database, or bring it up to date after copying it beside itself."""
    url = _database_url(location)
    if is_memory(url):
        say("memory: up to date")
        return
    done = migrate.upgrade(url)
    say(f"{visible(str(done.after.path))}: {_described(done.after)}")
    if done.backup is not None:
        say(f"the database as it was: {visible(str(done.backup))}")


def _described(found: SchemaStatus) -> str:
    """The state of a database in words."""
    revision = "" if found.current is None else f" (revision {found.current} of {found.head})"
    return f"{_MEANINGS[found.state]}{revision}"


def _database_url(location: Location) -> str:
    return load_settings(environ=os.environ, config=location.config, database=location.db).database
