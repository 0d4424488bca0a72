"""Whole outputs of a foreach that a python step gets: sequences that are read as they are looked at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.project import Project

TOOLS = """
    import pathlib, threading
    from collections.abc import Sequence

    def look(rows, extra=None):
        with pathlib.Path("calls").open("a") as file:
            file.write("x")
        return {
            "is": [isinstance(rows, Sequence), isinstance(rows, list)],
            "length": len(rows),
            "ends": [rows[0], rows[-1]] if rows else [],
            "slice": list(rows[1:3]),
            "all": list(rows),
            "in main": threading.current_thread() is threading.main_thread(),
            "extra": extra,
        }

    async def look_too(rows):
        return [row for row in rows][::-1]

    def total(rows):
        return sum(len(row["n"]) for row in rows)
    """


@pytest.fixture
def tools(project: Project) -> Project:
    project.write("tools.py", TOOLS)
    return project


def flow(project: Project, items: Sequence[Any], function: str = "look", **more: Any) -> str:
    posts = {"foreach": items, "value": "{{ item }}", "on_error": "continue"}
    step = {"python": f"./tools.py:{function}", "with": {"rows": "{{ posts }}", **more}}
    return project.flow(steps={"posts": posts, "a": step}, outputs={"a": "{{ a }}"})


def calls(project: Project) -> int:
    return len((project.folder / "calls").read_text())


def test_it_is_a_sequence_that_a_thread_reads(tools: Project) -> None:
    file = flow(tools, ["one", {"n": 2}, None, [4]], extra="{{ run.id | length > 3 }}")
    assert tools.json("run", file)["outputs"]["a"] == {
        "is": [True, False],
        "length": 4,
        "ends": ["one", [4]],
        "slice": [{"n": 2}, None],
        "all": ["one", {"n": 2}, None, [4]],
        "in main": False,
        "extra": True,
    }
    assert tools.json("run", flow(tools, [1, 2, 3], "look_too"))["outputs"]["a"] == [3, 2, 1]


def test_an_empty_one(tools: Project) -> None:
    seen = tools.json("run", flow(tools, []))["outputs"]["a"]
    assert (seen["length"], seen["all"]) == (0, [])


def test_only_a_digest_is_in_the_key(tools: Project) -> None:
    tools.json("run", flow(tools, ["precious " * 1000, 2]))
    ((parts,),) = tools.rows("SELECT parts FROM nodes WHERE node_id = 'a'")
    assert "precious" not in parts
    assert set(json.loads(parts)["with"]["rows"]) == {"foreach", "digest"}


def test_a_resumption_takes_what_it_made_of_the_same_items_and_not_of_others(tools: Project) -> None:
    tools.write("extra.py", "import pathlib\ndef check(a): assert pathlib.Path('go').exists()\n")

    def written(items: Sequence[Any]) -> str:
        file = flow(tools, items)
        text = (tools.folder / file).read_text()
        after = "  after: {python: './extra.py:check', with: {a: '{{ a }}'}}\noutputs:"
        tools.write(file, text.replace("outputs:", after))
        return file

    tools.json("run", written([1, 2]), code=1)
    assert tools.json("resume", code=1)["steps"]["a"]["output"]["all"] == [1, 2]
    assert calls(tools) == 1
    for number, changed in enumerate([[1, 2, 3], [2, 1, 3], [2, 1], ["2", 1], [2]], 2):
        resumed = tools.json("resume", "--file", written(changed), code=1)
        assert resumed["steps"]["a"]["output"]["all"] == changed
        assert calls(tools) == number
    (tools.folder / "go").touch()
    assert tools.json("resume")["status"] == "succeeded"
    assert calls(tools) == 6


def test_with_a_cache_equal_lists_are_worked_on_once(tools: Project) -> None:
    def written(items: Sequence[Any]) -> str:
        file = flow(tools, items)
        text = (tools.folder / file).read_text()
        return str(tools.write(file, text.replace("    python:", "    cache: true\n    python:")))

    for items, number in (([1, 2], 1), ([1, 2], 1), ([1, 3], 2), ([1, 2], 2)):
        assert tools.json("run", written(items))["outputs"]["a"]["all"] == items
        assert calls(tools) == number


def test_thousands_of_items(tools: Project) -> None:
    posts = {"foreach": "{{ range(3000) | list }}", "value": {"n": "{{ 'x' * 100 }}"}}
    step = {"python": "./tools.py:total", "with": {"rows": "{{ posts }}"}}
    file = tools.flow(steps={"posts": posts, "a": step}, outputs={"a": "{{ a }}"})
    assert tools.json("run", file)["outputs"]["a"] == 300_000
