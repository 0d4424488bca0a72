from __future__ import annotations

import os
import random
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowllm.functions.modules import StepModules
from flowllm.language.functions import imported_files
from flowllm.language.workflow import PythonBody
from flowllm.steps.python.runner import source_hash


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Writes files below a folder and gives the path of the first; what the process has is the same afterwards."""
    before = list(sys.path), list(sys.meta_path), set(sys.modules)

    def write(files: dict[str, str]) -> str:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return str(tmp_path / next(iter(files)))

    yield write
    assert list(sys.path) == before[0]
    assert list(sys.meta_path) == before[1]
    assert not [name for name in set(sys.modules) - before[2] if name.startswith("flowllm_steps")]


def called(path: str, *others: str) -> list[object]:
    """What `f` of each file gives, all in one run, called in a thread after all were loaded."""
    modules, found = StepModules({}), []
    loaded = [modules.load(one) for one in (path, *others)]
    thread = threading.Thread(target=lambda: found.extend(module.f() for module in loaded))
    thread.start()
    thread.join()
    modules.close()
    return found


IMPORTS = {
    "import conf": "conf.NAME",
    "from conf import NAME": "NAME",
    "import pkg.sub": "pkg.sub.NAME",
    "import pkg.sub as s": "s.NAME",
    "from pkg import sub": "sub.NAME",
    "from pkg.sub import *": "NAME",
    "from pkg.relative import NAME": "NAME",
    "from . import conf": "conf.NAME",
    "from .pkg.sub import NAME": "NAME",
    "import space.inner": "space.inner.NAME",
    "import importlib; m = importlib.import_module('pkg.sub')": "m.NAME",
    "from importlib import import_module, util": "import_module('conf').NAME",
    "m = __import__('conf')": "m.NAME",
}


@pytest.mark.parametrize(("statement", "value"), IMPORTS.items())
def test_two_folders_have_each_its_own_helpers_at_the_top_and_at_call_time(
    write: Callable[..., str], statement: str, value: str
) -> None:
    paths = []
    for folder in ("p1", "p2"):
        helper = f"NAME = '{folder}'\n"
        files = {"conf.py": helper, "pkg/__init__.py": "", "pkg/sub.py": helper, "space/inner.py": helper}
        files["pkg/relative.py"] = "from . import sub\nfrom ..conf import NAME as other\nNAME = sub.NAME\n"
        files["top.py"] = f"{statement}\ndef f(): return {value}\n"
        paths.append(write({f"{folder}/top.py": files.pop("top.py")} | {f"{folder}/{k}": v for k, v in files.items()}))
        if "*" not in statement:
            paths.append(write({f"{folder}/lazy.py": f"def f():\n    {statement}\n    return {value}\n"}))
    found = called(*paths)
    assert found == (["p1", "p2"] if "*" in statement else ["p1", "p1", "p2", "p2"])


def test_a_file_of_the_name_of_a_standard_module_wins_beside_it_and_nowhere_else(write: Callable[..., str]) -> None:
    path = write(
        {
            "step.py": "import random, tempfile, json, time\ndef f(): return [random.MINE, json.MINE, time.time() > 0]\n",
            "random.py": "MINE = 1\n",
            "json.py": "from random import MINE\n",
            "time.py": "raise AssertionError('part of the interpreter')\n",
        }
    )
    assert called(path) == [[1, 1, True]]
    assert random.random() < 1
    assert "MINE" not in vars(sys.modules["json"])


def test_classes_of_helpers_are_found_by_their_modules_names(write: Callable[..., str]) -> None:
    path = write(
        {
            "step.py": "from shapes import check as f\n",
            "shapes.py": """
                from __future__ import annotations
                import copy, dataclasses, inspect, pickle, typing
                @dataclasses.dataclass
                class Point:
                    x: int
                    other: Point | None = None
                def check():
                    there = pickle.loads(pickle.dumps(Point(1)))
                    hints = typing.get_type_hints(Point)
                    return [there == Point(1), hints["x"] is int, "x: int" in inspect.getsource(Point)]
                """,
        }
    )
    assert called(path) == [[True, True, True]]


def test_a_package_folder_has_what_its_init_says(write: Callable[..., str]) -> None:
    path = write(
        {
            "p/step.py": "from . import NAME, other\ndef f(): return NAME + other.X\n",
            "p/__init__.py": "NAME = 'a'\n",
            "p/other.py": "X = 'b'\n",
        }
    )
    assert called(path) == ["ab"]


def test_an_edited_helper_is_taken_by_the_next_run_also_within_one_tick_of_the_clock(write: Callable[..., str]) -> None:
    path = write({"step.py": "import conf\ndef f(): return conf.NAME\n", "conf.py": "NAME = 'a'\n"})
    assert called(path) == ["a"]
    conf = write({"conf.py": "NAME = 'b'\n"})
    os.utime(conf, (time.time(), 1))
    assert called(path) == ["b"]


def test_two_runs_at_once_have_modules_of_their_own(write: Callable[..., str]) -> None:
    path = write(
        {"step.py": "import conf\ndef f():\n    conf.n.append(1)\n    return len(conf.n)\n", "conf.py": "n = []\n"}
    )
    runs = [StepModules({}), StepModules({})]
    assert [run.load(path).f() for run in runs] == [1, 1]
    assert runs[0].load(path).f() == 2
    for run in runs:
        run.close()


def test_what_is_executed_is_the_snapshot_and_not_the_disk(write: Callable[..., str]) -> None:
    path = write({"step.py": "import conf\n", "conf.py": "raise AssertionError\n"})
    files = {path: "import conf\ndef f(): return conf.NAME\n", path.replace("step", "conf"): "NAME = 'kept'\n"}
    modules = StepModules(files)
    assert modules.load(path).f() == "kept"
    modules.close()


def test_the_files_that_are_imported_are_found_without_executing_any() -> None:
    files = {
        "d/step.py": "import a.b\nfrom . import c\nif x:\n    import json, nothing\ndef f():\n    from g import h\n",
        "d/a/__init__.py": "from .inner import thing",
        "d/a/b.py": "from .. import up, c\nfrom ... import out",
        "d/a/inner.py": "import_module('k')\nimport a",
        "d/c.py": "def broken(:",
        "d/g/h.py": "1/0",
        "d/k.py": "",
        "d/up.py": "",
        "d/unused.py": "",
        "out.py": "",
    }
    found = imported_files("d/step.py", files["d/step.py"], files.get)
    assert set(found) == set(files) - {"d/step.py", "d/unused.py", "out.py"}


def test_the_code_of_helpers_is_in_the_key() -> None:
    body = PythonBody(file="/d/f.py", function="f", helpers=("/d/h.py", "/d/broken.py"))

    def key(helper: str, other: str = "def (") -> str:
        return source_hash(body, {"/d/f.py": "import h", "/d/h.py": helper, "/d/broken.py": other})

    assert key("x = 1") == key("x = 1  # one\n")
    assert len({key("x = 1"), key("x = 2"), key("x = 1", "def [")}) == 3
