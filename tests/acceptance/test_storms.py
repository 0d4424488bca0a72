"""kill -9 at any moment of any kind of run: at most what was in flight is asked again, nothing is lost or doubled (P2)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest

from tests.support.dataset import each_once, texts
from tests.support.postgres import database
from tests.support.project import Project, prompts
from tests.support.server import Server
from tests.support.storm import Storm, storm

IN_FLIGHT = 20
FILE = {"file": "rows.jsonl"}
ASKED = "{{ item.text }} is asked"
BATCH = 4


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A step over the rows of a file, how many calls each row takes, and what must come of them."""

    step: dict[str, object]
    right: Callable[[Project, int, object], bool]
    calls: float = 1.0
    """A row."""


def _in_order(values: object, words: Iterable[str]) -> bool:
    return [str(value).partition(" to: ")[2] for value in values] == list(words)


def _saved(project: Project, rows: int, _: object) -> bool:
    files = {path.name: path.read_text() for path in (project.folder / "out").iterdir()}
    return len(files) == rows and all(
        files[f"{number}.txt"].endswith(f" to: row {number} is saved") for number in range(rows)
    )


KINDS = {
    "foreach": Kind(
        step={"prompt": ASKED},
        right=lambda _, rows, output: _in_order(output, (f"row {number} is asked" for number in range(rows))),
    ),
    "accept": Kind(
        step={
            "prompt": "{{ item.text }} is judged",
            "accept": {"when": "{{ index % 3 == 0 }}", "count": "{{ inputs.count }}", "overshoot": 2.0},
        },
        right=lambda _, rows, output: _in_order(output, (f"row {number} is judged" for number in range(0, rows, 3))),
    ),
    "workflow": Kind(
        step={
            "workflow": {
                "inputs": {"text": {"type": "string"}},
                "steps": prompts(first="{{ inputs.text }} first", then="{{ inputs.text }} then {{ first | length }}"),
                "outputs": {"then": "{{ then }}"},
            },
            "with": {"text": "{{ item.text }}"},
        },
        right=lambda _, rows, output: (
            [value["then"].partition(" to: ")[2].partition(" then ")[0] for value in output]
            == [f"row {number}" for number in range(rows)]
        ),
        calls=2.0,
    ),
    "embed": Kind(
        step={"embed": "{{ item.text }}", "model": "vectors", "batch": {"size": BATCH, "max_wait": "5ms"}},
        right=lambda _, rows, output: len({json.dumps(vector) for vector in output}) == rows,
        calls=1 / BATCH,
    ),
    "save": Kind(step={"prompt": "{{ item.text }} is saved", "save": "out/{{ index }}.txt"}, right=_saved),
}


def _killed(project: Project, server: Server, *names: str, rows: int, kills: int, seed: int = 1) -> Storm:
    """A workflow with steps of those kinds, at the same time; of `accept`, only a half of the rows are needed."""
    texts(project.folder / "rows.jsonl", rows)
    file = project.flow(
        inputs={"count": {"type": "integer", "default": -(-rows // 6)}},
        limits={"max_concurrent": IN_FLIGHT},
        steps={name: {"foreach": FILE, **KINDS[name].step} for name in names},
    )
    half = {"accept": rows // 2}
    calls = sum(int(half.get(name, rows) * KINDS[name].calls) for name in names)
    found = storm(
        project, server, file, calls=calls, kills=kills, in_flight=IN_FLIGHT, seed=seed, exactly="accept" not in names
    )
    steps = project.json("show", "last", "--full")["steps"]
    for name in names:
        needed = half.get(name, rows)
        assert KINDS[name].right(project, needed, steps[name]["output"]), f"{name}: {steps[name]['output']}"
    return found


def test_a_run_with_steps_of_all_kinds_is_killed_twice(project: Project, server: Server) -> None:
    _killed(project, server, *KINDS, rows=36, kills=2)


def test_the_same_on_a_postgresql_server(project: Project, server: Server) -> None:
    with database() as url:
        project.use(url)
        _killed(project, server, *KINDS, rows=36, kills=2)


@pytest.mark.soak
@pytest.mark.parametrize("name", KINDS)
def test_killed_twenty_times(name: str, project: Project, server: Server) -> None:
    rows = int(1200 / KINDS[name].calls) * (2 if name == "accept" else 1)
    print(f"\n{name}: {_killed(project, server, name, rows=rows, kills=20)}")


def _over(project: Project, server: Server, *more: str, rows: int, kills: int, seed: int = 1) -> Storm:
    texts(project.folder / "rows.jsonl", rows)
    file = project.flow(
        inputs={"text": {"type": "string"}},
        limits={"max_concurrent": IN_FLIGHT},
        steps=prompts(first="first of {{ inputs.text }}", second="second of {{ inputs.text }}: {{ first }}"),
        outputs={"answer": "{{ second }}"},
    )
    words = (file, "--over", "rows.jsonl", "--output", "out.jsonl", *more)
    found = storm(project, server, *words, calls=2 * rows, kills=kills, in_flight=IN_FLIGHT, seed=seed)
    lines = each_once(project.folder / "out.jsonl", rows)
    for line in lines:
        assert line["row"] == {"text": f"row {line['index']}"}
        assert f"second of row {line['index']}:" in line["outputs"]["answer"]
    if more:
        assert [line["index"] for line in lines] == list(range(rows))
    return found


@pytest.mark.parametrize("more", [(), ("--ordered",)])
def test_every_row_of_a_killed_run_comes_out_once(more: tuple[str, ...], project: Project, server: Server) -> None:
    _over(project, server, *more, rows=60, kills=2 - len(more))


def test_every_row_of_one_on_a_postgresql_server_comes_out_once(project: Project, server: Server) -> None:
    with database() as url:
        project.use(url)
        _over(project, server, rows=60, kills=2)


@pytest.mark.soak
@pytest.mark.parametrize("more", [(), ("--ordered",)])
def test_every_row_of_a_run_that_is_killed_twenty_times_comes_out_once(
    more: tuple[str, ...], project: Project, server: Server
) -> None:
    print(f"\n--over {' '.join(more)}: {_over(project, server, *more, rows=1000, kills=20)}")
