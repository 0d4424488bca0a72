"""The file of `--output`: whose it is, its order, and what resumes make of it."""

from __future__ import annotations

import pytest

from flowllm.core.errors import StorageFailed
from flowllm.storage.sql.store import SqlStore
from tests.support.dataset import json_lines, lines, texts
from tests.support.over import FIRST, one_step, out, outputs_by_index, over, rows, two_steps
from tests.support.project import QUICK, Project, until
from tests.support.server import Server

# the file


def test_a_file_that_is_there_is_left_alone(project: Project, server: Server) -> None:
    rows(project, {"text": "a"})
    written = project.folder / "out.jsonl"
    written.write_text("precious\n")
    outcome = over(project, one_step(project))
    assert outcome.code == 2, outcome.said
    assert "--overwrite" in outcome.err
    assert written.read_text() == "precious\n"
    assert server.requests == []
    assert project.run_ids() == []
    assert over(project, one_step(project), "--overwrite").code == 0
    assert len(out(project)) == 1


@pytest.mark.parametrize("old", ["precious\n", None])
def test_a_start_that_fails_changes_no_file(
    old: str | None, project: Project, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(project, {"text": "a"})
    written, file = project.folder / "out.jsonl", one_step(project)
    if old is not None:
        written.write_text(old)
    more = () if old is None else ("--overwrite",)

    async def locked(*_: object) -> None:
        raise StorageFailed("the database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(SqlStore, "create_run", locked)
        assert over(project, file, *more).code == 1
    assert (written.read_text() if written.exists() else None) == old
    assert over(project, file, *more).code == 0
    assert len(out(project)) == 1
    written.write_text("old\n")
    rows(project, {"text": "bad [status=400]"})
    outcome = project.cli("run", file, "--over", "rows.jsonl", "--output", "out.jsonl", "--overwrite")
    assert outcome.code == 1
    assert written.read_text() == "old\n", "no row has come to take its place"
    assert "written to" not in outcome.err


def test_a_run_without_a_line_does_not_write_over_what_came_later(project: Project, server: Server) -> None:
    rows(project, {"text": "bad [status=400]"})
    written, file = project.folder / "out.jsonl", one_step(project)
    assert over(project, file).code == 1
    written.write_text("another's\n")
    outcome = project.cli("resume")
    assert outcome.code == 2
    assert "move it away" in outcome.err
    assert written.read_text() == "another's\n"
    written.unlink()
    server.script.mended = True
    assert project.cli("resume").code == 0
    assert len(out(project)) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--over", "rows.jsonl"), "--output"),
        (("--output", "out.jsonl"), "--over"),
        (("--ordered",), "--over"),
        (("--over", "rows.jsonl", "--output", "rows.jsonl"), "same file"),
        (("--over", "nowhere.jsonl", "--output", "out.jsonl"), "nowhere.jsonl"),
        (("--over", "rows.jsonl", "--output", "no/such/folder/out.jsonl"), "folder"),
        (("--over", "rows.jsonl", "--output", "."), "folder"),
    ],
)
def test_options_that_make_no_sense_exit_2(words: tuple[str, ...], said: str, project: Project, server: Server) -> None:
    data = rows(project, {"text": "a"})
    before = data.read_bytes()
    outcome = project.cli("run", one_step(project, inputs={"text": {"default": "x"}}), *words)
    assert outcome.code == 2, outcome.said
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert data.read_bytes() == before
    assert not (project.folder / "out.jsonl").exists()
    assert server.requests == []


def test_lines_come_as_rows_end_and_in_order_when_that_is_asked_for(project: Project, server: Server) -> None:
    rows(project, {"text": "slow [sleep=0.4]"}, {"text": "b"}, {"text": "c"})
    file = one_step(project)
    assert over(project, file).code == 0
    assert [line["index"] for line in out(project)][-1] == 0
    assert over(project, file, "--no-cache", "--ordered", "--overwrite").code == 0
    assert [line["index"] for line in out(project)] == [0, 1, 2]
    assert len(server.requests) == 6


def test_a_row_is_in_the_file_while_others_still_run(project: Project, server: Server) -> None:
    """The rows that follow take their time: the first one's line does not wait for the end of any."""
    rows(project, {"text": "quick"}, {"text": "slow [sleep=20]"})
    written = project.folder / "out.jsonl"
    process = project.start("run", one_step(project), "--over", "rows.jsonl", "--output", "out.jsonl")
    try:
        until(lambda: written.exists() and written.stat().st_size, "the first line", of=process)
        assert server.in_flight == 1
        assert [line["index"] for line in out(project)] == [0]
    finally:
        process.kill()
        process.communicate()


