from __future__ import annotations

import json

import pytest

from flowllm.explain.span import ANY, Span, Takes, all_of
from flowllm.explain.stand_in import MARK, Case, StandIns

TEN = Span(low=1, expected=10.0, high=10.0)
POSTS = {
    "type": "object",
    "properties": {
        "posts": {"type": "array", "items": {"$ref": "#/$defs/post"}, "minItems": 2, "maxItems": 4},
        "kind": {"enum": ["a", "longest"]},
        "score": {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 3}]},
        "good": {"type": ["boolean", "null"]},
    },
    "$defs": {"post": {"type": "object", "properties": {"title": {"type": "string"}, "text": {"type": "string"}}}},
}


def test_a_text_is_as_long_as_its_answer_wherever_it_is_copied_to() -> None:
    stand_ins = StandIns()
    text, *_ = stand_ins.text("a", TEN)
    other, *_ = stand_ins.text("b", ANY)
    found = stand_ins.measured(f"Say {text.upper()} and {json.dumps(text, ensure_ascii=False)}.")
    assert (found.text, found.likely, found.most) == ('Say  and "".', 20, 20)
    assert stand_ins.measured(f"{text}{other}").most is None
    assert stand_ins.measured("nothing of the kind \U00100007").most == 0


def test_an_answer_has_the_shape_of_its_schema_and_its_texts_share_its_tokens() -> None:
    stand_ins = StandIns()
    cases = stand_ins.answer("a", POSTS, Span(low=1, expected=100.0, high=100.0))
    assert [len(case["posts"]) for case in cases] == [2, 3, 4]
    most = cases[Case.MOST]
    assert (most["kind"], most["score"], most["good"]) == ("longest", 3, True)
    titles = "; ".join(post["title"] for post in most["posts"])
    assert stand_ins.measured(titles).most == 100, "all titles together are no longer than the answer"
    assert stand_ins.measured(titles * 3).most == 300
    likely = cases[Case.LIKELY]
    assert stand_ins.measured(json.dumps(likely, ensure_ascii=False)).likely == pytest.approx(71, abs=5)
    assert MARK.search(json.dumps(cases[Case.LEAST], ensure_ascii=False))


def test_a_list_without_an_end_is_bounded_by_the_tokens_of_its_answer() -> None:
    stand_ins = StandIns()
    words = {"type": "array", "items": {"type": "string"}}
    *_, most = stand_ins.answer("a", words, Span(low=1, expected=60.0, high=60.0))
    assert len(most) == 30
    *_, many = stand_ins.answer("b", words, Span(low=1, expected=2000.0, high=2000.0))
    found = stand_ins.measured(json.dumps(many, ensure_ascii=False))
    assert (len(many), found.stretch) == (200, 5.0)


def test_what_nothing_bounds_stays_unbounded_in_sums() -> None:
    sure = Takes(requests=Span.of(2), input_tokens=Span.of(30), output_tokens=Span.of(4), cost_usd=Span.of(0.5))
    open_end = Takes(requests=Span(low=1, expected=None, high=None), input_tokens=ANY, output_tokens=ANY, cost_usd=None)
    found = all_of([sure, open_end, Takes()])
    assert (found.requests.low, found.requests.high, found.cost_usd) == (3, None, None)
    assert all_of([sure, sure]).cost_usd == Span.of(1.0)
    assert open_end.times(Span.of(0)).requests == Span()
