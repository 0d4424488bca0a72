"""Items that failed are mended and given back: under their own number, into the same output. What a resume takes anew."""

from __future__ import annotations

import json

from tests.support.dataset import json_lines, lines
from tests.support.project import Project
from tests.support.server import Server


def _mended(project: Project, old: str, new: str, *more: str) -> list[dict[str, object]]:
    """The dead letters of the last run, with a text replaced, in letters.jsonl."""
    letters = project.cli("failed", "last", *more).out.replace(old, new)
    project.write("letters.jsonl", letters)
    return [json.loads(line) for line in letters.splitlines()]


def test_items_of_a_foreach_take_their_places_again(project: Project, server: Server) -> None:
    file = project.flow(
        inputs={"rows": [{"n": 1}, {"n": 0}, {"n": 2}, {"n": 0}]},
        steps={"a": {"foreach": "{{ inputs.rows }}", "on_error": "continue", "prompt": "say {{ 4 // item.n }}"}},
        outputs={"a": "{{ a }}"},
    )
    first = project.json("run", file)["outputs"]["a"]
    assert [one is None for one in first] == [False, True, False, True]
    letters = _mended(project, '"n": 0', '"n": 4')
    assert [letter["_node"] for letter in letters] == ["a[1]", "a[3]"]
    refused = project.cli("run", file, "--over", "letters.jsonl", "--output", "o.jsonl")
    assert refused.code == 2
    assert "flowllm resume RUN --mended letters.jsonl" in refused.said
    json_lines(project.folder / "letters.jsonl", letters[:1])
    found = project.json("resume", "last", "--mended", "letters.jsonl")["outputs"]["a"]
    assert found[1].endswith("say 1")
    assert [found[0], *found[2:]] == [first[0], *first[2:]]
    again = project.json("resume", "last", "--retry-failed")["outputs"]["a"]
    assert again == found, "what was mended stays so"
    assert len(server.requests) == 3


def test_rows_items_within_them_and_lines_that_could_not_be_read(project: Project) -> None:
    project.write("rows.jsonl", '{"n": 1}\n{"n": 0}\n{"n": 3, "list": [0, 2]}\n{bad\n')
    file = project.flow(
        inputs={"n": {"type": "integer"}, "list": {"type": "array", "default": [1]}},
        steps={
            "before": {"shell": "echo once >> ran.txt"},
            "b": {"needs": ["before"], "value": "{{ 6 // inputs.n }}"},
            "c": {"foreach": "{{ inputs.list }}", "on_error": "continue", "value": "{{ 4 // item }}"},
        },
        outputs={"b": "{{ b }}", "c": "{{ c }}"},
    )
    over = ("run", file, "--over", "rows.jsonl", "--output", "o.jsonl", "--quiet")
    assert project.cli(*over).code == 1
    assert sorted(line["index"] for line in lines(project.folder / "o.jsonl")) == [0, 2]
    project.write(
        "letters.jsonl",
        project.cli("failed", "last")
        .out.replace('"n": 0', '"n": 2')
        .replace("{bad", "")
        .replace('"_text": ""', '"n": 6'),
    )
    assert project.cli("resume", "last", "--mended", "letters.jsonl", "--quiet").code == 0
    found = {line["index"]: line for line in lines(project.folder / "o.jsonl")}
    assert [found[index]["row"]["n"] for index in range(4)] == [1, 2, 3, 6]
    assert [found[index]["outputs"]["b"] for index in range(4)] == [6, 3, 2, 1]
    assert found[2]["outputs"]["c"] == [None, 2]
    _mended(project, '"item": 0', '"item": 1', "--step", "row.c")
    assert project.cli("resume", "last", "--mended", "letters.jsonl", "--quiet").code == 0
    found = {line["index"]: line for line in lines(project.folder / "o.jsonl")}
    assert found[2]["outputs"]["c"] == [4, 2]
    assert len(found) == 4
    assert (project.folder / "ran.txt").read_text() == "once\n" * 4, "what was right is not done again"
    project.write("rows.jsonl", '{"n": 1}\n{"n": 2}\n{"n": 3, "list": [0, 2]}\n{"n": 6}\n')
    assert project.cli("resume", "last", "--retry-failed", "--quiet").code == 0
    again = {line["index"]: line for line in lines(project.folder / "o.jsonl")}
    assert again == found, "the data was mended alike"


