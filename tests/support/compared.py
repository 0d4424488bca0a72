"""Two runs of one workflow that differ in every way that `diff` tells of."""

from __future__ import annotations

import json
from typing import Any

from tests.support.project import Project
from tests.support.replies import Reply, prompt_of
from tests.support.server import Server

REVIEWS = (
    "Arrived broken.",
    "Love it, love it!",
    "It is a chair.",
    "Too small for me.",
    "Love it, love it!",
    "Never again",
)
NEW = (REVIEWS[1], "Best chair of the year", *REVIEWS[2:5], REVIEWS[0])
"""One was added, one removed, one moved; the equal ones stay two."""
SUMMARY = (
    "Customers are mostly happy with the chair. Several praise how quickly it arrives.\n\n"
    "What to mend first: the packaging, since {} of six arrived broken.\nEverything else can wait."
)
CLASSIFY = {
    "prompt": "{} {{{{ item.review }}}}",
    "foreach": {"file": "reviews.csv"},
    "on_error": "continue",
    "output": {
        "type": "object",
        "properties": {"label": {"type": "string"}, "score": {"type": "number"}},
        "required": ["label", "score"],
    },
}


def _answer(day: int, text: str) -> Reply:
    if text.startswith("Summarise"):
        return Reply(text=SUMMARY.format(("two", "one")[day]))
    if text.startswith("Title"):
        return Reply(text="A chair for everybody")
    if "Too small" in text and day == 0:
        return Reply(status=400, body={"error": {"message": "the prompt was refused", "type": "invalid_request_error"}})
    labels = {"Arrived": ("bad", "bad"), "It is": ("neutral", "good")}
    label = next((pair[day] for word, pair in labels.items() if word in text), "good")
    score = {"Arrived": (0.2, 0.1), "It is": (0.5, 0.75)}
    return Reply(text=json.dumps({"label": label, "score": next((s[day] for w, s in score.items() if w in text), 0.9)}))


def two_runs(project: Project, server: Server) -> list[str]:
    """Yesterday's and today's; their ids."""
    project.write("flowllm.yaml", {"prices": {"test-model": {"input": 1000, "output": 4000}}})
    for day, reviews in enumerate((REVIEWS, NEW)):
        server.script = lambda body, _n, day=day: _answer(day, prompt_of(body))
        project.write("reviews.csv", "review\n" + "".join(f'"{one}"\n' for one in reviews))
        steps: dict[str, Any] = {
            "title": {"prompt": "Title of a page on {{ inputs.product }}"},
            "classify": {**CLASSIFY, "prompt": f"{('Classify', 'Classify the review')[day]}: {{{{ item.review }}}}"},
            "summary": {"prompt": "Summarise {{ steps.classify | length }} reviews" + (" briefly" * day)},
        }
        steps["summary"]["needs"] = ["classify"]
        steps |= {"closing": {"value": "Bye"}} if day else {"opening": {"value": "Hello"}}
        flow = project.flow(
            inputs={"product": "the chair", "tone": ("calm", "lively")[day]},
            steps=steps,
            outputs={"s": "{{ summary }}"},
        )
        project.cli("run", flow)
    return project.run_ids()
