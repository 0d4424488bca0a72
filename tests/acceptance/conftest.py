"""A server that does what prompts say, and a user's folder that talks to it."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.author import Author
from tests.support.on_server import ServerProject
from tests.support.postgres import database
from tests.support.project import Project
from tests.support.replies import ByPrompt
from tests.support.server import Server, running_server


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server(ByPrompt()) as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, server: Server) -> Project:
    return Project(tmp_path, server.url)


@pytest.fixture(params=["sqlite", "postgres"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path, server: Server) -> Iterator[Project]:
    """As `project`, on each kind of database."""
    if request.param == "sqlite":
        yield Project(tmp_path, server.url)
        return
    with database() as url:
        yield ServerProject(tmp_path, server.url, url)


@pytest.fixture
def short_cooldown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is down is left alone for a moment only, and given up as soon."""
    monkeypatch.setattr("flowllm.limits.breaker.FIRST_COOLDOWN", 0.2)
    monkeypatch.setattr("flowllm.limits.give_up.SHORT_PATIENCE", 0.2)


@pytest.fixture
def author(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Author:
    monkeypatch.chdir(tmp_path)
    return Author(tmp_path, server)


@pytest.fixture
def unhurried() -> None:
    """A test that takes minutes, on purpose."""
    faulthandler.cancel_dump_traceback_later()
