"""Seeded simulation of many processes at one database, in one virtual time: they are killed, stopped for a while, and late."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.support.processes import databases, equal, graphs, limits, ranges, runs


def play(what: object, kind: str, seeds: Iterable[int]) -> None:
    for seed in seeds:
        try:
            with databases.new(kind) as database:
                what.play(seed, database)
        except Exception as error:
            raise AssertionError(f"{what.__name__}, {kind}, seed {seed}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize(("kind", "seeds"), [("sqlite", [*range(7), 14]), ("postgres", [1])])
def test_runs_are_gone_on_with_by_other_processes(kind: str, seeds: Iterable[int]) -> None:
    play(runs, kind, seeds)


@pytest.mark.parametrize(("kind", "seeds"), [("sqlite", range(8)), ("postgres", range(1))])
def test_equal_calls_are_sent_once_while_the_process_lives_that_sends_them(kind: str, seeds: Iterable[int]) -> None:
    play(equal, kind, seeds)


@pytest.mark.parametrize(("kind", "seeds"), [("sqlite", [0, 3]), ("postgres", [2])])
def test_one_limit_holds_for_all_processes_and_is_used(kind: str, seeds: Iterable[int]) -> None:
    play(limits, kind, seeds)


@pytest.mark.parametrize(("kind", "seeds"), [("sqlite", [*range(5), 27, 109]), ("postgres", [3])])
def test_rows_are_executed_once_whatever_becomes_of_workers_and_coordinator(kind: str, seeds: Iterable[int]) -> None:
    play(ranges, kind, seeds)


@pytest.mark.parametrize(("kind", "seeds"), [("sqlite", [5, 6, 7]), ("postgres", [9])])
def test_random_graphs_come_out_right_with_workers(kind: str, seeds: Iterable[int]) -> None:
    play(graphs, kind, seeds)


@pytest.mark.soak
@pytest.mark.parametrize("block", range(20))
def test_runs_of_hundreds_of_seeds_are_gone_on_with_by_other_processes(block: int) -> None:
    play(runs, "sqlite", range(1000 + block * 25, 1025 + block * 25))
    play(runs, "postgres", range(1000 + block * 3, 1003 + block * 3))


@pytest.mark.soak
@pytest.mark.parametrize("block", range(10))
def test_equal_calls_of_hundreds_of_seeds_are_sent_once(block: int) -> None:
    play(equal, "sqlite", range(1000 + block * 30, 1030 + block * 30))
    play(equal, "postgres", range(1000 + block * 5, 1005 + block * 5))


@pytest.mark.soak
@pytest.mark.parametrize("block", range(10))
def test_one_limit_holds_for_hundreds_of_seeds(block: int) -> None:
    play(limits, "sqlite", range(1000 + block * 12, 1012 + block * 12))
    play(limits, "postgres", range(1000 + block * 2, 1002 + block * 2))


@pytest.mark.soak
@pytest.mark.parametrize("block", range(20))
def test_rows_of_hundreds_of_seeds_are_executed_once(block: int) -> None:
    play(ranges, "sqlite", range(1000 + block * 20, 1020 + block * 20))
    play(ranges, "postgres", range(1000 + block * 2, 1002 + block * 2))


@pytest.mark.soak
@pytest.mark.parametrize("block", range(20))
def test_random_graphs_of_hundreds_of_seeds_come_out_right_with_workers(block: int) -> None:
    play(graphs, "sqlite", range(1000 + block * 20, 1020 + block * 20))
    play(graphs, "postgres", range(1000 + block * 2, 1002 + block * 2))
