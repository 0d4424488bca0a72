from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from flowllm.core import garbage


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    yield
    gc.enable()
    gc.freeze()  # as before, see conftest.py


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_collected_meanwhile_in_a_process_of_our_own(
    monkeypatch: pytest.MonkeyPatch, *, enabled: bool
) -> None:
    monkeypatch.setattr(garbage, "_owned", [])
    garbage.own_process()
    gc.unfreeze()
    if not enabled:
        gc.disable()
    with garbage.importing():
        assert not gc.isenabled()
    assert gc.isenabled() is enabled
    assert (gc.get_freeze_count() > 0) is enabled


def test_the_collector_of_a_host_program_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "_owned", [])
    gc.unfreeze()
    with garbage.importing():
        assert gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
