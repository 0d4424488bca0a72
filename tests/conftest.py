"""Fixtures that every test may use."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys

import hypothesis
import pytest

import flowllm.steps  # noqa: F401 - registers the kinds of steps

# Shells have jobs in the background ignore SIGINT, nohup SIGHUP, and processes that the tests start would too.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


hypothesis.settings.register_profile("suite", max_examples=50, deadline=None)
hypothesis.settings.load_profile("suite")


MEMORY = "/dev/shm"  # where Linux has a file system in memory


def pytest_configure() -> None:
    """Processes that tests start hear signals also where these are ignored: under nohup, and in shells' background.
    They keep their bytecode, wherever that is unusual: there are hundreds of them, which would each compile it.
    And the folders of tests are in memory, where that has room: on a disk most of their time is spent on its syncs."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2**31:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pages of the documentation take longest: spread evenly, as each worker begins with an equal part of all tests, so
    that none has several of them to do when the others have ended. Tests in a browser stand first: a worker begins there, and
    what others take over is of its end, so that one alone starts a browser."""
    browsed = [item for item in items if "tests/browser/" in item.nodeid]
    pages = [item for item in items if "commands_of_a_page" in item.name]
    others = [item for item in items if item not in {*pages, *browsed}]
    for number, page in enumerate(pages):
        others.insert(number * len(items) // len(pages), page)
    items[:] = [*browsed, *others]


def pytest_collection_finish() -> None:
    """Thousands of tests stay for as long as the process does: no collection of garbage need go through them."""
    gc.collect()
    gc.freeze()


def pytest_runtest_teardown() -> None:
    """Stores under a virtual clock stay open over the restarts that a test plays through."""
    stores = sys.modules.get("tests.support.stores")
    for store in () if stores is None else list(stores.InlineStore.made):
        stores.InlineStore.made.discard(store)
        store.discard()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