def test_failed_rows_and_bad_lines_hold_up_nobody_who_comes_in_order(project: Project) -> None:
    (project.folder / "rows.jsonl").write_text(
        '{"text": "[status=400]"}\n{"text": "b [sleep=0.2]"}\nnonsense\n{"nothing": 1}\n{"text": "e"}\n'
    )
    assert over(project, one_step(project), "--ordered").code == 1
    assert [line["index"] for line in out(project)] == [1, 4]


def test_more_rows_than_are_held_wait_for_their_turn(project: Project) -> None:
    """Those that are not held in memory are read back from the record, and the file is as if they had been."""
    count = 700
    json_lines(
        project.folder / "rows.jsonl",
        ({"text": "slow [sleep=1.5]" if number == 0 else f"row {number}"} for number in range(count)),
    )
    when = {"prompt": FIRST, "when": "{{ inputs.text.startswith('slow') }}"}
    file = two_steps(
        project,
        steps={"first": when, "second": {"value": "{{ inputs.text }}"}},
        outputs={"answer": "{{ first | default('') }}", "text": "{{ second }}"},
    )
    outcome = over(project, file, "--ordered")
    assert outcome.code == 0, outcome.said
    found = out(project)
    assert [line["index"] for line in found] == list(range(count))
    assert all(line["row"]["text"] == line["outputs"]["text"] for line in found)


# rows that fail


def test_failed_rows_have_no_line_and_a_resume_runs_only_them(project: Project, server: Server) -> None:
    rows(project, {"text": "a"}, {"text": "b [status=400]"}, {"text": "c"})
    outcome = over(project, two_steps(project))
    assert outcome.code == 1, outcome.said
    assert set(outputs_by_index(project)) == {0, 2}
    sent = len(server.requests)
    server.script.mended = True
    outcome = project.cli("resume", "--quiet")
    assert outcome.code == 0, outcome.said
    assert set(outputs_by_index(project)) == {0, 1, 2}
    assert [seen.prompt.split()[0] for seen in server.requests[sent:]] == ["first", "then"]
    again = project.cli("resume", project.run_ids()[0])
    assert again.code == 0, again.said
    assert set(outputs_by_index(project)) == {0, 1, 2}


def test_dead_letters_can_be_fed_back(project: Project, server: Server) -> None:
    rows(project, {"text": "a"}, {"text": "b [status=400]"}, {"text": "c [status=400]"})
    file = one_step(project)
    assert over(project, file).code == 1
    letters = project.cli("failed", "last")
    assert letters.code == 0, letters.said
    project.write("again.jsonl", letters.out)
    server.script.mended = True
    outcome = project.cli("run", file, "--over", "again.jsonl", "--output", "more.jsonl", "--quiet")
    assert outcome.code == 0, outcome.said
    found = lines(project.folder / "more.jsonl")
    assert sorted(str(line["row"]["text"]) for line in found) == ["b [status=400]", "c [status=400]"]


def test_every_failed_row_is_counted_not_listed(project: Project) -> None:
    count = 100
    json_lines(project.folder / "rows.jsonl", ({"text": f"{number} [status=400]"} for number in range(count)))
    outcome = over(project, one_step(project))
    assert outcome.code == 1
    assert "100 failed" in outcome.err
    assert len(outcome.err.splitlines()) < 40


def test_what_is_run_anew_replaces_its_line(project: Project, server: Server) -> None:
    """A row whose failure was let pass has a line; the one that `--retry-failed` gives it is the one that stays."""
    rows(project, {"text": "a"}, {"text": "b"})
    step = {"prompt": "maybe {{ inputs.text }} [status=400]", "on_error": "continue", "retry": QUICK}
    file = two_steps(project, steps={"first": step}, outputs={"answer": "{{ first | default('none') }}"})
    assert over(project, file).code == 0
    assert outputs_by_index(project) == {0: {"answer": "none"}, 1: {"answer": "none"}}
    server.script.mended = True
    outcome = project.cli("resume", "last", "--retry-failed", "--quiet")
    assert outcome.code == 0, outcome.said
    found = outputs_by_index(project)
    assert set(found) == {0, 1}
    assert all(line["answer"].startswith("answer ") for line in found.values())


