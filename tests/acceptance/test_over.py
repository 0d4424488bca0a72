"""`--over DATASET --output FILE`: each row is one run of the graph, and comes out once."""

from __future__ import annotations

import json

from tests.support.dataset import texts
from tests.support.over import one_step, out, outputs_by_index, over, rows, two_steps
from tests.support.project import Project, prompts
from tests.support.server import Server

# what goes in and what comes out


def test_each_row_is_one_run_of_the_graph(project: Project, server: Server) -> None:
    texts(project.folder / "rows.jsonl", 12)
    outcome = over(project, two_steps(project))
    assert outcome.code == 0, outcome.said
    assert outcome.out == "", "results go to the file"
    assert len(server.requests) == 24
    found = {line["index"]: line for line in out(project)}
    assert sorted(found) == list(range(12))
    for index, line in found.items():
        assert line["row"] == {"text": f"row {index}"}
        first = next(seen for seen in server.requests if seen.prompt == f"first of row {index}")
        assert any(
            seen.prompt.startswith("then answer") and seen.arrived >= (first.finished or 0) for seen in server.requests
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
    outcome = over(project, file, data="rows.csv")
    assert outcome.code == 0, outcome.said
    (line,) = out(project)
    assert line["outputs"] == {"all": [3, 0.5, True, ["a", 1], "plain"]}
    assert line["row"] == {"id": "7", "count": "3", "share": "0.5", "sure": "true", "tags": '["a", 1]'}


def test_an_input_on_the_command_line_holds_for_every_row_that_has_none(project: Project) -> None:
    file = project.flow(
        inputs={"text": {"type": "string"}, "tone": {"type": "string"}, "size": {"type": "integer"}},
        steps={"all": {"value": "{{ [inputs.text, inputs.tone, inputs.size] }}"}},
        outputs={"all": "{{ all }}"},
    )
    rows(project, {"text": "a"}, {"text": "b", "tone": "loud"})
    outcome = over(project, file, "-i", "tone=calm", "-i", "size=4")
    assert outcome.code == 0, outcome.said
    assert outputs_by_index(project) == {0: {"all": ["a", "calm", 4]}, 1: {"all": ["b", "loud", 4]}}


def test_the_ending_of_the_output_says_how_it_is_written(project: Project, server: Server) -> None:
    texts(project.folder / "rows.jsonl", 3)
    flow = one_step(project)
    outcome = project.cli("run", flow, "--over", "rows.jsonl", "--output", "o.csv", "--ordered", "--quiet")
    assert outcome.code == 0, outcome.said
    header, *records = (project.folder / "o.csv").read_text().splitlines()
    assert header == "index,text,answer"
    assert [record.partition(",")[0] for record in records] == ["0", "1", "2"]
    assert records[1].startswith("1,row 1,")
    assert records[1].endswith("to: first of row 1")
    outcome = project.cli("run", flow, "--over", "rows.jsonl", "--output", "o.parquet")
    assert outcome.code == 2
    assert "no .parquet is written while a run goes on" in outcome.said
    assert len(server.requests) == 3
    assert not (project.folder / "o.parquet").exists()


def test_rows_without_an_input_or_of_a_wrong_type_fail_alone(project: Project, server: Server) -> None:
    file = project.flow(
        inputs={"text": {"type": "string"}, "count": {"type": "integer"}},
        steps=prompts(first="{{ inputs.text }} {{ inputs.count }}"),
        outputs={"answer": "{{ first }}"},
    )
    rows(
        project,
        {"text": "good", "count": 1},
        {"texts": "a slip", "count": 1},
        {"text": "b", "count": "many"},
        {"text": "fine", "count": "2"},
    )
    outcome = over(project, file)
    assert outcome.code == 1, outcome.said
    assert "Traceback" not in outcome.err
    assert set(outputs_by_index(project)) == {0, 3}
    assert sorted(seen.prompt for seen in server.requests) == ["fine 2", "good 1"]
    wrong = dict(project.rows("SELECT node_id, error FROM nodes WHERE parent = 'row' AND status = 'failed'"))
    assert "`text` is missing" in wrong["row[1]"]
    assert "text" in json.loads(wrong["row[1]"])["hint"]
    assert "`count`" in wrong["row[2]"]


def test_a_line_that_cannot_be_read_fails_alone(project: Project, server: Server) -> None:
    (project.folder / "rows.jsonl").write_text('{"text": "a"}\n{"text": \n{"text": "c"}\n')
    outcome = over(project, one_step(project))
    assert outcome.code == 1, outcome.said
    assert "rows.jsonl:2" in outcome.err
    assert set(outputs_by_index(project)) == {0, 2}
    assert len(server.requests) == 2


def test_lines_of_text_are_the_one_input(project: Project) -> None:
    project.write("rows.txt", "uno\ndos\n")
    outcome = over(project, one_step(project), data="rows.txt")
    assert outcome.code == 0, outcome.said
    assert [line["row"] for line in sorted(out(project), key=lambda line: str(line["index"]))] == ["uno", "dos"]


def test_no_rows_succeed_with_an_empty_file(project: Project, server: Server) -> None:
    rows(project)
    outcome = over(project, two_steps(project))
    assert outcome.code == 0, outcome.said
    assert out(project) == []
    assert "rows.jsonl has no rows" in outcome.err
    assert server.requests == []


def test_a_data_set_that_fits_no_input_is_refused_before_anything_is_sent(project: Project, server: Server) -> None:
    flow = one_step(project)
    for name, data, told in (
        ("rows.csv", "Text;x\na;b\n", "did you mean `Text`?"),
        ("rows.jsonl", '{"test": 1}\n', "did you mean `test`?"),
        ("rows.csv", "Text;x\n", "did you mean `Text`?"),
        ("rows.dat", "n\n", "no column of rows.dat is an input: it has `n`"),
        ("rows.parquet", "n\n1\n", "pandas.read_parquet('rows.parquet')"),
        ("rows.csv", "n\n1\n", "no column of rows.csv is an input: it has `n`, and the workflow has `text`"),
    ):
        project.write(name, data)
        outcome = over(project, flow, data=name)
        assert (outcome.code, told in outcome.said) == (2, True), outcome.said
        assert not (project.folder / "out.jsonl").exists()
    assert server.requests == []
    assert project.run_ids() == []
    project.write("rows.csv", "text\n")
    outcome = over(project, flow, "--overwrite", data="rows.csv")
    assert (outcome.code, "rows.csv has no rows" in outcome.err) == (0, True), outcome.said
    (project.folder / "out.jsonl").unlink()
    project.write("rows.dat", " text # tent\na # b\n")
    outcome = project.cli("run", flow, "--over", "rows.dat", "--delimiter", "#", "--output", "out.jsonl")
    assert outcome.code == 0
    assert "`tent`" not in outcome.said
    assert server.requests[0].prompt == "first of a "


def test_keep_decides_which_rows_have_a_line(project: Project, server: Server) -> None:
    rows(project, *({"text": text} for text in ("good", "bad", "none", "odd")))
    top: dict[str, object] = {
        "steps": {
            "first": {"prompt": "{{ inputs.text }}", "when": "{{ inputs.text != 'none' }}"},
            "good": {"value": "{{ inputs.text if inputs.text == 'odd' else inputs.text == 'good' }}"},
        },
        "outputs": {"answer": "{{ first }}"},
    }
    outcome = over(project, two_steps(project, keep="{{ good if first else true }}", **top), "--json")
    assert outcome.code == 1
    assert "a condition must give true or false" in outcome.said
    assert [line["index"] for line in out(project)] == [0]
    counts = outcome.json["steps"]["row"]["counts"]
    assert (counts["succeeded"], counts["skipped"], counts["failed"]) == (1, 2, 1)
    assert len(server.requests) == 3
    mended = two_steps(project, keep="{{ good != false and outputs.answer is not none }}", **top)
    assert project.cli("resume", "--file", mended, "--quiet").code == 0
    assert sorted(line["index"] for line in out(project)) == [0, 3]
    again = project.cli("resume", "--quiet", "--file", mended)
    assert again.code == 0
    assert sorted(line["index"] for line in out(project)) == [0, 3]
    assert len(server.requests) == 3, "what was answered stands"


def test_rows_that_were_not_kept_are_looked_at_again_with_retry_failed(project: Project) -> None:
    rows(project, {"text": "a"}, {"text": "b"})
    flow = two_steps(
        project,
        steps={"a": {"shell": "test -e ok", "on_error": "continue", "retry": {"max_attempts": 1}}},
        outputs={"text": "{{ inputs.text }}"},
        keep="{{ steps.a.status == 'succeeded' }}",
    )
    assert over(project, flow).code == 0
    assert out(project) == []
    project.write("ok", "")
    assert project.cli("resume", "last", "--retry-failed", "--quiet").code == 0
    assert sorted(outputs_by_index(project)) == [0, 1]


def test_only_the_first_rows_with_limit(project: Project, server: Server) -> None:
    texts(project.folder / "rows.jsonl", 9)
    assert over(project, one_step(project), "--limit", "3").code == 0
    assert set(outputs_by_index(project)) == {0, 1, 2}
    assert len(server.requests) == 3


def test_equal_rows_come_out_each_and_are_asked_once(project: Project, server: Server) -> None:
    rows(project, *[{"text": "same"}] * 5)
    assert over(project, one_step(project)).code == 0
    assert set(outputs_by_index(project)) == set(range(5))
    assert len(server.requests) == 1


def test_hostile_rows_come_out_as_they_went_in(project: Project) -> None:
    values = [
        {"text": "{{ 7*7 }} $(id) </script>", "__class__": "x"},
        {"text": "line\u2028sep\x00nul\u202e"},
        {"text": "lone \ud800 half"},
        {"text": 'quote " back \\ slash\nnew'},
    ]
    (project.folder / "rows.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    file = two_steps(project, steps={"same": {"value": "{{ inputs.text }}"}}, outputs={"answer": "{{ same }}"})
    outcome = over(project, file)
    assert outcome.code == 0, outcome.said
    found = sorted(out(project), key=lambda line: str(line["index"]))
    assert [line["row"] for line in found] == values
    assert [line["outputs"] for line in found] == [{"answer": value["text"]} for value in values]


def test_secrets_come_out_masked(project: Project) -> None:
    rows(project, {"text": "the canary-sings here"})
    file = two_steps(
        project, secrets=["CANARY"], steps={"same": {"value": "{{ inputs.text }}"}}, outputs={"answer": "{{ same }}"}
    )
    words = ("run", file, "--over", "rows.jsonl", "--output", "out.jsonl", "--quiet")
    outcome = project.cli(*words, CANARY="canary-sings")
    assert outcome.code == 0, outcome.said
    (line,) = out(project)
    assert line["row"] == {"text": "the *** here"}
    assert line["outputs"] == {"answer": "the *** here"}


def test_rows_may_have_fan_outs_of_their_own(project: Project, server: Server) -> None:
    file = two_steps(
        project,
        steps={"words": {"foreach": "{{ inputs.text.split() }}", "prompt": "{{ item }} [text=w]"}},
        outputs={"answer": "{{ words }}"},
    )
    rows(project, {"text": "a b"}, {"text": ""}, {"text": "c"})
    outcome = over(project, file)
    assert outcome.code == 0, outcome.said
    assert outputs_by_index(project) == {0: {"answer": ["w", "w"]}, 1: {"answer": []}, 2: {"answer": ["w"]}}
    assert len(server.requests) == 3
    inner = {name for (name,) in project.rows("SELECT node_id FROM nodes WHERE parent = 'row[0].words'")}
    assert inner == {"row[0].words[0]", "row[0].words[1]"}
