"""Runs of random graphs whose items workers execute, too."""

from __future__ import annotations

from tests.support.processes.databases import Database
from tests.support.processes.gates import run_gated
from tests.support.processes.runs import live
from tests.support.processes.world import World


def play(seed: int, database: Database) -> World:
    return run_gated(live(seed, database, workers=True))
