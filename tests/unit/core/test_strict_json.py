from __future__ import annotations

import pytest

from flowllm.core.strict_json import json_in, without_reasoning

GOOD = '{"a": 1}'


def found(text: str) -> object:
    return json_in(text, fits=lambda value: isinstance(value, dict))


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"\ufeff{GOOD}",
        f'<think>\nIs it {{"a": 2}}?\n</think>\n\n{GOOD}',
        f"I should say one.\n</think>\n{GOOD}",
        f'Is it {{"a": 2}}? {{maybe}} </think>{GOOD}',
        f"<Reasoning>{{</Reasoning>{GOOD}",
        f"```json\n{GOOD}\n```",
        f"```json5\n{GOOD}\n```",
        f"Here, as you said in [1]:\n\n```json\n{GOOD}\n```\nAnything else?",
        f"{GOOD}\n\nNote: a is one.",
        f"Answer {{x}}: {GOOD}",
        f"{GOOD}{GOOD}",
        f'{GOOD} or {{ "a" : 1 }}',
        f"<think>x</think>```\n{GOOD}```",
        f'<think>x</think>\n<think>Is it {{"a": 2}}?</think>{GOOD}',
        f'[THINK]Is it {{"a": 2}}?[/THINK]{GOOD}',
        f'◁think▷Is it {{"a": 2}}?◁/think▷{GOOD}',
        f'<seed:think>Is it {{"a": 2}}?</seed:think>{GOOD}',
        f'<|channel|>analysis<|message|>{{"a": 2}}?<|end|><|start|>assistant<|channel|>final<|message|>{GOOD}<|return|>',
    ],
)
def test_one_json_value_is_found_whatever_stands_around_it(text: str) -> None:
    assert found(text) == {"a": 1}


def test_a_whole_text_that_is_json_is_not_looked_into() -> None:
    assert found('{"a": "<think>{}</think> ```json"}') == {"a": "<think>{}</think> ```json"}
    assert found('{"a": "x</think>y"} Done.') == {"a": "x</think>y"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (GOOD + '{"a": 2}', "differ"),
        ('{"a": 1} or {"a": 1.0}', "differ"),
        ('{"a": {"a": 1}', "Expecting"),
        ('Note {"b": {"a": 1}, oh', "Expecting"),
        ("<think>" + GOOD, "does not end"),
        ("<think>" + GOOD + "</think>", "no JSON"),
        (GOOD + "</think>\n", "no JSON"),
        ("Sure!", "Expecting"),
        ("[1] is all", "Extra data"),
        ("", "no JSON"),
        ('x {"a": 1e999}', "too large"),
        ("{" * 5000, "Expecting|brackets"),
        ("{ } " * 5000 + "x", "brackets"),
        ("[" * 100_000, "deep"),
    ],
)
def test_what_is_cut_or_several_is_none(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        found(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>hm</think>\n\nParis.", "Paris."),
        (" <THINK>\nhm\n</THINK>Paris.", "Paris."),
        ("hm\n</think>\nParis.", "Paris."),
        ("<think>hm</think>", ""),
        ("<think>hm</think><think>ha</think> Paris.", "Paris."),
        ("<|channel|>analysis<|message|>hm<|end|><|channel|>final<|message|>Paris.", "Paris."),
        ("<|channel|>analysis<|message|>hm", "<|channel|>analysis<|message|>hm"),
        ("<think>hm, Paris.", "<think>hm, Paris."),
        ("Close it with </think> at last.", "Close it with </think> at last."),
        ("Write <think>\nx\n</think>\nfirst.", "Write <think>\nx\n</think>\nfirst."),
        (" plain \n", " plain \n"),
    ],
)
def test_a_leading_block_of_reasoning_is_left_out(text: str, answer: str) -> None:
    assert without_reasoning(text) == answer
