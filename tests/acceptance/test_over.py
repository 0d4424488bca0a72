"""`--over DATASET --output FILE`: each row is one run of the graph, and comes out once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.dataset import json_lines, lines, texts
from tests.support.project import QUICK, prompts, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.project import Outcome, Project
    from tests.support.server import Server

FIRST, SECOND = "first of {{ inputs.text }}", "then {{ first }}"


def _flow(project: Project, **top: object) -> str:
    """Two steps, one after the other."""
    given = {
        "inputs": {"text": {"type": "string"}},
        "steps": prompts(first=FIRST, second=SECOND),
        "outputs": {"answer": "{{ second }}"},
    }
    return project.flow(**{**given, **top})


def _one_step(project: Project, **top: object) -> str:
    return _flow(project, steps=prompts(first=FIRST), outputs={"answer": "{{ first }}"}, **top)


def _rows(project: Project, *values: object, name: str = "rows.jsonl") -> Path:
    return json_lines(project.folder / name, values)


def _over(project: Project, file: str, *more: object, data: object = "rows.jsonl") -> Outcome:
    return project.cli("run", file, "--over", data, "--output", "out.jsonl", "--quiet", *more)


def _out(project: Project) -> list[dict[str, object]]:
    return lines(project.folder / "out.jsonl")


def _by_index(project: Project) -> dict[object, object]:
    found = _out(project)
    assert len({line["index"] for line in found}) == len(found), "a row came out twice"
    return {line["index"]: line["outputs"] for line in found}


# what goes in and what comes out


def test_each_row_is_one_run_of_the_graph(project: Project, server: Server) -> None:
    texts(project.folder / "rows.jsonl", 12)
    outcome = _over(project, _flow(project))
    assert outcome.code == 0, outcome.said
    assert outcome.out == "", "results go to the file"
    assert len(server.requests) == 24
    found = {line["index"]: line for line in _out(project)}
    assert sorted(found) == list(range(12))
    for index, line in found.items():
        assert line["row"] == {"text": f"row {index}"}
        first = next(seen for seen in server.requests if seen.prompt == f"first of row {index}")
        assert any(
            seen.prompt.startswith("then answer") and seen.arrived >= (first.finished or 0)
            for seen in server.requests
        )
        assert str(line["outputs"]["answer"]).startswith("answer ")
    assert len({json.dumps(line["outputs"]) for line in found.values()}) == 12
    assert project.rows("SELECT count(*) FROM nodes WHERE parent = 'row' AND status = 'succeeded'") == [(12,)]


def test_columns_become_typed_inputs_and_others_are_left_aside(project: Project) -> None:
    file = project.flow(
        inputs={
            "count": {"type": "integer"},
            "share": {"type": "number"},
            "sure": {"type": "boolean"},
            "tags": {"type": "array"},
            "tone": {"type": "string", "default": "plain"},
        },
        steps={"all": {"value": "{{ [inputs.count, inputs.share, inputs.sure, inputs.tags, inputs.tone] }}"}},
        outputs={"all": "{{ all }}"},
    )
    project.write("rows.csv", 'id,count,share,sure,tags\n7,3,0.5,true,"[""a"", 1]"\n')
    outcome = _over(project, file, data="rows.csv")
    assert outcome.code == 0, outcome.said
    (line,) = _out(project)
    assert line["outputs"] == {"all": [3, 0.5, True, ["a", 1], "plain"]}
    assert line["row"] == {"id": "7", "count": "3", "share": "0.5", "sure": "true", "tags": '["a", 1]'}


def test_an_input_on_the_command_line_holds_for_every_row_that_has_none(project: Project) -> None:
    file = project.flow(
        inputs={"text": {"type": "string"}, "tone": {"type": "string"}, "size": {"type": "integer"}},
        steps={"all": {"value": "{{ [inputs.text, inputs.tone, inputs.size] }}"}},
        outputs={"all": "{{ all }}"},
    )
    _rows(project, {"text": "a"}, {"text": "b", "tone": "loud"})
    outcome = _over(project, file, "-i", "tone=calm", "-i", "size=4")
    assert outcome.code == 0, outcome.said
    assert _by_index(project) == {0: {"all": ["a", "calm", 4]}, 1: {"all": ["b", "loud", 4]}}


def test_the_ending_of_the_output_says_how_it_is_written(project: Project, server: Server) -> None:
    texts(project.folder / "rows.jsonl", 3)
    flow = _one_step(project)
    outcome = project.cli("run", flow, "--over", "rows.jsonl", "--output", "o.csv", "--ordered", "--quiet")
    assert outcome.code == 0, outcome.said
    header, *records = (project.folder / "o.csv").read_text().splitlines()
    assert header == "index,answer"
    assert [record.partition(",")[0] for record in records] == ["0", "1", "2"]
    assert records[1].endswith("to: first of row 1")
    outcome = project.cli("run", flow, "--over", "rows.jsonl", "--output", "o.parquet")
    assert outcome.code == 2
    assert ".parquet is not written" in outcome.said
    assert len(server.requests) == 3
    assert not (project.folder / "o.parquet").exists()


def test_rows_without_an_input_or_of_a_wrong_type_fail_alone(project: Project, server: Server) -> None:
    file = project.flow(
        inputs={"text": {"type": "string"}, "count": {"type": "integer"}},
        steps=prompts(first="{{ inputs.text }} {{ inputs.count }}"),
        outputs={"answer": "{{ first }}"},
    )
    _rows(
        project,
        {"text": "good", "count": 1},
        {"texts": "a slip", "count": 1},
        {"text": "b", "count": "many"},
        {"text": "fine", "count": "2"},
    )
    outcome = _over(project, file)
    assert outcome.code == 1, outcome.said
    assert "Traceback" not in outcome.err
    assert set(_by_index(project)) == {0, 3}
    assert sorted(seen.prompt for seen in server.requests) == ["fine 2", "good 1"]
    wrong = dict(project.rows("SELECT node_id, error FROM nodes WHERE parent = 'row' AND status = 'failed'"))
    assert "`text` is missing" in wrong["row[1]"]
    assert "text" in json.loads(wrong["row[1]"])["hint"]
    assert "`count`" in wrong["row[2]"]


def test_a_line_that_cannot_be_read_fails_alone(project: Project, server: Server) -> None:
    (project.folder / "rows.jsonl").write_text('{"text": "a"}\n{"text": \n{"text": "c"}\n')
    outcome = _over(project, _one_step(project))
    assert outcome.code == 1, outcome.said
    assert "rows.jsonl:2" in outcome.err
    assert set(_by_index(project)) == {0, 2}
    assert len(server.requests) == 2


def test_lines_of_text_are_the_one_input(project: Project) -> None:
    project.write("rows.txt", "uno\ndos\n")
    outcome = _over(project, _one_step(project), data="rows.txt")
    assert outcome.code == 0, outcome.said
    assert [line["row"] for line in sorted(_out(project), key=lambda line: str(line["index"]))] == [
        "uno",
        "dos",
    ]


def test_no_rows_succeed_with_an_empty_file(project: Project, server: Server) -> None:
    _rows(project)
    outcome = _over(project, _flow(project))
    assert outcome.code == 0, outcome.said
    assert _out(project) == []
    assert server.requests == []


def test_a_data_set_that_fits_no_input_is_refused_before_anything_is_sent(
    project: Project, server: Server
) -> None:
    flow = _one_step(project)
    for name, data, told in (
        ("rows.csv", "Text;x\na;b\n", "did you mean `Text`?"),
        ("rows.jsonl", '{"test": 1}\n', "did you mean `test`?"),
        ("rows.csv", "n\n1\n", "no column of rows.csv is an input: it has `n`, and the workflow has `text`"),
    ):
        project.write(name, data)
        outcome = _over(project, flow, data=name)
        assert (outcome.code, told in outcome.said) == (2, True), outcome.said
        assert not (project.folder / "out.jsonl").exists()
    assert server.requests == []
    assert project.run_ids() == []
    project.write("rows.dat", " text # tent\na # b\n")
    outcome = project.cli("run", flow, "--over", "rows.dat", "--delimiter", "#", "--output", "out.jsonl")
    assert outcome.code == 0
    assert "`tent`" not in outcome.said
    assert server.requests[0].prompt == "first of a "


def test_keep_decides_which_rows_have_a_line(project: Project, server: Server) -> None:
    _rows(project, *({"text": text} for text in ("good", "bad", "none", "odd")))
    top: dict[str, object] = {
        "steps": {
            "first": {"prompt": "{{ inputs.text }}", "when": "{{ inputs.text != 'none' }}"},
            "good": {"value": "{{ inputs.text if inputs.text == 'odd' else inputs.text == 'good' }}"},
        },
        "outputs": {"answer": "{{ first }}"},
    }
    outcome = _over(project, _flow(project, keep="{{ good if first else true }}", **top), "--json")
    assert outcome.code == 1
    assert "a condition must give true or false" in outcome.said
    assert [line["index"] for line in _out(project)] == [0]
    counts = outcome.json["steps"]["row"]["counts"]
    assert (counts["succeeded"], counts["skipped"], counts["failed"]) == (1, 2, 1)
    assert len(server.requests) == 3
    mended = _flow(project, keep="{{ good != false and outputs.answer is not none }}", **top)
    assert project.cli("resume", "--file", mended, "--quiet").code == 0
    assert sorted(line["index"] for line in _out(project)) == [0, 3]
    again = project.cli("resume", "--quiet", "--file", mended)
    assert again.code == 0
    assert sorted(line["index"] for line in _out(project)) == [0, 3]
    assert len(server.requests) == 3, "what was answered stands"


def test_rows_that_were_not_kept_are_looked_at_again_with_retry_failed(project: Project) -> None:
    _rows(project, {"text": "a"}, {"text": "b"})
    flow = _flow(
        project,
        steps={"a": {"shell": "test -e ok", "on_error": "continue", "retry": {"max_attempts": 1}}},
        outputs={"text": "{{ inputs.text }}"},
        keep="{{ steps.a.status == 'succeeded' }}",
    )
    assert _over(project, flow).code == 0
    assert _out(project) == []
    project.write("ok", "")
    assert project.cli("resume", "last", "--retry-failed", "--quiet").code == 0
    assert sorted(_by_index(project)) == [0, 1]


def test_only_the_first_rows_with_limit(project: Project, server: Server) -> None:
    texts(project.folder / "rows.jsonl", 9)
    assert _over(project, _one_step(project), "--limit", "3").code == 0
    assert set(_by_index(project)) == {0, 1, 2}
    assert len(server.requests) == 3


def test_equal_rows_come_out_each_and_are_asked_once(project: Project, server: Server) -> None:
    _rows(project, *[{"text": "same"}] * 5)
    assert _over(project, _one_step(project)).code == 0
    assert set(_by_index(project)) == set(range(5))
    assert len(server.requests) == 1


def test_hostile_rows_come_out_as_they_went_in(project: Project) -> None:
    values = [
        {"text": "{{ 7*7 }} $(id) </script>", "__class__": "x"},
        {"text": "line\u2028sep\x00nul\u202e"},
        {"text": "lone \ud800 half"},
        {"text": 'quote " back \\ slash\nnew'},
    ]
    (project.folder / "rows.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    file = _flow(project, steps={"same": {"value": "{{ inputs.text }}"}}, outputs={"answer": "{{ same }}"})
    outcome = _over(project, file)
    assert outcome.code == 0, outcome.said
    found = sorted(_out(project), key=lambda line: str(line["index"]))
    assert [line["row"] for line in found] == values
    assert [line["outputs"] for line in found] == [{"answer": value["text"]} for value in values]


def test_secrets_come_out_masked(project: Project) -> None:
    _rows(project, {"text": "the canary-sings here"})
    file = _flow(
        project,
        secrets=["CANARY"],
        steps={"same": {"value": "{{ inputs.text }}"}},
        outputs={"answer": "{{ same }}"},
    )
    words = ("run", file, "--over", "rows.jsonl", "--output", "out.jsonl", "--quiet")
    outcome = project.cli(*words, CANARY="canary-sings")
    assert outcome.code == 0, outcome.said
    (line,) = _out(project)
    assert line["row"] == {"text": "the *** here"}
    assert line["outputs"] == {"answer": "the *** here"}


def test_rows_may_have_fan_outs_of_their_own(project: Project, server: Server) -> None:
    file = _flow(
        project,
        steps={"words": {"foreach": "{{ inputs.text.split() }}", "prompt": "{{ item }} [text=w]"}},
        outputs={"answer": "{{ words }}"},
    )
    _rows(project, {"text": "a b"}, {"text": ""}, {"text": "c"})
    outcome = _over(project, file)
    assert outcome.code == 0, outcome.said
    assert _by_index(project) == {0: {"answer": ["w", "w"]}, 1: {"answer": []}, 2: {"answer": ["w"]}}
    assert len(server.requests) == 3
    inner = {name for (name,) in project.rows("SELECT node_id FROM nodes WHERE parent = 'row[0].words'")}
    assert inner == {"row[0].words[0]", "row[0].words[1]"}


# the file


def test_a_file_that_is_there_is_left_alone(project: Project, server: Server) -> None:
    _rows(project, {"text": "a"})
    out = project.folder / "out.jsonl"
    out.write_text("precious\n")
    outcome = _over(project, _one_step(project))
    assert outcome.code == 2, outcome.said
    assert "--overwrite" in outcome.err
    assert out.read_text() == "precious\n"
    assert server.requests == []
    assert project.run_ids() == []
    assert _over(project, _one_step(project), "--overwrite").code == 0
    assert len(_out(project)) == 1


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
def test_options_that_make_no_sense_exit_2(
    words: tuple[str, ...], said: str, project: Project, server: Server
) -> None:
    rows = _rows(project, {"text": "a"})
    before = rows.read_bytes()
    outcome = project.cli("run", _one_step(project, inputs={"text": {"default": "x"}}), *words)
    assert outcome.code == 2, outcome.said
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert rows.read_bytes() == before
    assert not (project.folder / "out.jsonl").exists()
    assert server.requests == []


def test_lines_come_as_rows_end_and_in_order_when_that_is_asked_for(project: Project, server: Server) -> None:
    _rows(project, {"text": "slow [sleep=0.4]"}, {"text": "b"}, {"text": "c"})
    file = _one_step(project)
    assert _over(project, file).code == 0
    assert [line["index"] for line in _out(project)][-1] == 0
    assert _over(project, file, "--no-cache", "--ordered", "--overwrite").code == 0
    assert [line["index"] for line in _out(project)] == [0, 1, 2]
    assert len(server.requests) == 6


def test_a_row_is_in_the_file_while_others_still_run(project: Project, server: Server) -> None:
    """The rows that follow take their time: the first one's line does not wait for the end of any."""
    _rows(project, {"text": "quick"}, {"text": "slow [sleep=20]"})
    out = project.folder / "out.jsonl"
    process = project.start("run", _one_step(project), "--over", "rows.jsonl", "--output", "out.jsonl")
    try:
        until(lambda: out.exists() and out.stat().st_size, "the first line", of=process)
        assert server.in_flight == 1
        assert [line["index"] for line in _out(project)] == [0]
    finally:
        process.kill()
        process.communicate()


