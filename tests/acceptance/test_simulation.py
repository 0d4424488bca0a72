"""Seeded simulation: random graphs with foreach and graphs within, under a virtual clock, with crashes, stops, hosts that
cancel, 429s, slow and failing calls; and real databases that vanish and disks that are full."""

from __future__ import annotations

import pytest

from tests.support.simulation import check, live
from tests.support.virtual import run_virtual


def play(seed: int) -> None:
    try:
        check(run_virtual(live(seed)))
    except Exception as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("block", range(4))
def test_the_promises_hold_for_every_seed(block: int) -> None:
    for seed in range(block * 6, block * 6 + 6):
        play(seed)


@pytest.mark.soak
@pytest.mark.parametrize("block", range(100))
def test_the_promises_hold_for_thousands_of_seeds(block: int) -> None:
    for seed in range(1000 + block * 100, 1100 + block * 100):
        play(seed)