def test_lines_that_mend_nothing(project: Project) -> None:
    file = project.flow(steps={"a": {"foreach": [0], "value": "{{ 1 / item }}"}})
    assert project.cli("run", file).code == 1
    for letters, told in (
        ('{"item": 1}', "names no item of run"),
        ('{"item": 1, "_node": "a[9]"}', "names no item of run"),
        ('{"item": 1, "x": 2, "_node": "a[0]"}', "has 2 fields"),
        ("{", "letters.jsonl:1: not JSON"),
        ("[1]", "names no item"),
    ):
        project.write("letters.jsonl", letters)
        refused = project.cli("resume", "last", "--mended", "letters.jsonl")
        assert (refused.code, told in refused.said) == (2, True), refused.said


def test_rows_of_which_some_steps_were_run_are_completed(project: Project, server: Server) -> None:
    json_lines(project.folder / "rows.jsonl", ({"n": str(number)} for number in range(3)))
    file = project.flow(
        inputs={"n": None},
        steps={"a": {"prompt": "first {{ inputs.n }}"}, "b": {"value": "B of {{ inputs.n }}", "needs": ["a"]}},
        outputs={"b": "{{ b }}"},
    )
    over = ("run", file, "--over", "rows.jsonl", "--output", "o.jsonl", "--quiet")
    assert project.cli(*over, "--until", "a").code == 0
    assert [line["outputs"]["b"] for line in lines(project.folder / "o.jsonl")] == [None] * 3
    for more in ((), ("--until", "a"), ()):
        assert project.cli("resume", "last", "--quiet", *more).code == 0
        found = {line["index"]: line["outputs"]["b"] for line in lines(project.folder / "o.jsonl")}
        assert found == {number: f"B of {number}" for number in range(3)}
    assert len(server.requests) == 3


def test_a_resume_takes_inputs_and_defaults_anew(project: Project) -> None:
    json_lines(project.folder / "rows.jsonl", [{"n": "A"}, {"n": "B"}])
    top = {"steps": {"a": {"value": "{{ inputs.n }} {{ inputs.lang }}"}}, "outputs": {"a": "{{ a }}"}}
    file = project.flow(inputs={"n": None, "lang": "en"}, **top)
    assert project.cli("run", file, "-i", "n=A", "--quiet").code == 0
    assert project.json("resume", "last", "-i", "lang=fr")["outputs"] == {"a": "A fr"}
    later = project.flow(name="later.yaml", inputs={"n": None, "lang": "de"}, **top)
    assert project.json("resume", "last", "--file", later)["outputs"] == {"a": "A fr"}
    over = ("--over", "rows.jsonl", "--output", "o.jsonl", "--quiet")
    assert project.cli("run", file, *over).code == 0
    for more, answers in ((("--file", later), ["A de", "B de"]), (("-i", "lang=fr"), ["A fr", "B fr"])):
        assert project.cli("resume", "last", "--quiet", *more).code == 0
        assert sorted(line["outputs"]["a"] for line in lines(project.folder / "o.jsonl")) == answers
    strict = project.flow(name="strict.yaml", inputs={"n": None, "q": None, "lang": "x"}, **top)
    refused = project.cli("resume", "last", "--file", strict)
    assert refused.code == 2
    assert "no row of rows.jsonl has `q`" in refused.said
    assert project.cli("resume", "last", "--file", strict, "-i", "q=1", "--quiet").code == 0