def test_failed_rows_and_bad_lines_hold_up_nobody_who_comes_in_order(project: Project) -> None:
    (project.folder / "rows.jsonl").write_text(
        '{"text": "[status=400]"}\n{"text": "b [sleep=0.2]"}\nnonsense\n{"nothing": 1}\n{"text": "e"}\n'
    )
    assert _over(project, _one_step(project), "--ordered").code == 1
    assert [line["index"] for line in _out(project)] == [1, 4]


def test_more_rows_than_are_held_wait_for_their_turn(project: Project) -> None:
    """Those that are not held in memory are read back from the record, and the file is as if they had been."""
    count = 700
    json_lines(
        project.folder / "rows.jsonl",
        ({"text": "slow [sleep=1.5]" if number == 0 else f"row {number}"} for number in range(count)),
    )
    when = {"prompt": FIRST, "when": "{{ inputs.text.startswith('slow') }}"}
    file = _flow(
        project,
        steps={"first": when, "second": {"value": "{{ inputs.text }}"}},
        outputs={"answer": "{{ first | default('') }}", "text": "{{ second }}"},
    )
    outcome = _over(project, file, "--ordered")
    assert outcome.code == 0, outcome.said
    found = _out(project)
    assert [line["index"] for line in found] == list(range(count))
    assert all(line["row"]["text"] == line["outputs"]["text"] for line in found)


