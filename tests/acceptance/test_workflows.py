"""The workflows that come with the repository, as a user runs them: offline, from its root and from elsewhere."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from flowllm.language.schema import workflow_schema
from tests.support.project import ROOT, Project

SHIPPED = sorted((ROOT / "workflows").glob("*.yaml"))
FANNED = {"factory": "posts", "reviews": "complaints", "catalogue": "entries"}
"""The step of each that has a foreach."""


@pytest.fixture
def root(tmp_path: Path) -> Project:
    """A copy of the repository, as far as it matters; no key, and no server."""
    shutil.copytree(ROOT / "workflows", tmp_path / "repository" / "workflows")
    return Project(tmp_path / "repository")


@pytest.fixture
def elsewhere(root: Project) -> Project:
    """A folder beside it."""
    folder = root.folder.parent / "elsewhere"
    folder.mkdir()
    return Project(folder)


def ran(project: Project, name: str, *options: object) -> Any:
    """What a run in a process of its own prints as JSON."""
    outcome = project.run("run", name, "--json", *options)
    assert outcome.code == 0, outcome.said
    assert "simulated answers" in outcome.err
    return outcome.json


def dataset(name: str) -> list[dict[str, str]]:
    with (ROOT / "workflows" / "data" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def saved(project: Project, folder: str, kind: str) -> dict[str, str]:
    """Every file of that kind below a folder: its path in it, and its text."""
    place = project.folder / folder
    return {str(path.relative_to(place)): path.read_text("utf-8") for path in place.rglob(f"*.{kind}")}


# --- what holds for all of them -------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_it_fits_the_schema_that_editors_use(path: Path) -> None:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(workflow_schema()).validate(document)
    assert document["name"] == path.stem
    assert document["description"]


def test_all_are_valid(root: Project) -> None:
    outcome = root.cli("validate", *(f"workflows/{path.name}" for path in SHIPPED))
    assert outcome.code == 0, outcome.said
    assert outcome.out.count(": ok\n") == len(SHIPPED)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_it_can_be_planned_beforehand(root: Project, path: Path) -> None:
    outcome = root.cli("plan", f"workflows/{path.name}")
    assert outcome.code == 0, outcome.said
    assert "error" not in outcome.out
    assert "sends    0 requests" not in outcome.out
    assert root.run_ids() == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_three_items_of_it_run_from_elsewhere(elsewhere: Project, path: Path) -> None:
    done = elsewhere.json("run", f"../repository/workflows/{path.name}", "--limit", 3)
    assert done["status"] == "succeeded"
    step = FANNED.get(path.stem)
    if step is not None:
        counts = done["steps"][step]["counts"]
        assert (counts["total"], counts["failed"]) == (3, 0)
    assert not list((elsewhere.folder.parent / "repository").rglob("*.db")), "nothing is written beside it"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_second_run_sends_nothing(root: Project, path: Path) -> None:
    first = root.json("run", f"workflows/{path.name}", "--limit", 3)
    again = root.json("run", f"workflows/{path.name}", "--limit", 3)
    assert first["requests"]["sent"] > 0
    assert again["requests"]["sent"] == 0
    assert again["outputs"] == first["outputs"]


# --- factory --------------------------------------------------------------------------------------------


def test_the_factory_writes_a_post_for_every_topic(root: Project) -> None:
    done = ran(root, "workflows/factory.yaml")
    topics = dataset("topics.csv")
    assert len(topics) == 12
    assert done["requests"]["sent"] == 4 * len(topics)
    assert done["outputs"]["written"] == len(topics)
    posts = saved(root, "posts", "md")
    assert len(posts) == len(topics)
    assert "growing-tea-at-home.md" in posts
    titles = [text.splitlines()[0].removeprefix("# ") for text in posts.values()]
    assert Counter(titles) == Counter(done["outputs"]["headlines"])
    assert all("*Keywords: " in text for text in posts.values())
    assert [one["topic"] for one in done["steps"]["posts"]["output"]] == [one["topic"] for one in topics]


def test_the_factory_writes_into_the_folder_that_it_is_run_in(elsewhere: Project) -> None:
    done = elsewhere.json("run", "../repository/workflows/factory.yaml", "--limit", 3)
    assert done["requests"]["sent"] == 12
    wanted = {"growing-tea-at-home.md", "repairing-old-radios.md", "baking-bread-with-rye.md"}
    assert set(saved(elsewhere, "posts", "md")) == wanted
    assert not (elsewhere.folder.parent / "repository" / "posts").exists()


def test_a_topic_that_is_added_costs_its_own_requests_alone(root: Project) -> None:
    root.json("run", "workflows/factory.yaml")
    file = root.folder / "workflows" / "data" / "topics.csv"
    head, *rows = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([head, *reversed(rows), "Boats in bottles,the patient", ""]), encoding="utf-8")
    done = root.json("run", "workflows/factory.yaml")
    assert done["requests"]["sent"] == 4
    assert done["outputs"]["written"] == 13
    assert "boats-in-bottles.md" in saved(root, "posts", "md")


# --- reviews --------------------------------------------------------------------------------------------


def test_the_reviews_stop_after_ten_complaints(root: Project) -> None:
    done = ran(root, "workflows/reviews.yaml")
    step = done["steps"]["complaints"]
    assert len(dataset("reviews.csv")) == 40
    assert len(step["output"]) == step["counts"]["accepted"] == 10
    assert all(one["complaint"] is True for one in step["output"])
    assert step["counts"]["not_sent"] > 0
    assert step["counts"]["total"] == 40
    assert done["outputs"]["read"] == 40 - step["counts"]["not_sent"]
    assert done["requests"]["sent"] == done["outputs"]["read"] + 1, "the summary is one more"
    assert set(done["outputs"]["areas"]) == {one["area"] for one in step["output"]}
    assert done["outputs"]["summary"]


def test_the_ten_are_the_same_whatever_the_concurrency(root: Project, elsewhere: Project) -> None:
    wide = root.json("run", "workflows/reviews.yaml", "--max-concurrent", 40)
    narrow = elsewhere.json("run", "../repository/workflows/reviews.yaml", "--max-concurrent", 1)
    assert wide["steps"]["complaints"]["output"] == narrow["steps"]["complaints"]["output"]


def test_fewer_complaints_can_be_wanted(root: Project) -> None:
    ten = root.json("run", "workflows/reviews.yaml")["steps"]["complaints"]
    two = root.json("run", "workflows/reviews.yaml", "-i", "wanted=2")
    assert two["steps"]["complaints"]["output"] == ten["output"][:2]
    assert two["requests"]["sent"] == 1, "what was read is read; only the summary is another"


def test_no_complaint_leaves_nothing_to_summarize(root: Project) -> None:
    praise = "id,product,text\n"
    (root.folder / "workflows" / "data" / "reviews.csv").write_text(praise, encoding="utf-8")
    done = root.json("run", "workflows/reviews.yaml")
    assert done["outputs"] == {"summary": None, "areas": [], "read": 0}
    assert done["requests"]["sent"] == 0


# --- catalogue ------------------------------------------------------------------------------------------


def test_the_catalogue_has_every_product_in_every_language(root: Project) -> None:
    done = ran(root, "workflows/catalogue.yaml")
    files = saved(root, "catalogue", "json")
    assert len(files) == 5 * 2
    assert {path.split("/")[0] for path in files} == {"english", "german"}
    entry = json.loads(files["german/reading-lamp.json"])
    assert (entry["name"], entry["language"]) == ("Reading lamp", "German")
    assert len(entry["tags"]) == 5
    assert done["requests"]["sent"] == 3 * 10 + 1
    order = [(one["name"], one["language"]) for one in done["steps"]["entries"]["output"]]
    assert order[:3] == [("Travel kettle", "English"), ("Travel kettle", "German"), ("Reading lamp", "English")]


def test_one_product_can_be_described_by_itself(root: Project) -> None:
    done = ran(root, "workflows/product.yaml", "-i", "name=Tin whistle", "-i", 'facts=["in D"]')
    assert done["requests"]["sent"] == 3
    assert done["outputs"]["name"] == "Tin whistle"
    assert done["outputs"]["language"] == "English"


# --- translate ------------------------------------------------------------------------------------------


def test_every_text_is_translated_on_a_line_of_its_own(root: Project) -> None:
    over = ("--over", "workflows/data/texts.csv", "--output", "translated.jsonl")
    done = ran(root, "workflows/translate.yaml", *over)
    texts = dataset("texts.csv")
    written = {line["index"]: line for line in lines(root.folder / "translated.jsonl")}
    assert sorted(written) == list(range(len(texts)))
    for index, text in enumerate(texts):
        assert written[index]["row"] == text
        assert written[index]["outputs"]["translation"]
    mended = sum(line["outputs"]["mended"] for line in written.values())
    assert 0 < mended < len(texts), "the simulated provider finds some right, and some wrong"
    assert done["requests"]["sent"] == 2 * len(texts) + mended


def test_the_first_three_texts_are_translated_in_their_order(elsewhere: Project) -> None:
    over = ("--over", "../repository/workflows/data/texts.csv", "--output", "three.jsonl", "--ordered")
    elsewhere.json("run", "../repository/workflows/translate.yaml", *over, "--limit", 3)
    written = lines(elsewhere.folder / "three.jsonl")
    assert [line["row"] for line in written] == dataset("texts.csv")[:3]


def test_an_input_that_holds_for_all_rows_is_given_once(root: Project) -> None:
    root.write("few.csv", "id,text\n7,Good morning\n8,Good night\n")
    over = ("--over", "few.csv", "--output", "welsh.jsonl", "--ordered")
    root.json("run", "workflows/translate.yaml", *over, "-i", "language=Welsh")
    written = lines(root.folder / "welsh.jsonl")
    assert [line["row"]["id"] for line in written] == ["7", "8"]
    asked = root.cli("show", "last", "row[1].draft").out
    assert 'Translate into Welsh, and answer with the translation alone:\n"Good night"\n' in asked


def test_one_text_is_translated_without_a_data_set(root: Project) -> None:
    done = ran(root, "workflows/translate.yaml", "-i", "text=Good morning", "-i", "language=Welsh")
    assert set(done["outputs"]) == {"translation", "mended"}
