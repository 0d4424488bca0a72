"""`flowllm plan` as people see it."""

from __future__ import annotations

import pytest

from tests.support.project import Project

FLOW = {
    "defaults": {"provider": "openai", "model": "gpt-4o-mini", "max_tokens": 100},
    "inputs": {"words": {"type": "array", "default": ["tea", "milk", "\x1b[31mred"]}},
    "steps": {
        "each": {"foreach": "{{ inputs.words }}", "prompt": "About {{ item }}", "system": "Be brief."},
        "open": {"prompt": "Open end on {{ each | join }}"},
        "graph": {
            "with": {"text": "{{ each[0] }}"},
            "workflow": {
                "inputs": {"text": {"type": "string"}},
                "steps": {"inner": {"prompt": "Within: {{ inputs.text }}"}},
                "outputs": {"inner": "{{ inner }}"},
            },
        },
    },
}
KEY = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}


@pytest.fixture
def planned(project: Project) -> Project:
    project.write("flow.yaml", FLOW)
    return project


def test_nothing_is_wider_than_the_screen_and_nothing_is_lost(planned: Project) -> None:
    for columns in (40, 60, 80, 120):
        outcome = planned.cli("plan", "flow.yaml", **KEY, COLUMNS=str(columns))
        assert max(map(len, outcome.out.splitlines())) <= columns
        assert all(line == line.rstrip() for line in outcome.out.splitlines())
        said = " ".join(outcome.out.split())
        assert "list price of openai/gpt-4o-mini" in said
        assert "with every repair, retry and fallback" in said
        assert "RANGE" in outcome.out.splitlines()[0], "the range stays on the narrowest screen"
        assert "\x1b" not in outcome.out
    shown = outcome.out.splitlines()
    assert shown[0].split() == ["GEN", "STEP", "STATE", "REQS", "TOKENS", "IN", "OUT", "COST", "RANGE", "WHY"]
    assert shown[1].endswith("3 items; never answered before")
    assert [line.split()[0] for line in shown if line.startswith("       inner")] == ["inner"]


@pytest.mark.parametrize(
    ("usd", "verdict", "said"),
    [
        (0.0000001, "over", "the run would be over it by"),
        (0.0001, "expected_over", "is expected to be over it by"),
        (0.000391, "maybe_over", "could be over it by"),
        (0.0006, "within_once", "unless very many answers have to be asked for again"),
        (5, "within", "$5.00: the run stays within it"),
    ],
)
def test_a_budget_is_held_against_the_range(planned: Project, usd: float, verdict: str, said: str) -> None:
    words = ("plan", "flow.yaml", "--budget", f"usd={usd:.7f}")
    data = planned.json(*words, **KEY)
    assert data["budget"]["usd"]["verdict"] == verdict, data["range"]
    assert said in " ".join(planned.cli(*words, **KEY).out.split())


def test_prompts_are_shown_as_far_as_they_are_known(planned: Project) -> None:
    said = planned.cli("plan", "flow.yaml", "--show", "each", **KEY).out
    assert "each[0]\n-------\nmodel: gpt-4o-mini, max_tokens: 100\n[system]\nBe brief.\n[user]\nAbout tea\n" in said
    assert "About \\x1b[31mred" in said
    first = planned.json("plan", "flow.yaml", "--show", "each", "--limit", 1, **KEY)["prompts"]
    assert [(one["step"], one["body"]["messages"][1]["content"]) for one in first] == [("each[0]", "About tea")]
    assert "not known yet: it waits for each" in planned.cli("plan", "flow.yaml", "--show", "graph.inner", **KEY).out
    secret = {**KEY, "OPENAI_API_KEY": "sk-0123456789abcdef"}
    said = planned.cli("plan", "flow.yaml", "-i", 'words=["my sk-0123456789abcdef"]', "--show", "each", **secret).out
    assert "About my ***" in said
    for wrong, hint in (("nothing", "there is `each`"), ("graph", "within it: graph.inner")):
        outcome = planned.cli("plan", "flow.yaml", "--show", wrong, **KEY)
        assert (outcome.code, hint in outcome.err) == (2, True)


def test_rows_are_counted_and_own_prices_count(planned: Project) -> None:
    steps = {"a": {"prompt": "say {{ inputs.x }}"}}
    planned.write("rows.yaml", {"defaults": FLOW["defaults"], "inputs": {"x": {"type": "string"}}, "steps": steps})
    planned.write("rows.csv", "x\n" + "".join(f"row {n}\n" for n in range(40)))
    planned.write("flowllm.yaml", "prices: {gpt-4o-mini: {input: 10, output: 100}}\n")
    data = planned.json("plan", "rows.yaml", "--over", "rows.csv", **KEY)
    row = data["steps"]["row"]
    assert (row["items"], row["requests"], row["steps"]["a"]["list_price"]) == (40, 40, None)
    assert data["cost_usd"] == pytest.approx(40 * (100 * 100 + 10 * data["input_tokens"] / 40) / 1e6, rel=0.01)
    limited = planned.json("plan", "rows.yaml", "--over", "rows.csv", "--limit", 5, "--show", "a", **KEY)
    assert (limited["requests"], limited["prompts"][4]["step"]) == (5, "row[4].a")
    unread = planned.json("plan", "rows.yaml", "--over", "-", **KEY)["steps"]["row"]
    assert (unread["requests"], unread["per_item"]["requests"]["high_once"]) == (None, 1)
    assert planned.cli("plan", "rows.yaml", "--over", "none.csv", **KEY).code == 2
    wrong = planned.cli("plan", "rows.yaml", "-i", "x=1", "--format", "csv", **KEY)
    assert (wrong.code, "--format belongs to --over" in wrong.err) == (2, True)
