"""What the commands show of a foreach, of steps within steps and of rows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from flowllm.cli.main import cli

FAN = """\
name: fan
defaults: {provider: simulated, model: gpt-4o-mini}
inputs: {topics: {type: array, default: [tea, coffee, milk]}}
steps:
  ratios: {foreach: "{{ range(30) | list }}", value: "{{ 6 / (item % 15) }}", on_error: continue}
  people: {foreach: [{n: 0, name: Ann}, {n: 1, name: Bo}], value: "{{ 1 / item.n }}", on_error: continue}
  posts:
    foreach: "{{ inputs.topics }}"
    as: topic
    with: {topic: "{{ topic }}"}
    workflow:
      inputs: {topic: {type: string}}
      steps:
        headline: {prompt: "Headline for {{ inputs.topic }}"}
        body: {prompt: "Body for {{ headline }}"}
      outputs: {body: "{{ body }}"}
  intro:
    workflow:
      steps: {line: {prompt: "One line"}}
      outputs: {line: "{{ line }}"}
  joined: {value: "{{ posts | length }} {{ intro.line }}"}
outputs: {n: "{{ ratios | length }}"}
"""
ROWS = """\
name: rows
defaults: {provider: simulated, model: gpt-4o-mini}
inputs: {text: {type: string}, n: {type: integer, default: 1}}
steps:
  ratio: {value: "{{ 6 / inputs.n }}"}
  draft: {prompt: "Draft {{ inputs.text }}"}
  polish: {prompt: "Polish {{ draft }} {{ ratio }}"}
