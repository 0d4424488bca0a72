"""What people do with a data set, from its first line to the table that they send on."""

from __future__ import annotations

import csv
import json
import signal
from collections import Counter

from tests.support.project import Project, until

ROWS = 2000
EARLIER = 100
WRONG = (7, 77, 777)
FLOW = """
    inputs: {text: , stars: {type: integer}}
    defaults: {provider: sim, model: small}
    providers: {sim: {type: simulated, latency: 20ms}}
    limits: {max_concurrent: 100}
    steps:
      verdict:
        prompt: "What is this review of {{ inputs.stars }} stars about? {{ inputs.text }}"
        output:
          type: object
          properties: {topic: {enum: [price, taste, service]}, sure: {type: boolean}}
          required: [topic, sure]
    outputs: {topic: "{{ verdict.topic }}", sure: "{{ verdict.sure }}"}
"""


def test_two_thousand_rows_stopped_resumed_mended_and_exported(project: Project) -> None:
    project.write("classify.yaml", FLOW)
    lines = [f"review {n},{'many' if n in WRONG else n % 5 + 1}\n" for n in range(ROWS)]
    project.write("reviews.csv", "text,stars\n" + "".join(lines))
    over = ("run", "classify.yaml", "--over", "reviews.csv", "--output")

    outcome = project.cli(*over, "yesterday.csv", "--limit", EARLIER, "--set", "verdict.model=older", "--quiet")
    assert outcome.code == 1, outcome.said

    running = project.start(*over, "today.csv")
    until(lambda: ended(project) > EARLIER + 200, "some rows", of=running)
    running.send_signal(signal.SIGINT)
    stopped = project.finish(running)
    assert stopped.code == 130, stopped.said
    done = table(project, "export", "last", "--output", "part.csv")
    assert 200 < sum(row["status"] == "succeeded" for row in done) < ROWS

    resumed = project.cli("resume", "last", "--quiet")
    assert resumed.code == 1, resumed.said
    wrong = project.cli("failed", "last").out
    assert [json.loads(line)["stars"] for line in wrong.splitlines()] == ["many"] * len(WRONG)
    project.write("mended.jsonl", wrong.replace('"many"', '"3"'))
    assert project.cli("resume", "last", "--mended", "mended.jsonl", "--quiet").code == 0

    found = table(project, "export", "last", "--output", "results.csv")
    assert [int(row["index"]) for row in found] == list(range(ROWS))
    assert Counter(row["status"] for row in found) == {"succeeded": ROWS}
    assert [row["item.stars"] for row in found if int(row["index"]) in WRONG] == ["3"] * len(WRONG)
    assert {row["output.topic"] for row in found} == {"price", "taste", "service"}
    assert all(row["input_tokens"] and row["took_s"] for row in found)
    appended = list(csv.DictReader((project.folder / "today.csv").open()))
    assert {row["index"]: (row["text"], row["stars"], row["topic"], row["sure"]) for row in appended} == {
        row["index"]: (row["item.text"], row["item.stars"], row["output.topic"], row["output.sure"]) for row in found
    }, "what was asked stands beside what was answered"
    run, _ = project.json("runs")
    sent = project.rows("SELECT count(*) FROM attempts WHERE run_id = ? AND status = 'succeeded'", run["run_id"])
    assert sent == [(ROWS,)], "nothing was sent twice"

    compared = project.cli("diff", "last~1", "last", "--fail-on", "change", "--json")
    assert compared.code == 1, compared.said
    items = compared.json["steps"][0]["items"]
    assert (items["added"], items["removed"]) == (ROWS - EARLIER, 0), "a mended row is still that row"
    assert items["changed"] > items["same"] >= 0
    project.write("reviews.csv", "".join(["text,stars\n", *lines]).replace("many", "3"))
    assert project.cli(*over, "tomorrow.csv", "--limit", EARLIER, "--quiet").code == 0
    items = project.json("diff", "last~1", "last")["steps"][0]["items"]
    assert (items["same"], items["added"]) == (EARLIER, 0), "and it is what the data has since that was mended alike"


def ended(project: Project) -> int:
    if not project.run_ids():
        return 0
    found = project.rows("SELECT count(*) FROM nodes WHERE parent = 'row' AND status = 'succeeded'")
    return int(found[0][0])


def table(project: Project, *words: str) -> list[dict[str, str]]:
    outcome = project.cli(*words)
    assert outcome.code == 0, outcome.said
    with (project.folder / words[-1]).open(newline="") as file:
        return list(csv.DictReader(file))