# rows that fail


def test_failed_rows_have_no_line_and_a_resume_runs_only_them(project: Project, server: Server) -> None:
    _rows(project, {"text": "a"}, {"text": "b [status=400]"}, {"text": "c"})
    outcome = _over(project, _flow(project))
    assert outcome.code == 1, outcome.said
    assert set(_by_index(project)) == {0, 2}
    sent = len(server.requests)
    server.script.mended = True
    outcome = project.cli("resume", "--quiet")
    assert outcome.code == 0, outcome.said
    assert set(_by_index(project)) == {0, 1, 2}
    assert [seen.prompt.split()[0] for seen in server.requests[sent:]] == ["first", "then"]
    again = project.cli("resume", project.run_ids()[0])
    assert again.code == 0, again.said
    assert set(_by_index(project)) == {0, 1, 2}


def test_dead_letters_can_be_fed_back(project: Project, server: Server) -> None:
    _rows(project, {"text": "a"}, {"text": "b [status=400]"}, {"text": "c [status=400]"})
    file = _one_step(project)
    assert _over(project, file).code == 1
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
    outcome = _over(project, _one_step(project))
    assert outcome.code == 1
    assert "100 failed" in outcome.err
    assert len(outcome.err.splitlines()) < 40


def test_what_is_run_anew_replaces_its_line(project: Project, server: Server) -> None:
    """A row whose failure was let pass has a line; the one that `--retry-failed` gives it is the one that stays."""
    _rows(project, {"text": "a"}, {"text": "b"})
    step = {"prompt": "maybe {{ inputs.text }} [status=400]", "on_error": "continue", "retry": QUICK}
    file = _flow(project, steps={"first": step}, outputs={"answer": "{{ first | default('none') }}"})
    assert _over(project, file).code == 0
    assert _by_index(project) == {0: {"answer": "none"}, 1: {"answer": "none"}}
    server.script.mended = True
    outcome = project.cli("resume", "last", "--retry-failed", "--quiet")
    assert outcome.code == 0, outcome.said
    found = _by_index(project)
    assert set(found) == {0, 1}
    assert all(line["answer"].startswith("answer ") for line in found.values())