outputs: {polish: "{{ polish }}"}
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "FLOWLLM_")):
            monkeypatch.delenv(name)
    (tmp_path / "fan.yaml").write_text(FAN)
    (tmp_path / "rows.yaml").write_text(ROWS)
    (tmp_path / "rows.csv").write_text("text,n\ntea,1\ncoffee,2\nmilk,0\njuice,3\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def flowllm(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == code, done.output
    return done


def data(*arguments: str, code: int = 0) -> Any:
    return json.loads(flowllm(*arguments, "--json", code=code).stdout)


def letters(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in flowllm("failed", *arguments).stdout.splitlines()]


def test_a_run_is_shown_in_few_lines_and_with_counts() -> None:
    told = flowllm("run", "fan.yaml").stderr
    assert "RUN       ratios 30 items" in told
    assert "OK        ratios 30 items: 28 succeeded, 2 failed" in told
    assert "ratios[1] " not in told
    assert told.count("ERROR     ratios[") == 2
    assert "OK        posts[2]" in told
    assert "posts[2].headline" not in told
    assert "OK        intro.line" in told
    assert "5 steps; " in told
    assert "posts 3 items" in told
    assert "ratios 30 items (28 succeeded, 2 failed)" in told
    run_id = data("runs")[0]["run_id"]
    assert f"be mended for resume --mended: flowllm failed {run_id}" in told

    shown = flowllm("show", "last").stdout
    assert "foreach 30: 28 ok, 2 failed" in shown
    assert "foreach 3: 3 ok" in shown
    assert f"the failed items: flowllm failed {run_id}" in shown
    assert data("show", "last")["steps"]["ratios"]["counts"]["failed"] == 2


def test_items_and_the_steps_within_them_are_shown() -> None:
    flowllm("run", "fan.yaml", "-q")
    foreach = flowllm("show", "last", "ratios").stdout
    assert "items        30: 28 ok, 2 failed" in foreach
    assert "ratios[0]   failed     TemplateFailed: fan.yaml:5:" in foreach
    assert "ratios[1]   succeeded  6.0" in foreach
    listed = [line.split()[1] for line in foreach.splitlines() if line.startswith("ratios[")]
    assert listed == [*["failed"] * 2, *["succeeded"] * 18]
    assert "\nand 10 more\n\nthe failed items: flowllm failed " in foreach
    whole = data("show", "last", "ratios")
    assert len(whole["items"]) == len(whole["output"]) == 30
    assert whole["items"][2] == {
        "node": "ratios[2]", "index": 2, "item": 2, "status": "succeeded", "output": 3.0, "error": None,
    }  # fmt: skip

    item = data("show", "last", "posts[1]")
    assert (item["index"], item["item"]) == (1, "coffee")
    assert list(item["steps"]) == ["posts[1].headline", "posts[1].body"]
    inner = flowllm("show", "last", "posts[1].headline").stdout
    assert "user\n----\nHeadline for coffee" in inner
    assert "1 attempt" in inner
    step = flowllm("show", "last", "intro").stdout
    assert "intro.line  prompt  succeeded" in step
    assert "One line" in flowllm("show", "last", "intro.line").stdout


def test_a_node_that_is_not_there_is_refused_with_what_is() -> None:
    flowllm("run", "fan.yaml", "-q")
    assert "shows what is within posts" in flowllm("show", "last", "posts[99]", code=2).stderr
    assert "did you mean `posts`?" in flowllm("show", "last", "post", code=2).stderr
    assert "did you mean `ratios`?" in flowllm("failed", "last", "--step", "ratio", code=2).stderr
    assert "has no record of a step" in flowllm("why", "last", "posts[99]", code=2).stderr


def test_why_an_item_was_asked_again(project: Path) -> None:
    flowllm("run", "fan.yaml", "-q")
    (project / "fan.yaml").write_text(FAN.replace("Headline for", "A title for"))
    flowllm("run", "fan.yaml", "-q", "-i", 'topics=["tea", "water", "milk"]')
    why = data("why", "last", "posts[1].headline")
    assert [change["after"] for change in why["changes"]] == ["A title for water"]
    body = data("why", "last", "posts[1].body")
    assert "the output of posts[1].headline changed" in body["causes"]
    item = data("why", "last", "posts[1]")
    assert "posts[1] is another item" in item["causes"]
    assert "'posts[0]'` tells of its first one" in flowllm("why", "last", "posts").stdout


def test_failed_items_are_printed_as_they_were() -> None:
    flowllm("run", "fan.yaml", "-q")
    found = letters("last")
    assert [one["_node"] for one in found] == ["people[0]", "ratios[0]", "ratios[15]"]
    assert found[0].items() >= {"n": 0, "name": "Ann"}.items()
    assert found[2]["item"] == 15
    assert set(found[2]["_error"]) == {"type", "message"}
    assert "division by zero" in found[2]["_error"]["message"]
    assert letters("last", "--step", "ratios") == found[1:]
    assert letters("last", "--step", "posts") == []
    assert "has no failed items" in flowllm("failed", "last", "--step", "posts").stderr


def test_failed_rows_are_run_again() -> None:
    first = flowllm("run", "rows.yaml", "--over", "rows.csv", "--output", "out.jsonl", code=1)
    assert "be mended for resume --mended: flowllm failed " in first.stderr
    assert ": rows: 4, 3 succeeded, 1 failed; written to out.jsonl\n" in first.stderr
    assert "1 step" not in first.stderr
    shown = flowllm("show", "last").stdout
    assert "foreach 4: 3 ok, 1 failed" in shown
    assert "draft" not in shown
    assert list(data("show", "last")["steps"]) == ["row"]
    assert "row[2].ratio   value   failed" in flowllm("show", "last", "row[2]").stdout

    [letter] = letters("last")
    assert letter.items() >= {"text": "milk", "n": "0", "_node": "row[2]"}.items()
    assert letter["_error"]["type"] == "GraphFailed"
    with open("again.jsonl", "w") as file:  # noqa: PTH123 - in the working directory
        file.write(json.dumps(letter | {"n": 6}) + "\n")
    flowllm("run", "rows.yaml", "--over", "again.jsonl", "--output", "more.jsonl")
    assert letters("last") == []
    assert "has no failed rows" in flowllm("failed", "last").stderr


def test_a_failed_row_without_fields_is_the_input_that_it_was(project: Path) -> None:
    (project / "texts.txt").write_text("tea\nmilk\n")
    (project / "rows.yaml").write_text(ROWS.replace("6 / inputs.n", "6 / (inputs.text | length - 4)"))
    flowllm("run", "rows.yaml", "--over", "texts.txt", "--output", "out.jsonl", code=1)
    [letter] = letters("last")
    assert letter["text"] == "milk"
    (project / "again.jsonl").write_text(flowllm("failed", "last").stdout)
    again = flowllm("run", "rows.yaml", "--over", "again.jsonl", "--output", "more.jsonl", code=1)
    assert "division by zero" in again.stderr
    [twice] = letters("last")
    assert (twice["text"], twice["_node"]) == ("milk", "row[0]")


def test_rows_that_could_not_be_read_are_printed_too(project: Path) -> None:
    (project / "bad.csv").write_text("text,n\ntea,1\nmilk,1,2,3\n")
    flowllm("run", "rows.yaml", "--over", "bad.csv", "--output", "out.jsonl", code=1)
    [letter] = letters("last")
    assert letter["_node"] == "row[1]"
    assert "milk" in json.dumps(letter)


def test_all_items_are_printed_when_all_are_wanted(project: Path) -> None:
    (project / "long.yaml").write_text(
        "name: long\nsteps: {n: {foreach: '{{ range(1100) | list }}', value: '{{ item }}'}}\n"
    )
    assert len(data("run", "long.yaml")["steps"]["n"]["output"]) == 1000
    assert len(data("run", "long.yaml", "--full")["steps"]["n"]["output"]) == 1100
    assert len(data("show", "last", "n")["items"]) == 1000
    assert len(data("show", "last", "n", "--full")["items"]) == 1100
    assert len(data("show", "last", "--full")["steps"]["n"]["output"]) == 1100


def test_a_plan_counts_items() -> None:
    plan = data("plan", "fan.yaml")
    assert plan["steps"]["posts"].items() >= {"items": 3, "requests": 6, "state": "send"}.items()
    assert plan["steps"]["posts"]["range"]["input_tokens"]["low"] > 0
    assert plan["requests"] == 7
    flowllm("run", "fan.yaml", "-q")
    plan = data("plan", "fan.yaml", "-i", 'topics=["tea", "water"]')
    assert plan["steps"]["posts"].items() >= {"items": 2, "requests": 2}.items()
    assert plan["steps"]["joined"]["state"] == "maybe"
    assert plan["steps"]["intro"]["state"] == "cached"
    text = flowllm("plan", "fan.yaml", "--limit", "2").stdout
    assert "2 items, 2 cached" in text
    assert "\nsends    0 requests to simulated; 5 answers stored already\n" in text


def test_events_tell_which_item_they_are_of() -> None:
    flowllm("run", "rows.yaml", "--over", "rows.csv", "--output", "out.jsonl", "--events", "e.jsonl", code=1)
    with open("e.jsonl") as file:  # noqa: PTH123 - in the working directory
        events = [json.loads(line) for line in file]
    assert events[0]["over"].endswith("rows.csv")
    assert events[0]["output"].endswith("out.jsonl")
    [fan] = [event for event in events if event["event"] == "FanOutStarted"]
    assert (fan["node_id"], "total" in fan) == ("row", True)
    [ended] = [event for event in events if event["event"] == "NodeEnded" and event["node_id"] == "row[2]"]
    assert (ended["parent"], ended["place"], ended["counts"]) == ("row", 2, None)
    [whole] = [event for event in events if event["event"] == "NodeEnded" and event["node_id"] == "row"]
    assert whole["counts"]["failed"] == 1


def test_failed_items_within_rows_are_counted_and_printed_when_asked_for(project: Path) -> None:
    (project / "deep.yaml").write_text(
        "name: deep\n"
        "inputs: {n: {type: integer}}\n"
        "steps: {parts: {foreach: [0, 1], value: '{{ inputs.n / item }}', on_error: continue}}\n"
        "outputs: {parts: '{{ parts }}'}\n"
    )
    (project / "n.csv").write_text("n\n1\n2\n")
    flowllm("run", "deep.yaml", "--over", "n.csv", "--output", "out.jsonl")
    told = flowllm("failed", "last")
    assert told.stdout == ""
    assert "2 failed items within rows: --step row.STEP prints those of one step" in told.stderr
    assert [one["_node"] for one in letters("last", "--step", "row.parts")] == ["row[0].parts[0]", "row[1].parts[0]"]
    shown = flowllm("show", "last", "row[1]").stdout
    assert "row[1].parts  value  succeeded" in shown
    assert "foreach 2: 1 ok, 1 failed" in shown
