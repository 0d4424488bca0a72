"""flowllm doctor and flowllm db: the state of this set-up, and of its database."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import click

from flowllm.app.settings import Settings, load_settings
from flowllm.app.wiring import AUTO, resolve_auto
from flowllm.cli.options import Location, json_option, location_options
from flowllm.cli.output import located, print_json, results, say
from flowllm.core.errors import DatabaseTooNew, FlowLLMError
from flowllm.core.types import Json
from flowllm.language.literals import INSTEAD, WRITTEN_OUT, literals_of
from flowllm.reporting.text import one_line, visible
from flowllm.storage import open as databases
from flowllm.storage.open import SchemaState, SchemaStatus, is_memory

OLDEST_PYTHON = (3, 11)
CONNECT_TIMEOUT = 3.0
"""Seconds."""
_PACKAGES = ("flowllm", "openai", "sqlalchemy", "alembic", "jinja2", "networkx", "click")
_PORTS = {"http": 80, "https": 443}
_MEANINGS = {
    SchemaState.MISSING: "not there yet; it is made when first used",
    SchemaState.CURRENT: "up to date",
    SchemaState.OLDER: "made by an older flowllm; it is upgraded, with a backup beside it, when next used",
    SchemaState.NEWER: "made by a newer flowllm, and this one does not touch it: upgrade flowllm",
}


class Finding(NamedTuple):
    """One thing that was looked at."""

    name: str
    text: str
    hint: str = ""
    ok: bool = True
    warning: bool = False
    """Nothing fails for it, and it should be corrected all the same."""

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        return {"name": self.name, "ok": self.ok, "warning": self.warning, "text": self.text, "hint": self.hint}


def _bad(name: str, text: str, hint: str) -> Finding:
    return Finding(name, text, hint, ok=False)


@click.command()
@json_option
@location_options
def doctor(*, as_json: bool, location: Location) -> int:
    """Look at Python, packages, settings, database, keys and servers; say what is wrong and what to do.

    Sends nothing to a model: of a server, only whether it takes connections is tried.
    """
    findings = list(_examine(location))
    if as_json:
        print_json([finding.as_dict() for finding in findings])
    else:
        _print_findings(findings)
    return 0 if all(finding.ok for finding in findings) else 1


def _examine(location: Location) -> Iterator[Finding]:
    """All findings, one after another."""
    yield _python()
    yield from _packages()
    try:
        settings = load_settings(environ=os.environ, config=location.config, database=location.db)
    except FlowLLMError as error:
        yield _bad("settings", error.message, error.hint)
        return
    yield Finding("settings", str(settings.path or "no flowllm.yaml here or above: the defaults hold"))
    for one in literals_of(settings.project.text, settings.project.path):
        yield Finding("secrets", f"{one.where}: {WRITTEN_OUT}: {one.name}", INSTEAD, warning=True)
    yield _database(settings.database)
    yield from _keys(settings)
    urls = {"OPENAI_BASE_URL": settings.environ.get("OPENAI_BASE_URL")}
    urls |= {f"server {one.name}": one.base_url for one in settings.project.providers.values()}
    yield from (_reachable(name, url) for name, url in urls.items() if url)
    yield Finding("provider auto", f"means {resolve_auto(AUTO, settings.environ)} here")


def _print_findings(findings: list[Finding]) -> None:
    screen = results()
    for finding in findings:
        mark = ("ok   ", "green") if finding.ok else ("WRONG", "bold red")
        mark = ("warn ", "yellow") if finding.warning else mark
        screen.line(mark, f"  {finding.name:<16} {visible(finding.text)}")
        for line in finding.hint.splitlines():
            screen.line(f"{'':<24} {located(visible(line))}")


def _python() -> Finding:
    text = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info >= OLDEST_PYTHON:
        return Finding("python", text)
    return _bad("python", text, "flowllm needs Python 3.11 or newer")


def _packages() -> Iterator[Finding]:
    for name in _PACKAGES:
        try:
            yield Finding(name, version(name))
        except PackageNotFoundError:
            yield _bad(name, "not installed", "install flowllm with pip")


def _database(url: str) -> Finding:
    if is_memory(url):
        return _bad("database", url, "runs are forgotten when flowllm ends")
    try:
        found = databases.schema_of(url)
    except FlowLLMError as error:
        return _bad("database", error.message, error.hint)
    path = found.path and found.path.absolute()
    if path and (blocked := _not_writable(path)):
        hint = "give this user write access to it, or name another database with --db"
        return _bad("database", f"{path}: {blocked} cannot be written", hint)
    if path and (kind := databases.shared_file_system(path)) is not None:
        return _bad("database", *databases.refusal(path, kind))
    return Finding("database", f"{path or found.name}: {_described(found)}", ok=found.state is not SchemaState.NEWER)


def _not_writable(path: Path) -> Path | None:
    """The file, or the folder in which it would be made, if it cannot be written."""
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        return folder
    return path if path.exists() and not os.access(path, os.W_OK) else None


def _keys(settings: Settings) -> Iterator[Finding]:
    environ = settings.environ
    yield Finding("OPENAI_API_KEY", "set" if environ.get("OPENAI_API_KEY") else "not set")
    for provider in settings.project.providers.values():
        name, of = provider.api_key_env, f"(provider {provider.name})"
        if name and environ.get(name):
            yield Finding(name, f"set {of}")
        elif name:
            yield _bad(name, f"not set {of}", f"set {name} to that provider's key")


def _reachable(name: str, url: str) -> Finding:
    """Whether the server takes a connection; what is shown of the URL has no credentials."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        host = port = None
    if not host or not port:
        return _bad(name, "not a URL", "write it like https://host/v1")
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT).close()
    except OSError as error:
        why = one_line(error.strerror or str(error))
        return _bad(name, f"{host}:{port} takes no connection: {why}", "start that server, or correct the URL")
    return Finding(name, f"{host}:{port} takes connections")


@click.group()
def db() -> None:
    """Look at the database, or upgrade it."""


@db.command()
@json_option
@location_options
def status(*, as_json: bool, location: Location) -> int:
    """Say where the database is and which schema it has. Exits 2 for one that a newer flowllm made."""
    url = _database_url(location)
    if is_memory(url):
        results().line("memory: up to date")
        return 0
    found = databases.schema_of(url)
    if as_json:
        print_json({"path": found.name, "state": found.state.value, "revision": found.current, "newest": found.head})
    else:
        results().line(f"{visible(found.name)}: {_described(found)}")
    return DatabaseTooNew.exit_code if found.state is SchemaState.NEWER else 0


@db.command()
@location_options
def upgrade(*, location: Location) -> None:
    """Make the database, or bring it up to date after copying it beside itself."""
    url = _database_url(location)
    if is_memory(url):
        say("memory: up to date")
        return
    done = databases.upgrade(url)
    say(f"{visible(done.after.name)}: {_described(done.after)}")
    if done.backup is not None:
        say(f"the database as it was: {visible(str(done.backup))}")


def _described(found: SchemaStatus) -> str:
    """The state of a database in words."""
    revision = f" (revision {found.current}, the newest is {found.head})" if found.state is SchemaState.OLDER else ""
    meaning = _MEANINGS[found.state]
    if found.state is SchemaState.OLDER and found.path is None:
        meaning = "made by an older flowllm; it is upgraded when next used: let nothing else run in it then, and have a backup"
    return f"{meaning}{revision}"


def _database_url(location: Location) -> str:
    return load_settings(environ=os.environ, config=location.config, database=location.db).database
