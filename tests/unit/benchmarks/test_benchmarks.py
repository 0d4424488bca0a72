"""What the benchmarks measure with: bars, the table on the page, the server, and databases that hold much."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import WORKLOADS, main
from tests.benchmarks.harness import Figure, alternately, ratio, timed_run
from tests.benchmarks.items import FLOW, fill
from tests.benchmarks.server import Behaviour, Connection, Service
from tests.benchmarks.table import as_json, of_json, write
from tests.support.virtual import run_virtual

FIGURES = [
    Figure(what="time, of a loop", value=2.0, bar=1.1, note="2 s / 1 s"),
    Figure(what="cached", value=60.0, unit="%", bar=96, least=True),
    Figure(what="a node", value=143.2, unit="µs"),
    Figure(what="broke", value=None, bar=1),
]


class Client(Connection):
    """A connection that notes when it was answered, and with which usage."""

    def __init__(self, service: Service, text: str = "") -> None:
        super().__init__(service)
        self.body = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
        self.answered: float | None = None
        service.arrive(self)

    def send(self, body: bytes) -> None:
        self.answered = asyncio.get_running_loop().time()
        self.usage = json.loads(body)["usage"]


def test_a_bar_is_the_most_or_the_least_and_only_twice_the_bar_is_an_alarm() -> None:
    assert [figure.met() for figure in FIGURES] == [False, False, True, False]
    assert [figure.met(2.0) for figure in FIGURES] == [True, True, True, False]
    assert not Figure(what="a", value=2.3, bar=1.1).met(2.0)
    assert [figure.is_ratio for figure in FIGURES] == [True, True, False, True]


def test_sides_are_measured_in_turn_and_compared_round_by_round() -> None:
    asked: list[str] = []
    sides = alternately(3, lambda n: asked.append("A") or float(n + 1), lambda n: asked.append("B") or 2.0)
    assert asked == list("ABABAB")
    assert ratio(*sides) == 1.0


def test_the_page_gets_the_figures_that_were_written_as_json(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured -->\nold\n<!-- end -->\nafter\n")
    told = json.loads(json.dumps(as_json({"x": FIGURES}, runs=5, quick=False)))
    assert of_json(told) == {"x": FIGURES}
    for _ in range(2):
        write(page, {"x": "Things"}, told)
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1], "old" in lines) == ("before", "after", False)
    assert "| time, of a loop | 2.00 × | ≤ 1.1 × | MISSED | 2 s / 1 s |" in lines
    assert "| cached | 60.0 % | ≥ 96 % | MISSED |  |" in lines
    assert "| a node | 143 µs |  |  |  |" in lines
    page.write_text("no place")
    with pytest.raises(SystemExit, match="needs one place"):
        write(page, {"x": "Things"}, told)


def test_requests_queue_for_slots_and_one_that_hangs_ends_with_its_client() -> None:
    async def play() -> None:
        service = Service(Behaviour(latency=1.0, slots=2, hangs=(1,)))
        began = asyncio.get_running_loop().time()
        clients = [Client(service) for _ in range(5)]
        await asyncio.sleep(1.5)
        service.leave(clients[0])
        service.leave(clients[4])
        await asyncio.sleep(10)
        took = [client.answered and client.answered - began for client in clients]
        assert took == [None, 1.0, 2.0, 2.5, None]
        counters = json.loads(service.controlled(b""))
        assert {name: counters[name] for name in ("requests", "abandoned", "peak", "p99_s")} == {
            "requests": 5,
            "abandoned": 2,
            "peak": 2,
            "p99_s": 2.5,
        }
        assert json.loads(service.controlled(Behaviour().as_json().encode()))["requests"] == 0

    run_virtual(play())


def test_a_prompt_that_begins_alike_is_read_quicker_once_the_first_was_read() -> None:
    async def play() -> None:
        service = Service(Behaviour(latency=1.0, cache=100, reads=1_000.0))
        began = asyncio.get_running_loop().time()
        same = "word" * 1_024
        first, together = Client(service, same + "a" * 3_900), Client(service, same + "b" * 3_900)
        await asyncio.sleep(10)
        later = Client(service, same + "c" * 3_900)
        await asyncio.sleep(10)
        assert [client.answered - began for client in (first, together, later)] == pytest.approx(
            [3.001, 3.001, 11.977], abs=0.01
        )
        assert later.usage["prompt_tokens_details"] == {"cached_tokens": 1_024}
        counters = json.loads(service.controlled(b""))
        assert (counters["cold"], counters["cached_tokens"]) == (2, 1_024)

    run_virtual(play())


def test_a_database_is_filled_with_rows_that_look_like_those_of_a_run(tmp_path: Path) -> None:
    database = tmp_path / "full.db"
    timed_run(database, FLOW.format(salt="first"), n=1)
    fill(database, 1_000)
    with closing(sqlite3.connect(database)) as connection:
        for table in ("nodes", "attempts", "memo"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] >= 1_001
        assert connection.execute("SELECT count(DISTINCT key) FROM attempts").fetchone() == (1_001,)
    timed_run(database, FLOW.format(salt="second"), n=2)


def test_a_workload_that_breaks_is_told_beside_figures_that_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, earlier = tmp_path / "figures.json", tmp_path / "earlier.json"
    earlier.write_text(json.dumps(as_json({"blog": FIGURES}, runs=5, quick=False)))
    monkeypatch.setitem(WORKLOADS, "start", ("Broken", len))
    words = ["start", "--from", str(earlier), "--json", str(figures), "--folder", str(tmp_path), "--quick"]
    monkeypatch.setattr("sys.argv", ["benchmarks", *words])
    assert main() == 1
    found = of_json(json.loads(figures.read_text()))
    assert [(name, figures[0].what) for name, figures in found.items()] == [
        ("start", "broke"),
        ("blog", FIGURES[0].what),
    ]
    assert "broke" in capsys.readouterr().out
