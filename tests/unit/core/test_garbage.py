from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from flowllm.core.garbage import importing


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_nothing_is_collected_meanwhile_and_the_rest_is_as_it_was(*, enabled: bool, frozen: bool) -> None:
    gc.unfreeze()
    if frozen:
        gc.freeze()
    if not enabled:
        gc.disable()
    kept = []
    with importing():
        assert not gc.isenabled()
        kept += [[] for _ in range(20_000)]
    assert gc.isenabled() is enabled
    assert (gc.get_freeze_count() > 0) is frozen
    if enabled:
        assert not any(one is kept[5] for one in gc.get_objects(generation=0)), "they will not be looked through soon"
    assert len(kept) == 20_000