def test_another_workflow_replaces_every_line(project: Project) -> None:
    _rows(project, {"text": "a"}, {"text": "b [status=400]"})
    assert _over(project, _one_step(project)).code == 1
    steps = {"first": {"value": "now {{ inputs.text }}"}}
    project.flow(
        name="other.yaml", inputs={"text": {"type": "string"}}, steps=steps, outputs={"answer": "{{ first }}"}
    )
    outcome = project.cli("resume", "last", "--file", "other.yaml", "--quiet")
    assert outcome.code == 0, outcome.said
    assert _by_index(project) == {0: {"answer": "now a"}, 1: {"answer": "now b [status=400]"}}


# other sittings


def test_data_that_was_edited_between_sittings(project: Project, server: Server) -> None:
    """Rows that stay are not paid again wherever they stand now, and none comes out twice."""
    _rows(project, {"text": "a"}, {"text": "b"}, {"text": "bad [status=400]"}, {"text": "c"})
    assert _over(project, _one_step(project)).code == 1
    sent = len(server.requests)
    _rows(project, {"text": "c"}, {"text": "new"}, {"text": "a"})
    outcome = project.cli("resume", "--quiet")
    assert outcome.code == 0, outcome.said
    assert [seen.prompt for seen in server.requests[sent:]] == ["first of new"]
    found = _out(project)
    assert len({line["index"] for line in found}) == len(found)
    often = [line["row"]["text"] for line in found]
    assert sorted(often) == ["a", "b", "c", "new"]