def test_another_workflow_replaces_every_line(project: Project) -> None:
    rows(project, {"text": "a"}, {"text": "b [status=400]"})
    assert over(project, one_step(project)).code == 1
    steps = {"first": {"value": "now {{ inputs.text }}"}}
    project.flow(name="other.yaml", inputs={"text": {"type": "string"}}, steps=steps, outputs={"answer": "{{ first }}"})
    outcome = project.cli("resume", "last", "--file", "other.yaml", "--quiet")
    assert outcome.code == 0, outcome.said
    assert outputs_by_index(project) == {0: {"answer": "now a"}, 1: {"answer": "now b [status=400]"}}


# other run attempts


def test_data_that_was_edited_between_run_attempts(project: Project, server: Server) -> None:
    """Rows that stay are not paid again wherever they stand now, and none comes out twice."""
    rows(project, {"text": "a"}, {"text": "b"}, {"text": "bad [status=400]"}, {"text": "c"})
    assert over(project, one_step(project)).code == 1
    sent = len(server.requests)
    rows(project, {"text": "c"}, {"text": "new"}, {"text": "a"})
    outcome = project.cli("resume", "--quiet")
    assert outcome.code == 0, outcome.said
    assert [seen.prompt for seen in server.requests[sent:]] == ["first of new"]
    found = out(project)
    assert len({line["index"] for line in found}) == len(found)
    often = [line["row"]["text"] for line in found]
    assert sorted(often) == ["a", "b", "c", "new"]


def test_what_stands_behind_the_recorded_end_is_cut(project: Project) -> None:
    """As after a crash between the file and the record of how far it is."""
    rows(project, {"text": "a"}, {"text": "bad [status=400]"})
    assert over(project, one_step(project)).code == 1
    written = project.folder / "out.jsonl"
    with written.open("a") as file:
        file.write('{"index": 1, "row": {"text": "b')
    assert project.cli("resume", "--quiet").code == 1
    assert set(outputs_by_index(project)) == {0}


@pytest.mark.parametrize("left", ["", "another's\n"])
def test_a_file_that_is_not_as_it_was_left(left: str, project: Project, server: Server) -> None:
    rows(project, {"text": "a"}, {"text": "bad [status=400]"})
    assert over(project, one_step(project)).code == 1
    written, sent = project.folder / "out.jsonl", len(server.requests)
    before = written.read_bytes()
    written.write_text(left)
    outcome = project.cli("resume", "--quiet")
    assert outcome.code == 2, outcome.said
    assert "out.jsonl" in outcome.err
    assert "--overwrite" in outcome.err
    assert len(server.requests) == sent
    written.write_bytes(before)
    server.script.mended = True
    assert project.cli("resume", "--quiet").code == 0
    assert set(outputs_by_index(project)) == {0, 1}


def test_a_file_that_is_gone_is_written_anew(project: Project, server: Server) -> None:
    rows(project, {"text": "a"}, {"text": "bad [status=400]"})
    assert over(project, one_step(project)).code == 1
    (project.folder / "out.jsonl").rename(project.folder / "moved.jsonl")
    sent = len(server.requests)
    outcome = project.cli("resume", "--quiet")
    assert outcome.code == 1
    assert "out.jsonl is gone: all its lines are written anew" in outcome.err
    assert set(outputs_by_index(project)) == {0}
    assert len(server.requests) == sent + 1, "what was answered is on record"


def test_the_files_are_found_from_another_folder(project: Project) -> None:
    rows(project, {"text": "a"}, {"text": "bad [status=400]"})
    assert over(project, one_step(project)).code == 1
    elsewhere = project.folder / "elsewhere"
    elsewhere.mkdir()
    outcome = project.cli("resume", "--quiet", "--db", project.database)
    assert outcome.code == 1, outcome.said
    assert set(outputs_by_index(project)) == {0}


# --json


def test_json_tells_counts_and_no_more_than_the_first_outputs(project: Project) -> None:
    texts(project.folder / "rows.jsonl", 3)
    result = project.json("run", two_steps(project), "--over", "rows.jsonl", "--output", "out.jsonl")
    assert result["status"] == "succeeded"
    assert result["outputs"] == {}
    (row,) = result["steps"].values()
    assert row["counts"]["total"] == row["counts"]["succeeded"] == 3
    assert result["requests"]["sent"] == 6
    assert result["inputs"] == {}
