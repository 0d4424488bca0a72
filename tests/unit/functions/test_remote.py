"""One call of a function as a node of a cluster carries it out, here in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowllm.functions.remote import call

SOURCE = """
import asyncio, time
import helper

def plain(x): return {"x": helper.twice(x), "at": (1, 2)}
async def coroutine(x):
    await asyncio.sleep(0)
    return [x]
async def several(x):
    for n in range(x):
        yield n
def fails(x): raise ValueError(f"bad {x}")
def leaves(x): raise SystemExit(x)
def a_set(x): return {x}
def sleeps(x): time.sleep(x)
async def awaits(x): await asyncio.sleep(x)
def turns(x):
    while True:
        pass
"""
FILES = {"/flow/tools.py": SOURCE, "/flow/helper.py": "def twice(x): return 2 * x\n"}


def called(function: str, x: Any = 3, *, limit: float = 600.0, **code: Any) -> dict[str, Any]:
    code = {"file": "/flow/tools.py", "files": FILES, **code}
    given = {"function": function, "arguments": {"x": x}, "limit": limit}
    found: dict[str, Any] = json.loads(call(json.dumps(code).encode(), json.dumps(given).encode()))
    assert found.pop("took") >= 0
    return found


@pytest.mark.parametrize(
    ("function", "value"), [("plain", {"x": 6, "at": [1, 2]}), ("coroutine", [3]), ("several", [0, 1, 2])]
)
def test_what_a_function_gives_is_plain_json(function: str, value: Any) -> None:
    assert called(function) == {"value": value}


def test_an_exception_comes_with_its_place_and_its_traceback() -> None:
    message, place, traceback, hint = called("fails")["raised"]
    assert message == "ValueError: bad 3"
    assert place.startswith("tools.py:12, in fails: def fails(x): raise ValueError")
    assert "remote.py" not in traceback
    assert "flowllm_steps" not in traceback
    assert hint == ""
    assert called("leaves")["raised"][0] == "SystemExit: 3"


def test_what_json_cannot_hold_and_what_is_not_there_is_said() -> None:
    assert called("a_set") == {"not_json": ["a set, which JSON cannot hold", "return list(value)"]}
    assert called("nothing") == {"missing": "/flow/tools.py has no function nothing"}
    assert called("sqrt", file=None, module="math", x=4)["raised"][0].startswith("TypeError")


@pytest.mark.parametrize(("function", "x"), [("sleeps", 600), ("awaits", 600), ("turns", 0)])
def test_what_takes_too_long_is_interrupted(function: str, x: float) -> None:
    assert called(function, x, limit=0.05) == {"late": True}
    assert called("plain")["value"]["x"] == 6, "the process serves on"


def test_it_is_all_that_a_node_needs() -> None:
    script = "import flowllm.functions.remote, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    root = Path(__file__).parents[3]
    out = subprocess.run(
        [sys.executable, "-S", "-P", "-c", script],
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    foreign = {name for name in out.split() if name not in sys.stdlib_module_names and not name.startswith("_")}
    assert foreign == {"flowllm"}
