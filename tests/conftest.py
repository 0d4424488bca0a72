"""Fixtures that every test may use."""

from __future__ import annotations

import signal

import pytest


def pytest_configure() -> None:
    """Processes that tests start hear signals also where these are ignored: under nohup, and in shells' background."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
