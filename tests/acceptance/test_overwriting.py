"""Nothing that a run reads, or writes elsewhere, is written over, by whatever name it goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.project import Project

WORKFLOW = """
name: flow
inputs: {name: ann, other: ""}
steps:
  all: {foreach: {file: data/all.jsonl}, value: "{{ item.name }}"}
  child: {workflow: ./child.yaml, with: {name: "{{ inputs.name }}"}}
  code: {python: "./code.py:work", with: {name: "{{ child.a }}"}}
outputs: {a: "{{ code }} {{ all | length }}"}
"""
CHILD = """
inputs: {name: }
steps:
  a: {prompt: {file: ./a.md}, provider: simulated, model: m, output: ./schema.json}
outputs: {a: "{{ a }}"}
"""
READ = ["rows.jsonl", "data/all.jsonl", "flow.yaml", "child.yaml", "a.md", "schema.json", "code.py", "helper.py"]


@pytest.fixture
def files(project: Project) -> Project:
    project.write("flow.yaml", WORKFLOW)
    project.write("child.yaml", CHILD)
    project.write("a.md", "About {{ inputs.name }}")
    project.write("schema.json", '{"type": "string"}')
    project.write("helper.py", "X = 1\n")
    project.write("code.py", "import helper\n\ndef work(name):\n    return name\n")
    project.write("data/all.jsonl", '{"name": "bo"}\n')
    project.write("rows.jsonl", '{"name": "cy"}\n')
    project.write("flowllm.yaml", "limits: {max_concurrent: 3}\n")
    project.write("given.txt", "dee")
    project.write("inputs.yaml", "other: x\n")
    (project.folder / "loop").symlink_to(".")
    return project


def _names(folder: Path, name: str) -> list[str]:
    """The file by a path of its own, by two links, and through a folder that leads back."""
    (folder / "soft").symlink_to(name)
    os.link(folder / name, folder / "hard")
    return [name, f"data/../{name}", "soft", "hard", f"loop/{name}"]


@pytest.mark.parametrize("name", [*READ, "flowllm.yaml", "given.txt", "inputs.yaml", ".flowllm/flowllm.db"])
def test_output_and_events_leave_alone_what_the_run_reads(name: str, files: Project) -> None:
    assert files.cli("run", "flow.yaml").code == 0  # there is a database now
    before = (files.folder / name).read_bytes() if "db" not in name else b""
    run = ("run", "flow.yaml", "--over", "rows.jsonl", "-i", "other=@given.txt", "--inputs", "inputs.yaml")
    for alias in _names(files.folder, name):
        for options in (("--output", alias, "--overwrite"), ("--output", "out.jsonl", "--events", alias)):
            outcome = files.cli(*run, *options)
            assert outcome.code == 2, outcome.said
            assert any(words in outcome.err for words in ("would write over", "same file", " is not written"))
    if before:
        assert (files.folder / name).read_bytes() == before
    assert len(files.run_ids()) == 1
    assert not (files.folder / "out.jsonl").exists()


def test_two_outputs_are_two_files(files: Project) -> None:
    outcome = files.cli("run", "flow.yaml", "--over", "rows.jsonl", "--output", "o.jsonl", "--events", "loop/o.jsonl")
    assert (outcome.code, "--output would write over --events" in outcome.err) == (2, True)
    assert not (files.folder / "o.jsonl").exists()
    assert files.cli("run", "flow.yaml", "--events", "/dev/null").code == 0


@pytest.mark.parametrize(
    "name", ["save.yaml", "data/all.jsonl", "loop/data/all.jsonl", "flowllm.yaml", "events", "given.txt", "runs.db-wal"]
)
def test_save_leaves_alone_what_the_run_reads(name: str, files: Project) -> None:
    """Before anything begins where the path is known; at the step, which alone fails, where it is not."""
    files.write(
        "save.yaml",
        f"""
        inputs: {{other: ""}}
        steps:
          all: {{foreach: {{file: data/all.jsonl}}, value: "{{{{ item.name }}}}"}}
          kept: {{value: "{{{{ all }}}}"}}
          a: {{value: x, needs: [all], save: "{{{{ {"'" + name + "'"} if SAYS else 'b' }}}}"}}
        """,
    )
    text = (files.folder / "save.yaml").read_text()
    options = ("--events", "events", "-i", "other=@given.txt", "--db", "runs.db")
    for says, code in (("inputs", 2), ("kept", 1)):
        files.write("save.yaml", text.replace("SAYS", says))
        before = {path.name: path.read_bytes() for path in files.folder.rglob("*.jsonl")}
        outcome = files.cli("run", "save.yaml", *options)
        assert outcome.code == code, outcome.said
        assert "would write over" in outcome.err
        assert {path.name: path.read_bytes() for path in files.folder.rglob("*.jsonl")} == before
    assert "SaveFailed" in outcome.err
    assert "kept" in outcome.err


def test_a_data_set_may_be_saved_by_a_step_that_its_reader_waits_for(files: Project) -> None:
    files.write(
        "two.yaml",
        """
        steps:
          made: {value: [{name: a}, {name: b}], save: made.jsonl}
          read: {foreach: {file: made.jsonl}, value: "{{ item.name }}", needs: [made]}
          later: {value: x, needs: [read], save: "{{ 'made.jsonl' if steps.read.status == 'failed' else 'x' }}"}
        outputs: {names: "{{ read }}"}
        """,
    )
    for _ in range(2):
        assert files.json("run", "two.yaml")["outputs"] == {"names": ["a", "b"]}
