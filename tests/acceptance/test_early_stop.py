"""Early stop: 100 items of one to two seconds, half of them good, ten wanted. All at once it costs 100 requests."""

from __future__ import annotations

import json
import random

import pytest

from tests.support.early_stop import ITEMS, WANTED, Figures, figures
from tests.support.project import Project
from tests.support.replies import Reply, prompt_of
from tests.support.server import Server

FEW, MANY = range(20), range(500)


def check_careful(seen: Figures) -> None:
    """overshoot 1.0: nothing that was accepted is thrown away."""
    assert (seen.thrown, seen.again, seen.wrong) == (0, 0, 0)
    assert seen.mean <= 23
    assert seen.p95 <= 35


def check_quick(seen: Figures, window: Figures) -> None:
    """overshoot 1.5: as quick as a window of 15, for a third fewer requests."""
    assert (seen.again, seen.wrong, window.wrong) == (0, 0, 0)
    assert seen.mean <= 26
    assert window.mean > 1.3 * seen.mean
    assert seen.run_s <= 1.1 * window.run_s


def test_overshoot_1_throws_no_accepted_answer_away() -> None:
    check_careful(figures(FEW, overshoot=1.0))


def test_overshoot_1_5_is_as_quick_as_a_window_of_15() -> None:
    check_quick(figures(FEW, overshoot=1.5), figures(FEW, overshoot=1000, window=15))


@pytest.mark.soak
def test_the_same_for_500_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    careful, quick = (figures(MANY, overshoot=overshoot) for overshoot in (1.0, 1.5))
    window = figures(MANY, overshoot=1000, window=15)
    with capsys.disabled():
        print(f"\novershoot 1.0: {careful}\novershoot 1.5: {quick}\na window of 15: {window}")
    check_careful(careful)
    check_quick(quick, window)


@pytest.mark.parametrize("overshoot", [1.0, 1.5])
@pytest.mark.parametrize("seed", range(2))
def test_over_http_the_choice_is_the_same_and_a_repeat_is_free(
    seed: int, overshoot: float, project: Project, server: Server
) -> None:
    draw = random.Random(seed)
    answers = {f"Good? {n}": (draw.random() < 0.5, 0.02 * (1 + draw.random())) for n in range(ITEMS)}

    def judge(body: dict, n: int) -> Reply:
        good, seconds = answers[prompt_of(body)]
        return Reply(text="yes" if good else "no", delay=seconds)

    server.script = judge
    good = [n for n in range(ITEMS) if answers[f"Good? {n}"][0]]
    accept = {"when": "{{ output == 'yes' }}", "count": WANTED, "overshoot": overshoot}
    file = project.flow(
        limits={"max_concurrent": 100},
        steps={"judge": {"foreach": "{{ range(100) | list }}", "prompt": "Good? {{ item }}", "accept": accept}},
        outputs={"counts": "{{ steps.judge.counts }}"},
    )
    first = project.json("run", file)
    sent = [int(seen.prompt.split()[-1]) for seen in server.requests]
    counts = first["outputs"]["counts"]
    assert counts["not_sent"] == ITEMS - len(sent)
    assert set(sent) >= set(good[:WANTED])
    if overshoot == 1.0:
        assert set(sent) & set(good) == set(good[:WANTED]), "an accepted answer was thrown away"
    (parts,) = project.rows("SELECT parts FROM nodes WHERE node_id = 'judge'")
    assert json.loads(parts[0])["chosen"] == good[:WANTED]
    again = project.json("run", file)
    assert len(server.requests) == len(sent)
    assert again["steps"]["judge"]["output"] == first["steps"]["judge"]["output"] == ["yes"] * WANTED
    (_, second) = project.rows("SELECT parts FROM nodes WHERE node_id = 'judge'")
    assert json.loads(second[0])["chosen"] == good[:WANTED]
