from __future__ import annotations

import random
import re

import pytest

from flowllm.providers.simulated.text import Topic, matching, phrase, wanted_items, write

TOPIC = "The Evolution of Generative AI in Creative Writing"


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        (f"Write one compelling headline for a blog post about {TOPIC}.", TOPIC),
        (f'Write an introduction for a post titled "Beyond the Hype: {TOPIC}".', TOPIC),
        ("What is the capital of France?", "the capital of France"),
        ("Explain photosynthesis to a child", "photosynthesis to a child"),
        ("", "the question at hand"),
        ("?!", "the question at hand"),
    ],
)
def test_what_a_prompt_is_about(prompt: str, subject: str) -> None:
    assert Topic(prompt).phrase == subject


def test_terms_are_runs_of_words_that_mean_something() -> None:
    assert Topic(f"about {TOPIC}").terms == ["Evolution", "Generative AI", "Creative Writing"]


@pytest.mark.parametrize("seed", range(8))
def test_a_headline_is_one_line_with_its_subject(seed: int) -> None:
    text = write(f"Write one compelling headline for a blog post about {TOPIC}.", random.Random(seed))
    assert TOPIC in text
    assert "\n" not in text
    assert len(text) < 120


@pytest.mark.parametrize("seed", range(8))
def test_keywords_are_as_many_as_asked_and_all_different(seed: int) -> None:
    found = write(f"List ten SEO keywords for a blog post about {TOPIC}.", random.Random(seed)).split(", ")
    assert len(found) == len(set(found)) == 10
    assert any("creative writing" in keyword for keyword in found)


@pytest.mark.parametrize("seed", range(8))
def test_an_outline_has_its_sections_numbered(seed: int) -> None:
    prompt = (
        f'Outline the body of the post "{TOPIC}" in five sections. It opens like this:\nNot one of ten introductions.'
    )
    lines = write(prompt, random.Random(seed)).splitlines()
    assert [line[:2] for line in lines if not line.startswith(" ")] == ["1.", "2.", "3.", "4.", "5."]


@pytest.mark.parametrize(
    ("prompt", "start"),
    [
        ("Summarise this: tea is old.", "In short"),
        ("Judge the headline and give a score.", "Score: "),
        ("List three tips about tea", "1. "),
    ],
)
def test_other_kinds(prompt: str, start: str) -> None:
    assert write(prompt, random.Random(3)).startswith(start)


def test_a_quoted_title_does_not_choose_the_kind() -> None:
    text = write('Write an introduction for the post "Ten Keywords and a Headline".', random.Random(1))
    assert len(text) > 150


@pytest.mark.parametrize(
    "prompt",
    ["", "x", "{{7*7}} {phrase} {0}", "日本の歴史について書いてください", '"\ud800\ud800\ud800"', "a" * 100_000],
)
def test_any_prompt_gets_an_answer(prompt: str) -> None:
    assert len(write(prompt, random.Random(1))) > 20


def test_no_sentence_of_a_list_comes_twice() -> None:
    lines = write("List six ideas about tea", random.Random(1)).splitlines()
    assert len({line.split(". ", 1)[1] for line in lines}) == 6


@pytest.mark.parametrize(
    ("prompt", "number"), [("List ten things", 10), ("give 7", 7), ("one thing", None), ("in 2026", None), ("", None)]
)
def test_how_many_are_wanted(prompt: str, number: int | None) -> None:
    assert wanted_items(prompt) == number


def test_phrases_fit_the_property_s_name() -> None:
    topic, draw = Topic(f"about {TOPIC}"), random.Random(1)
    assert TOPIC in phrase(topic, draw, "title")
    assert len(phrase(topic, draw, "summary").split()) > 6
    assert phrase(topic, draw, "colour") in topic.terms


@pytest.mark.parametrize(
    "pattern",
    [
        "abc",
        "^[A-Z]{3}-\\d{4}$",
        "^(red|green|blue)$",
        "^a+b*c?d{2,}e{1,3}$",
        "^[^0-9]+$",
        "^\\w+\\s\\S+\\D\\W$",
        "^.{5}$",
        "^(ab)\\1$",
        "^(?:x|y)+?z$",
        "^[a-f0-9]{8}-[a-f0-9]{4}$",
        "^\\+?[1-9]\\d{1,14}$",
        "^#[\\da-fA-F]{6}$",
        "",
    ],
)
def test_the_pattern_is_found(pattern: str) -> None:
    for seed in range(30):
        assert re.search(pattern, matching(pattern, random.Random(seed)))


def test_a_pattern_that_cannot_be_read_gives_nothing() -> None:
    assert matching("(((", random.Random(1)) == ""
    assert matching("(?<name", random.Random(1)) == ""


def test_a_python_whose_parser_is_gone_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowllm.providers.simulated.text._PARSER", None)
    assert matching("a+", random.Random(1)) == ""
