"""What a user's function prints."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.project import Project


def test_it_does_not_get_among_the_results(tmp_path: Path) -> None:
    project = Project(tmp_path)
    (tmp_path / "tools.py").write_text('def work():\n    print("hello from a step")\n    return 1\n')
    outcome = project.run("run", project.flow(steps={"a": {"python": "./tools.py:work"}}), "--json")
    assert json.loads(outcome.out)["steps"]["a"]["output"] == 1
    assert "hello from a step" in outcome.err


def test_commands_that_only_look_make_no_database(tmp_path: Path) -> None:
    project = Project(tmp_path)
    file = project.flow(steps={"a": {"value": 1}})
    for words in (("runs",), ("plan", file), ("graph", file)):
        assert project.cli(*words).code == 0
    missing = project.cli("runs", "--db", "nope.db")
    assert (missing.code, "there is no database" in missing.err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flow.yaml"]