def test_what_stands_behind_the_recorded_end_is_cut(project: Project) -> None:
    """As after a crash between the file and the record of how far it is."""
    _rows(project, {"text": "a"}, {"text": "bad [status=400]"})
    assert _over(project, _one_step(project)).code == 1
    out = project.folder / "out.jsonl"
    with out.open("a") as file:
        file.write('{"index": 1, "row": {"text": "b')
    assert project.cli("resume", "--quiet").code == 1
    assert set(_by_index(project)) == {0}


@pytest.mark.parametrize("left", ["", "another's\n", None])
def test_a_file_that_is_not_as_it_was_left(left: str | None, project: Project, server: Server) -> None:
    _rows(project, {"text": "a"}, {"text": "bad [status=400]"})
    assert _over(project, _one_step(project)).code == 1
    out, sent = project.folder / "out.jsonl", len(server.requests)
    before = out.read_bytes()
    if left is None:
        out.unlink()
    else:
        out.write_text(left)
    outcome = project.cli("resume", "--quiet")
    assert outcome.code == 2, outcome.said
    assert "out.jsonl" in outcome.err
    assert "--overwrite" in outcome.err
    assert len(server.requests) == sent
    assert out.exists() == (left is not None)
    out.write_bytes(before)
    server.script.mended = True
    assert project.cli("resume", "--quiet").code == 0
    assert set(_by_index(project)) == {0, 1}


def test_the_files_are_found_from_another_folder(project: Project) -> None:
    _rows(project, {"text": "a"}, {"text": "bad [status=400]"})
    assert _over(project, _one_step(project)).code == 1
    elsewhere = project.folder / "elsewhere"
    elsewhere.mkdir()
    outcome = project.cli("resume", "--quiet", "--db", project.database)
    assert outcome.code == 1, outcome.said
    assert set(_by_index(project)) == {0}


# --json


def test_json_tells_counts_and_no_more_than_the_first_outputs(project: Project) -> None:
    texts(project.folder / "rows.jsonl", 3)
    result = project.json("run", _flow(project), "--over", "rows.jsonl", "--output", "out.jsonl")
    assert result["status"] == "succeeded"
    assert result["outputs"] == {}
    (row,) = result["steps"].values()
    assert row["counts"]["total"] == row["counts"]["succeeded"] == 3
    assert result["requests"]["sent"] == 6
    assert result["inputs"] == {}
