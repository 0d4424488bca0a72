"""What browser tests share: one browser, one `flowllm ui`, one database of real runs.

They stand first among all tests (see tests/conftest.py), so that one worker takes them, in their order, and starts one browser. While
that is up, its library holds the event loop of this thread: nothing here may start another, and commands are processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.runs import Runs, made
from tests.support.browser import FLAGS, Server, chromium
from tests.support.project import Project

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    path = chromium()
    if path is None and os.environ.get("CI"):
        pytest.fail("CI needs a browser: apt-get install chromium")
    if path is None:
        pytest.skip("there is no chromium on the PATH: the page is not looked at")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield launched
        launched.close()


@pytest.fixture(scope="package")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(Path(tmp_path_factory.mktemp("page")))


@pytest.fixture(scope="package")
def runs(browser: Browser, project: Project) -> Runs:
    return made(project)


@pytest.fixture(scope="package")
def server(runs: Runs, project: Project) -> Iterator[Server]:
    started = Server(project)
    yield started
    started.close()
